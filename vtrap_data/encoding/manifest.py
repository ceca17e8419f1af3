"""Under which preprocessing were these numbers made? Saved with every checkpoint and every run, and compared."""

from __future__ import annotations

import hashlib
from typing import Any

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


def preprocessing(ref: ModelRef, processor: Any) -> dict[str, Any]:
    """The preprocessing manifest: everything between the stored frames and the model that can change a result."""
    return {
        "family": ref.family,
        "frame_rule": FRAMES_VERSION,
        "position_rule": POSITIONS_VERSION,
        "chat_template_sha256": hashlib.sha256(str(processor.chat_template).encode()).hexdigest(),
        "image_processor": _settings(processor.image_processor),
        "video_processor": _settings(processor.video_processor),
    }


def differences(a: dict[str, Any], b: dict[str, Any], *, prefix: str = "") -> list[str]:
    """Names of the settings in which two manifests differ, dotted, sorted."""
    found: list[str] = []
    for key in sorted(a.keys() | b.keys()):
        left, right = a.get(key), b.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            found += differences(left, right, prefix=f"{prefix}{key}.")
        elif left != right:
            found.append(f"{prefix}{key}: {left!r} != {right!r}")
    return found


def _settings(part: Any) -> dict[str, Any]:
    settings = part.to_dict()
    return {k: _plain(settings[k]) for k in _FIELDS if k in settings}


def _plain(value: Any) -> Any:
    if hasattr(value, "items"):
        return {k: v for k, v in value.items() if v is not None}
    return list(value) if isinstance(value, tuple) else value
