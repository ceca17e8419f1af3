"""The Qwen2.5-VL family: as Qwen2-VL, and the model is told how many seconds a step of the grid spans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vtrap_data.encoding import qwen2_vl
from vtrap_data.encoding.family import Family, Row
from vtrap_data.encoding.pixels import accept_bytes


def pixels(rows: Sequence[Row], processor: Any) -> dict[str, Tensor]:
    """As in Qwen2-VL, and second_per_grid_ts: float [videos]."""
    out = qwen2_vl.pixels(rows, processor)
    if "video_grid_thw" in out:
        out["second_per_grid_ts"] = torch.tensor([row.seconds_per_grid for row in rows if row.video is not None])
    return out


FAMILY = Family(
    name="qwen2_5_vl",
    processor="Qwen2_5_VLProcessor",
    image_tokens=qwen2_vl.image_tokens,
    video_tokens=qwen2_vl.video_tokens,
    pixels=pixels,
    dummy_side=qwen2_vl.dummy_side,
    install=qwen2_vl.install,
    accept_bytes=accept_bytes,
    frames_per_grid=qwen2_vl.frames_per_grid,
    frame_bounds=qwen2_vl.frame_bounds,
    token_types=True,
)
