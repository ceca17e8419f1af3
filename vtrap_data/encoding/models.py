"""Which model is meant by a name, and how is it loaded? Named models are data: a new one is a line."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from vtrap_data.encoding.positions import install_positions
from vtrap_data.errors import UsageError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, ProcessorMixin

Family = Literal["qwen2_5_vl"]

TOY_VL = Path(__file__).parent.parent / "toy_vl" / "checkpoint"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRef:
    """A model that can be loaded.

    Attributes:
        name: What the user typed.
        path: Hub id or local directory.
        family: Which encoding it uses.
        revision: Hub revision; None for a local directory or the default branch.
    """

    name: str
    path: str
    family: Family
    revision: str | None = None


NAMED: dict[str, ModelRef] = {
    "toy-vl": ModelRef(name="toy-vl", path=str(TOY_VL), family="qwen2_5_vl"),
    "qwen2.5-vl-3b": ModelRef(name="qwen2.5-vl-3b", path="Qwen/Qwen2.5-VL-3B-Instruct", family="qwen2_5_vl"),
    "qwen2.5-vl-7b": ModelRef(name="qwen2.5-vl-7b", path="Qwen/Qwen2.5-VL-7B-Instruct", family="qwen2_5_vl"),
    "qwen2.5-vl-32b": ModelRef(name="qwen2.5-vl-32b", path="Qwen/Qwen2.5-VL-32B-Instruct", family="qwen2_5_vl"),
    "qwen2.5-vl-72b": ModelRef(name="qwen2.5-vl-72b", path="Qwen/Qwen2.5-VL-72B-Instruct", family="qwen2_5_vl"),
}

_FAMILY_OF_MODEL_TYPE: dict[str, Family] = {"qwen2_5_vl": "qwen2_5_vl"}


def resolve(name_or_path: str) -> ModelRef:
    """Turn a short name, a local directory or a Hub id into a ModelRef.

    Raises:
        UsageError: If the name is unknown, or the model is of a family that has no encoding.
    """
    if name_or_path in NAMED:
        return NAMED[name_or_path]
    config = Path(name_or_path) / "config.json"
    if config.is_file():
        model_type = json.loads(config.read_text(encoding="utf-8")).get("model_type")
    elif Path(name_or_path).exists() or name_or_path.count("/") != 1 or name_or_path.startswith((".", "/", "~")):
        near = difflib.get_close_matches(name_or_path, NAMED, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UsageError(
            f"--model {name_or_path!r} is no named model ({', '.join(NAMED)}), no directory with a config.json, "
            f"and no Hub id of the form owner/name.{hint}"
        )
    else:
        from transformers import AutoConfig

        model_type = AutoConfig.from_pretrained(name_or_path).model_type
    family = _FAMILY_OF_MODEL_TYPE.get(str(model_type))
    if family is None:
        raise UsageError(
            f"--model {name_or_path!r} has model_type {model_type!r}; families with an encoding: "
            f"{', '.join(_FAMILY_OF_MODEL_TYPE)}"
        )
    return ModelRef(name=name_or_path, path=name_or_path, family=family)


def load_processor(ref: ModelRef) -> ProcessorMixin:
    """The processor (tokenizer, image and video processor) of a model, with the settings it was saved with."""
    from transformers import AutoProcessor

    processor: Any = AutoProcessor.from_pretrained(ref.path, revision=ref.revision, trust_remote_code=False)
    if processor.video_processor.cap_pixels_per_frame is None:
        # The default is about to change in transformers; say what is meant: the reference implementation's bound.
        processor.video_processor.cap_pixels_per_frame = True
    return cast("ProcessorMixin", processor)


def load_model(
    ref: ModelRef, *, dtype: torch.dtype | None = None, attn_implementation: str = "sdpa"
) -> PreTrainedModel:
    """The model with the original position rule installed.

    Args:
        ref: From `resolve`.
        dtype: Of the weights; None keeps the dtype they were saved in.
        attn_implementation: As in transformers.
    """
    from transformers import AutoModelForImageTextToText

    model: Any = AutoModelForImageTextToText.from_pretrained(
        ref.path,
        revision=ref.revision,
        dtype="auto" if dtype is None else dtype,
        attn_implementation=attn_implementation,
        trust_remote_code=False,
        use_safetensors=True,
    )
    install_positions(model)
    return cast("PreTrainedModel", model)
