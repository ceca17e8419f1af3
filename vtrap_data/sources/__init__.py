"""What samples exist? (LLaVA/ShareGPT-style JSONL, named corpora, benchmarks, real media, toyworld)."""
