"""What samples exist? (LLaVA/ShareGPT-style JSONL, toyworld)."""
