"""Under which preprocessing were these numbers made? Saved with every checkpoint and every run, and compared."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from vtrap_data.encoding.families import FAMILIES
from vtrap_data.encoding.models import ModelRef
from vtrap_data.encoding.positions import POSITIONS_VERSION
from vtrap_data.media.select import FRAMES_VERSION

_FIELDS = (
    "patch_size",
    "temporal_patch_size",
    "merge_size",
    "size",
    "image_mean",
    "image_std",
    "rescale_factor",
    "resample",
    "do_resize",
    "do_normalize",
    "cap_pixels_per_frame",
    "max_video_tokens",
)
# Those that only some families have: recorded where they are set.
_MORE_FIELDS = ("crop_size", "do_center_crop", "do_pad", "image_grid_pinpoints")
_OF_PROCESSOR = (
    "patch_size",
    "num_additional_image_tokens",
    "num_image_tokens",
    "vision_feature_select_strategy",
    "vision_aspect_ratio",
)


def preprocessing(ref: ModelRef, processor: Any) -> dict[str, Any]:
    """The preprocessing manifest: everything between the stored frames and the model that can change a result."""
    return {
        "family": ref.family,
        "frame_rule": FRAMES_VERSION,
        "position_rule": POSITIONS_VERSION,
        "chat_template_sha256": hashlib.sha256(str(processor.chat_template).encode()).hexdigest(),
        **{f"{name}_processor": _settings(part) for name, part in _parts(processor)},
        **{name: value for name in _OF_PROCESSOR if (value := getattr(processor, name, None)) is not None},
        **FAMILIES[ref.family].rules,
    }


class Difference(NamedTuple):
    """A setting that two manifests do not share: its name, dotted, and what it is in each; None where it is not."""

    name: str
    left: Any
    right: Any


def unequal(a: Mapping[str, Any], b: Mapping[str, Any], *, prefix: str = "") -> list[Difference]:
    """The settings in which two manifests differ, sorted by name."""
    found: list[Difference] = []
    for key in sorted(a.keys() | b.keys()):
        left, right = a.get(key), b.get(key)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            found += unequal(left, right, prefix=f"{prefix}{key}.")
        elif left != right:
            found.append(Difference(f"{prefix}{key}", left, right))
    return found


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """The same, each as "image_processor.size.longest_edge: 4096 != 8192"."""
    return [f"{one.name}: {one.left!r} != {one.right!r}" for one in unequal(a, b)]


def _settings(part: Any) -> dict[str, Any]:
    settings = part.to_dict()
    found = {k: _plain(settings[k]) for k in _FIELDS if k in settings}
    return found | {k: _plain(settings[k]) for k in _MORE_FIELDS if settings.get(k) is not None}


def _parts(processor: Any) -> list[tuple[str, Any]]:
    """The image processor, and the video processor of families that have one."""
    names = [name for name in ("image", "video") if f"{name}_processor" in processor.get_attributes()]
    return [(name, getattr(processor, f"{name}_processor")) for name in names]


def _plain(value: Any) -> Any:
    if hasattr(value, "items"):
        return {k: v for k, v in value.items() if v is not None}
    return list(value) if isinstance(value, tuple) else value
