"""The Qwen3-VL family: a video is a row of small pictures, each with its time written before it.

    <0.5 seconds><|vision_start|> tokens of frames 1 and 2 <|vision_end|><2.5 seconds><|vision_start|> ...

The processor that was released with the models (transformers 4.57, by the Qwen team) writes this in place of the chat
template's `<|vision_start|><|video_pad|><|vision_end|>`. Since 5.10 transformers replaces the pad alone, so that a
second pair of marks stands around the whole video. Here it is written as released; docs/models.md says more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from vtrap_data.encoding import qwen2_vl
from vtrap_data.encoding.family import Bounds, Family, Row, Shown
from vtrap_data.encoding.patches import filled
from vtrap_data.encoding.pixels import accept_bytes
from vtrap_data.encoding.qwen2_vl import Grid
from vtrap_data.media.size import Size


def video_grid(frames: int, size: Size, processor: Any) -> Grid:
    """Grid of a video of `frames` frames. The pixel bounds are those of the whole video, not of a frame."""
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize

    p = processor.video_processor
    frames = max(frames, p.temporal_patch_size)
    h, w = smart_resize(
        frames,
        size.height,
        size.width,
        temporal_factor=p.temporal_patch_size,
        factor=p.patch_size * p.merge_size,
        min_pixels=p.size["shortest_edge"],
        max_pixels=_max_pixels(frames, p),
    )
    return Grid(-(-frames // p.temporal_patch_size), h // p.patch_size, w // p.patch_size)


def frame_bounds(frames: int, processor: Any) -> Bounds:
    """Of the frames of a video of `frames` frames. With fewer the least is larger: it is the whole video's."""
    p = processor.video_processor
    step = p.temporal_patch_size
    frames = max(frames, step)
    # `smart_resize` counts an odd number of frames now as one more, now as one less.
    fewer, more = frames // step * step, -(-frames // step) * step
    return Bounds(p.patch_size * p.merge_size, -(-p.size["shortest_edge"] // fewer), _max_pixels(frames, p) // more)


def _max_pixels(frames: int, p: Any) -> int:
    """Of all frames together."""
    most = int(p.size["longest_edge"])
    if p.cap_pixels_per_frame:
        # The bound of qwen-vl-utils: a frame has at most an even share of the video's pixels, and its own ceiling.
        share = min(p.max_video_tokens * (p.patch_size * p.merge_size) ** 2, most // frames)
        most = max(share, int(p.size["shortest_edge"] * 1.05)) * frames
    return most


def video_tokens(shown: Shown, processor: Any) -> list[int]:
    """Tokens of each step of the video's grid: each has a placeholder of its own."""
    if not shown.frames:
        return []
    grid = video_grid(shown.frames, shown.frame_size, processor)
    return [grid._replace(t=1).tokens(processor.video_processor.merge_size)] * grid.t


def spell(text: str, shown: Shown, processor: Any) -> str:
    """Write the times of the video out, with a placeholder for each step of its grid.

    A step's time is the mean of its first and last frame's. An odd last frame counts twice, as it is shown twice.
    """
    if not shown.frames:
        return text
    step = processor.video_processor.temporal_patch_size
    times = list(shown.times)
    times += [times[-1]] * (-len(times) % step)
    block = f"{processor.vision_start_token}{processor.video_token}{processor.vision_end_token}"
    written = "".join(
        f"<{(times[i] + times[i + step - 1]) / 2:.1f} seconds>{block}" for i in range(0, len(times), step)
    )
    return text.replace(block, written)


def pixels(rows: Sequence[Row], processor: Any) -> dict[str, Tensor]:
    """As in Qwen2-VL. A single frame is shown twice: the stock processor refuses fewer than fill a step."""
    step = processor.video_processor.temporal_patch_size
    whole = [row if row.video is None else row._replace(video=filled(row.video, step)) for row in rows]
    return qwen2_vl.pixels(whole, processor, grid=video_grid)


FAMILY = Family(
    name="qwen3_vl",
    processor="Qwen3VLProcessor",
    image_tokens=qwen2_vl.image_tokens,
    video_tokens=video_tokens,
    pixels=pixels,
    dummy_side=qwen2_vl.dummy_side,
    spell=spell,
    install=qwen2_vl.install,
    accept_bytes=accept_bytes,
    frames_per_grid=qwen2_vl.frames_per_grid,
    frame_bounds=frame_bounds,
    token_types=True,
    rules={"video_marks": "a pair around each step, none around the video"},
)
