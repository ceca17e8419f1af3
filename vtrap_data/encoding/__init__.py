"""How does a sample become a model's inputs? The only place that makes tokens, pixels, position ids and labels.

Trainer, benchmark and planner all call the same few functions, whatever the family of the model is (docs/models.md):

    encoded = encode(example, processor, train=True)     # tokens and labels; frames still uint8
    batch = collate([encoded, ...], processor)           # tensors, padded, pixels normalised (or bytes: `as_bytes`)
    install(model)                                       # position ids by the rule the checkpoints were trained with
    accept_bytes(model, processor)                       # bytes become numbers on the model's device
    token_cost(messages, shown, processor)               # how long it will be, from sizes alone
"""

from vtrap_data.encoding.batch import collate
from vtrap_data.encoding.cost import Cost, token_cost, visual_tokens
from vtrap_data.encoding.families import accept_bytes, family_of, install
from vtrap_data.encoding.family import Shown
from vtrap_data.encoding.fit import fit_of
from vtrap_data.encoding.manifest import preprocessing
from vtrap_data.encoding.models import ModelRef, load_config, load_model, load_processor, resolve
from vtrap_data.encoding.positions import install_positions
from vtrap_data.encoding.tokens import Encoded, blank, encode, shown
from vtrap_data.encoding.turns import join
from vtrap_data.media.size import Size

__all__ = [
    "Cost",
    "Encoded",
    "ModelRef",
    "Shown",
    "Size",
    "accept_bytes",
    "blank",
    "collate",
    "encode",
    "family_of",
    "fit_of",
    "install",
    "install_positions",
    "join",
    "load_config",
    "load_model",
    "load_processor",
    "preprocessing",
    "resolve",
    "shown",
    "token_cost",
    "visual_tokens",
]
