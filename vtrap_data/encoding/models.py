"""Which model is meant by a name, and how is it loaded? Named models are data: a new one is a line."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from huggingface_hub.errors import LocalEntryNotFoundError, StrictDataclassError

from hub_cards.errors import one_line
from hub_cards.reachable import unreachable
from vtrap_data.encoding import llava_next_video
from vtrap_data.encoding.families import FAMILIES, family_of
from vtrap_data.encoding.family import FamilyName
from vtrap_data.errors import UsageError, storage_full
from vtrap_data.json_object import read_json_object

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, ProcessorMixin

TOY_VL = Path(__file__).parent.parent / "toy_vl" / "checkpoint"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRef:
    """A model that can be loaded.

    Attributes:
        name: Short name of a named model, of others what the user typed.
        path: Hub id or local directory.
        family: Which encoding it uses.
        revision: Commit on the Hub; None for a local directory or the default branch. Those of `NAMED` are pinned by
            public code or stand in public records of downloads; they were not read off the Hub itself.
    """

    name: str
    path: str
    family: FamilyName
    revision: str | None = None


_HUB: tuple[tuple[str, FamilyName, str, str | None], ...] = (
    ("qwen2-vl-2b", "qwen2_vl", "Qwen/Qwen2-VL-2B-Instruct", "895c3a49bc3fa70a340399125c650a463535e71c"),
    ("qwen2-vl-7b", "qwen2_vl", "Qwen/Qwen2-VL-7B-Instruct", "eed13092ef92e448dd6875b2a00151bd3f7db0ac"),
    ("qwen2.5-vl-3b", "qwen2_5_vl", "Qwen/Qwen2.5-VL-3B-Instruct", "66285546d2b821cf421d4f5eb2576359d3770cd3"),
    ("qwen2.5-vl-7b", "qwen2_5_vl", "Qwen/Qwen2.5-VL-7B-Instruct", "cc594898137f460bfe9f0759e9844b3ce807cfb5"),
    ("qwen2.5-vl-32b", "qwen2_5_vl", "Qwen/Qwen2.5-VL-32B-Instruct", "7cfb30d71a1f4f49a57592323337a4a4727301da"),
    ("qwen2.5-vl-72b", "qwen2_5_vl", "Qwen/Qwen2.5-VL-72B-Instruct", "89c86200743eec961a297729e7990e8f2ddbc4c5"),
    ("qwen3-vl-2b", "qwen3_vl", "Qwen/Qwen3-VL-2B-Instruct", "89644892e4d85e24eaac8bacfd4f463576704203"),
    ("qwen3-vl-4b", "qwen3_vl", "Qwen/Qwen3-VL-4B-Instruct", "ebb281ec70b05090aa6165b016eac8ec08e71b17"),
    ("qwen3-vl-8b", "qwen3_vl", "Qwen/Qwen3-VL-8B-Instruct", "0c351dd01ed87e9c1b53cbc748cba10e6187ff3b"),
    ("qwen3-vl-32b", "qwen3_vl", "Qwen/Qwen3-VL-32B-Instruct", "0cfaf48183f594c314753d30a4c4974bc75f3ccb"),
    ("llava-1.5-7b", "llava", "llava-hf/llava-1.5-7b-hf", "b234b804b114d9e37bb655e11cbbb5f5e971b7a9"),
    ("llava-1.5-13b", "llava", "llava-hf/llava-1.5-13b-hf", "5dda2880bda009266dda7c4baff660b95ca64540"),
    ("llava-next-video-7b", "llava_next_video", "llava-hf/LLaVA-NeXT-Video-7B-hf", None),
    (
        "llava-onevision-0.5b",
        "llava_onevision",
        "llava-hf/llava-onevision-qwen2-0.5b-ov-hf",
        "74dd0bf867a4cda7950c17663794267c60cf4b40",
    ),
    (
        "llava-onevision-7b",
        "llava_onevision",
        "llava-hf/llava-onevision-qwen2-7b-ov-hf",
        "0d50680527681998e456c7b78950205bedd8a068",
    ),
)
"""Name, family, Hub id, revision: a new model is a line."""

NAMED: dict[str, ModelRef] = {
    "toy-vl": ModelRef(name="toy-vl", path=str(TOY_VL), family="qwen2_5_vl"),
    **{n: ModelRef(name=n, path=path, family=family, revision=rev) for n, family, path, rev in _HUB},
}
_NAME_OF = {path: name for name, _, path, _ in _HUB}


class Place(NamedTuple):
    """A name or Hub id, and the revision that was asked for with it."""

    name: str
    revision: str | None


def split_revision(name: str) -> Place:
    """Take `@REVISION` off a name or a Hub id.

    >>> split_revision("Qwen/Qwen2-VL-2B-Instruct@main"), split_revision("toy-vl@")
    (Place(name='Qwen/Qwen2-VL-2B-Instruct', revision='main'), Place(name='toy-vl', revision=None))
    """
    before, _, revision = name.partition("@")
    return Place(before, revision or None)


def named(name_or_path: str) -> ModelRef | None:
    """The entry of `NAMED` that is meant, if one is, by its short name or its Hub id; `@REVISION` takes another one.

    >>> named("Qwen/Qwen2.5-VL-7B-Instruct") == named("qwen2.5-vl-7b") == NAMED["qwen2.5-vl-7b"]
    True
    >>> named("qwen2.5-vl-7b@main").revision, named("somebody/else")
    ('main', None)
    """
    if name_or_path in NAMED:
        return NAMED[name_or_path]
    name, revision = split_revision(name_or_path)
    name = _NAME_OF.get(name, name)
    if name not in _NAME_OF.values() or Path(name_or_path).exists():  # what lies there is meant, as it is
        return None
    return replace(NAMED[name], revision=revision) if revision else NAMED[name]


def resolve(name_or_path: str) -> ModelRef:
    """Turn a short name, a local directory or a Hub id into a ModelRef. `@REVISION` may follow a name or an id.

    Raises:
        UsageError: If the name is unknown, or the model is of a family that has no encoding.
    """
    if (entry := named(name_or_path)) is not None:
        return entry
    path, revision = name_or_path, None
    config = Path(name_or_path) / "config.json"
    if config.is_file():
        model_type = read_json_object(config, "it is a model's: --model DIR").get("model_type")
    elif (
        Path(name_or_path).exists()
        or split_revision(name_or_path).name.count("/") != 1
        or name_or_path.startswith((".", "/", "~"))
    ):
        near = difflib.get_close_matches(name_or_path, NAMED, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UsageError(
            f"--model {name_or_path!r} is no named model ({', '.join(NAMED)}), no directory with a config.json, "
            f"and no Hub id of the form owner/name.{hint}"
        )
    else:
        path, revision = split_revision(name_or_path)
        model_type = _config(path, revision=revision, name=name_or_path).model_type
    if model_type not in FAMILIES:
        raise UsageError(
            f"--model {name_or_path!r} has model_type {model_type!r}; families with an encoding: {', '.join(FAMILIES)}"
        )
    return ModelRef(name=name_or_path, path=path, family=model_type, revision=revision)


def load_config(ref: ModelRef) -> Any:
    """The configuration of a model (a `PretrainedConfig` of transformers).

    Raises:
        UsageError: It cannot be had, or is none.
    """
    return _config(ref.path, revision=ref.revision, name=ref.name)


def _config(path: str, *, revision: str | None, name: str) -> Any:
    from transformers import AutoConfig

    with _where(name, path, revision) as where:
        return AutoConfig.from_pretrained(path, **where)


@contextmanager
def _where(name: str, path: str, revision: str | None) -> Iterator[dict[str, Any]]:
    """What every `from_pretrained` is told of where to look.

    What the libraries say where files of a model are missing or damaged becomes a UsageError that says what to do.
    """
    away = None if Path(path).is_dir() else unreachable()
    try:
        # False, not the default: that would ask on a terminal whether code of the repository may run.
        yield {"revision": revision, "local_files_only": away is not None, "trust_remote_code": False}
    except (OSError, ValueError, StrictDataclassError) as error:
        if storage_full(error):
            raise
        what, advice = one_line(error), without_network(path, revision)
        if Path(path).is_dir():
            advice = "a folder must hold what save_pretrained writes, of the model and of its processor"
        if away is not None and isinstance(error.__cause__, LocalEntryNotFoundError):
            what = f"{away}, and not all of its files are on this machine"
        if name.split("@")[0] == path and not Path(path).is_dir():  # what was typed, which may be a folder's name
            what = f"it is no folder here, and as a Hub id: {what}"
        raise UsageError(f"--model {name!r} cannot be used ({what}): {advice}") from error


def without_network(path: str, revision: str | None) -> str:
    """What can be done where the Hub cannot be reached."""
    fetch = f"hf download {path}" if revision is None else f"hf download {path} --revision {revision}"
    return f"where there is no network, name a folder that holds it, or have it there already: {fetch}"


def load_processor(ref: ModelRef) -> ProcessorMixin:
    """The processor (tokenizer, image and video processor) of a model, with the settings it was saved with.

    Raises:
        UsageError: It cannot be had, or is that of another family.
    """
    from transformers import AutoProcessor

    processor: Any
    with _where(ref.name, ref.path, ref.revision) as where:
        if ref.family == "llava_next_video":
            processor = llava_next_video.load_processor(ref.path, **where)
        else:
            processor = AutoProcessor.from_pretrained(ref.path, **where)
    family = family_of(processor)
    if family.name != ref.family:
        raise UsageError(
            f"--model {ref.name!r} is a {ref.family} model with the processor of {family.name} "
            f"({type(processor).__name__}): mend processor_class in its processor_config.json"
        )
    if family.name.startswith("qwen") and processor.video_processor.cap_pixels_per_frame is None:
        # The default is about to change in transformers; say what is meant: the reference implementation's bound.
        processor.video_processor.cap_pixels_per_frame = True
    if family.name in ("llava", "llava_next_video") and processor.patch_size is None:
        raise UsageError(
            f"--model {ref.name!r}: its processor_config.json lacks patch_size, num_additional_image_tokens and "
            "vision_feature_select_strategy, as old revisions do: take a newer one"
        )
    return cast("ProcessorMixin", processor)


def load_model(
    ref: ModelRef, *, dtype: torch.dtype | None = None, attn_implementation: str = "sdpa", quantization: Any = None
) -> PreTrainedModel:
    """The model, with what transformers gets wrong in its family put right (`encoding.install`).

    Args:
        ref: From `resolve`.
        dtype: Of the weights; None keeps the dtype they were saved in.
        attn_implementation: As in transformers.
        quantization: `quantization_config` of transformers; None: the weights as they are.

    Raises:
        UsageError: Its weights cannot be had.
    """
    from transformers import AutoModelForImageTextToText

    model: Any
    with _where(ref.name, ref.path, ref.revision) as where:
        model = AutoModelForImageTextToText.from_pretrained(
            ref.path,
            **where,
            dtype="auto" if dtype is None else dtype,
            attn_implementation=attn_implementation,
            quantization_config=quantization,
            use_safetensors=True,
        )
    FAMILIES[ref.family].install(model)
    return cast("PreTrainedModel", model)
