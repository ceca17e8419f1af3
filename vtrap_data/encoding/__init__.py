"""How does a sample become a model's inputs? The only place that makes tokens, pixels, position ids and labels.

Trainer, benchmark and planner all call the same three functions:

    encoded = encode(example, processor, train=True)     # tokens and labels; frames still uint8
    batch = collate([encoded, ...], processor)           # tensors, padded, pixels normalised
    install_positions(model)                             # position ids by the rule the checkpoints were trained with
"""

from vtrap_data.encoding.manifest import preprocessing
from vtrap_data.encoding.models import ModelRef, load_model, load_processor, resolve
from vtrap_data.encoding.positions import install_positions
from vtrap_data.encoding.qwen2_5_vl import Encoded, collate, encode

__all__ = [
    "Encoded",
    "ModelRef",
    "collate",
    "encode",
    "install_positions",
    "load_model",
    "load_processor",
    "preprocessing",
    "resolve",
]
