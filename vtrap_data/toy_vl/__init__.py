"""toy-vl: a real Qwen2.5-VL of about 1.4 million parameters for the synthetic toy world.

`build.py` makes one from nothing; `checkpoint/` holds the trained base, made by `scripts/train_toy_base.py`.
"""
