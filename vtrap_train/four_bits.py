"""How is a base model stored in four bits, for QLoRA? Through bitsandbytes, where the platform has it."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch

from vtrap_data.encoding import ModelRef, load_model
from vtrap_data.errors import UsageError

KEPT = ("visual", "vision_tower", "multi_modal_projector", "lm_head")
"""Modules whose linear layers stay as they are, in 32 bits."""


def goes_with(setup: str) -> bool:
    """Whether it can be shared out like this, one of `memory.SETUPS`.

    ZeRO-3 shares out weights by their number of elements, and each byte of these holds two.
    """
    return not setup.startswith("zero3")


def check_goes_with(setup: str) -> None:
    """Raise UsageError if `goes_with` says no."""
    if not goes_with(setup):
        raise UsageError(
            "--lora_4bit does not go with ZeRO-3, which --deepspeed or a YAML file asks for: use --deepspeed zero2 "
            "(every GPU holds the base in four bits) or none, or leave --lora_4bit out"
        )


def in_four_bits(model: Any) -> list[Any]:
    """The linear layers that are stored in four bits, or would be."""
    linear = [(name, module) for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    return [module for name, module in linear if not set(KEPT) & set(name.split("."))]


def load_in_four_bits(ref: ModelRef, *, dtype: torch.dtype, attn_implementation: str) -> Any:
    """The model with the linear layers of its language model in four bits (NF4, double quantisation).

    Vision tower, projector and embeddings stay as they are: they are a small part, and adapters may go there too.
    Source of the recipe: QLoRA, arXiv 2305.14314.

    Args:
        ref: From `encoding.resolve`.
        dtype: Of everything else, and of the arithmetic.
        attn_implementation: As in transformers.

    Raises:
        UsageError: bitsandbytes is missing or cannot be used here, ZeRO-3 is on, or the weights cannot be had.
    """
    if find_spec("bitsandbytes") is None:
        raise UsageError(
            "--lora_4bit needs bitsandbytes, which is not installed: `pip install bitsandbytes` (Linux and Windows, "
            "x86-64 and ARM), or leave --lora_4bit out: LoRA alone keeps the base in bfloat16"
        )
    from peft import prepare_model_for_kbit_training
    from transformers import BitsAndBytesConfig
    from transformers.integrations import is_deepspeed_zero3_enabled

    if is_deepspeed_zero3_enabled():
        check_goes_with("zero3")
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        # Read as regular expressions for the beginning of a whole name: a bare `visual` would not be found in it.
        llm_int8_skip_modules=[rf"(?:.*\.)?{name}" for name in KEPT],
    )
    try:
        model = load_model(ref, dtype=dtype, attn_implementation=attn_implementation, quantization=settings)
    except (ImportError, RuntimeError) as error:
        raise UsageError(f"--lora_4bit is not possible here: {' '.join(str(error).split())[:300]}") from error
    # Gradient checkpointing is the trainer's to switch on.
    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
