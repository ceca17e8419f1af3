"""How is a corpus stored, indexed and checked? (pack, index, manifest, doctor, reallocate, preview, stats)."""
