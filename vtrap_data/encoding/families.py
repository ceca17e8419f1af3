"""Which family does a processor or a model belong to? The table of all of them."""

from __future__ import annotations

from typing import Any

from vtrap_data.encoding import llava, llava_next_video, llava_onevision, qwen2_5_vl, qwen2_vl, qwen3_vl
from vtrap_data.encoding.family import Family, FamilyName
from vtrap_data.errors import UsageError

FAMILIES: dict[FamilyName, Family] = {
    family.name: family
    for family in (
        qwen2_vl.FAMILY,
        qwen2_5_vl.FAMILY,
        qwen3_vl.FAMILY,
        llava.FAMILY,
        llava_next_video.FAMILY,
        llava_onevision.FAMILY,
    )
}
_OF_PROCESSOR = {family.processor: family for family in FAMILIES.values()}


def family_of(processor: Any) -> Family:
    """The family of a Hugging Face processor. Raises UsageError if it has no encoding."""
    name = type(processor).__name__
    if name not in _OF_PROCESSOR:
        raise UsageError(f"a {name} has no encoding; there is one for {', '.join(_OF_PROCESSOR)}")
    return _OF_PROCESSOR[name]


def install(model: Any) -> None:
    """Change what transformers gets wrong in `model`: see docs/models.md for what that is in each family.

    Raises:
        UsageError: The model is of a family that has no encoding.
    """
    kind = model.config.model_type
    if kind not in FAMILIES:
        raise UsageError(f"model_type {kind!r} has no encoding; families that have one: {', '.join(FAMILIES)}")
    FAMILIES[kind].install(model)


def accept_bytes(model: Any, processor: Any) -> None:
    """Make `model` take batches of `collate(..., as_bytes=True)`, and still those of numbers.

    In the Qwen families it then turns the bytes into numbers on its own device, to the bit as the processor does. In
    the others pixels are numbers from the beginning. Neither parameters, buffers nor the configuration change.

    Args:
        model: Which `install` or `load_model` has seen, not yet wrapped by PEFT, DDP or DeepSpeed.
        processor: That the batches are made with.
    """
    family_of(processor).accept_bytes(model, processor)
