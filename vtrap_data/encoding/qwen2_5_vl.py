"""The Qwen2.5-VL family: from an Example to tokens, labels, pixels.

`encode` works on one sample and needs no pixels: token counts follow from sizes. `collate` pads a batch and lets the
family's own image and video processors turn all of its frames into patches in one call each, which is many times
cheaper than a call per sample; it checks that the grids are the ones the tokens were laid out for.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from vtrap_data.encoding.cost import Grid, image_grid, video_grid
from vtrap_data.errors import Reason, SampleError
from vtrap_data.samples import IMAGE_MARK, VIDEO_MARK, Example, Message

IGNORE = -100
"""Label of tokens that carry no loss."""

_MARKS = re.compile(f"({re.escape(VIDEO_MARK)}|{re.escape(IMAGE_MARK)})")
Modality = Literal["image", "video"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """One sample, ready to be batched.

    Attributes:
        id: Item id.
        source: Corpus it comes from.
        kind: "video", "images" or "text".
        input_ids: int64 [length].
        labels: int64 [length]; -100 where no loss is taken.
        token_types: int64 [length]; 0 text, 1 image, 2 video.
        images: uint8 [3, height, width] each, in order of appearance.
        video: uint8 [frames, 3, height, width] or None.
        seconds_per_grid: Seconds between temporal grid steps of the video, from the frames actually used.
        grids: Of the images or of the video, in order of appearance.
        visual_tokens: Tokens that stand for pixels.
    """

    id: str
    source: str
    kind: str
    input_ids: Tensor
    labels: Tensor
    token_types: Tensor
    images: tuple[Tensor, ...]
    video: Tensor | None
    seconds_per_grid: float
    grids: tuple[Grid, ...]
    visual_tokens: int


def encode(example: Example, processor: Any, *, train: bool, max_length: int | None = None) -> Encoded:
    """Turn one sample into tokens and labels.

    Args:
        example: With its frames or images decoded.
        processor: The family's own processor, as saved with the model.
        train: True: all turns, labels on the assistant's. False: turns up to and including the last user turn, then
            the prompt for the assistant.
        max_length: Ceiling in tokens. Vision tokens are never truncated.

    Raises:
        SampleError: TOO_LONG over the ceiling; BAD_ROW if there is nothing to learn or marks and media do not match.
    """
    item = example.item
    tokenizer = processor.tokenizer
    messages = _chat(item.messages if train else _prompt(item.messages))
    text = _render(processor, messages, prompt=not train)
    spans = _assistant_spans(processor, messages, text, sample=item.id) if train else []
    coded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)

    grids: list[Grid] = []
    if example.frames is not None:
        first = example.frames.images[0]
        grids.append(video_grid(len(example.frames), first.width, first.height, processor))
    grids += [image_grid(i.width, i.height, processor) for i in example.images]
    queue = iter(grids)
    merge = processor.image_processor.merge_size

    ids: list[int] = []
    labels: list[int] = []
    types: list[int] = []
    media_type = {processor.image_token_id: 1, processor.video_token_id: 2}
    span = iter(spans)
    begin, end = next(span, (len(text), len(text)))
    for token, (left, right) in zip(coded["input_ids"], coded["offset_mapping"], strict=True):
        while left >= end and begin < len(text):
            begin, end = next(span, (len(text), len(text)))
        kind = media_type.get(token, 0)
        grid = next(queue, None) if kind else None
        if kind and grid is None:
            raise SampleError(item.id, Reason.BAD_ROW, f"more media marks than the {len(grids)} media it has")
        count = 1 if grid is None else grid.tokens(merge)
        ids += [token] * count
        types += [kind] * count
        labels += [token if not kind and begin <= left and right <= end else IGNORE] * count
    if next(queue, None) is not None:
        raise SampleError(item.id, Reason.BAD_ROW, f"fewer media marks than the {len(grids)} media it has")
    if train and all(label == IGNORE for label in labels):
        raise SampleError(item.id, Reason.BAD_ROW, "no assistant text to learn from")
    visual = sum(kind > 0 for kind in types)
    if max_length is not None and len(ids) > max_length:
        raise SampleError(
            item.id,
            Reason.TOO_LONG,
            f"{len(ids)} tokens ({visual} of them visual) are more than the ceiling of {max_length}: raise "
            "--max_tokens, or use fewer frames (--frames, or pack with a smaller --mean-frames)",
        )
    return Encoded(
        id=item.id,
        source=example.source,
        kind=example.kind,
        input_ids=torch.tensor(ids),
        labels=torch.tensor(labels),
        token_types=torch.tensor(types),
        images=tuple(_pixels(i) for i in example.images),
        video=None if example.frames is None else torch.stack([_pixels(f) for f in example.frames.images]),
        seconds_per_grid=1.0 if example.frames is None else _seconds_per_grid(example.frames.times, processor),
        grids=tuple(grids),
        visual_tokens=visual,
    )


def collate(
    batch: Sequence[Encoded],
    processor: Any,
    *,
    pad: Literal["left", "right"] = "right",
    always: Collection[Modality] = (),
    pad_to_multiple_of: int = 1,
) -> dict[str, Tensor]:
    """Pad a batch and turn its frames into patches.

    Args:
        batch: At least one sample; any mix of video, images and text.
        processor: As given to `encode`.
        pad: "left" for generation.
        always: Modalities that must be present in every batch, so that all ranks run the same modules (ZeRO would
            hang otherwise). A missing one is added as a tiny masked dummy at the end of the last row: attention 0,
            label -100, so it changes neither loss nor gradients.
        pad_to_multiple_of: Of the padded length.

    Returns:
        input_ids, attention_mask, labels, mm_token_type_ids: int64 [batch, length]; pixel_values, image_grid_thw and
        pixel_values_videos, video_grid_thw, second_per_grid_ts where there are images or videos.
    """
    images = [i for e in batch for i in e.images]
    videos = [e.video for e in batch if e.video is not None]
    image_grids = [g for e in batch if e.video is None for g in e.grids]
    video_grids = [e.grids[0] for e in batch if e.video is not None]
    seconds = [e.seconds_per_grid for e in batch if e.video is not None]

    tail_ids: list[int] = []
    tail_types: list[int] = []
    side = 2 * processor.image_processor.patch_size * processor.image_processor.merge_size
    merge = processor.image_processor.merge_size
    if "image" in always and not images:
        images.append(torch.zeros(3, side, side, dtype=torch.uint8))
        image_grids.append(image_grid(side, side, processor))
        tail_ids += [processor.image_token_id] * image_grids[-1].tokens(merge)
        tail_types += [1] * image_grids[-1].tokens(merge)
    if "video" in always and not videos:
        videos.append(torch.zeros(2, 3, side, side, dtype=torch.uint8))
        video_grids.append(video_grid(2, side, side, processor))
        seconds.append(1.0)
        tail_ids += [processor.video_token_id] * video_grids[-1].tokens(merge)
        tail_types += [2] * video_grids[-1].tokens(merge)

    lengths = [len(e.input_ids) for e in batch]
    lengths[-1] += len(tail_ids)
    length = -(-max(lengths) // pad_to_multiple_of) * pad_to_multiple_of
    pad_id = processor.tokenizer.pad_token_id
    out = {
        "input_ids": torch.full((len(batch), length), pad_id),
        "attention_mask": torch.zeros(len(batch), length, dtype=torch.long),
        "labels": torch.full((len(batch), length), IGNORE),
        "mm_token_type_ids": torch.zeros(len(batch), length, dtype=torch.long),
    }
    for row, e in enumerate(batch):
        tail = len(tail_ids) if row == len(batch) - 1 else 0
        start = length - len(e.input_ids) - tail if pad == "left" else 0
        here = slice(start, start + len(e.input_ids))
        out["input_ids"][row, here] = e.input_ids
        out["attention_mask"][row, here] = 1
        out["labels"][row, here] = e.labels
        out["mm_token_type_ids"][row, here] = e.token_types
        if tail:
            after = slice(here.stop, here.stop + tail)
            out["input_ids"][row, after] = torch.tensor(tail_ids)
            out["mm_token_type_ids"][row, after] = torch.tensor(tail_types)
    if images:
        done = processor.image_processor(images=images, return_tensors="pt")
        _check_grids(done["image_grid_thw"], image_grids)
        out["pixel_values"], out["image_grid_thw"] = done["pixel_values"], done["image_grid_thw"]
    if videos:
        done = processor.video_processor(videos=videos, return_tensors="pt", do_sample_frames=False)
        _check_grids(done["video_grid_thw"], video_grids)
        out["pixel_values_videos"], out["video_grid_thw"] = done["pixel_values_videos"], done["video_grid_thw"]
        out["second_per_grid_ts"] = torch.tensor(seconds)
    return out


def _chat(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages in the form that chat templates take: typed parts, without None keys (templates test for presence)."""
    parts = {VIDEO_MARK: {"type": "video"}, IMAGE_MARK: {"type": "image"}}
    return [
        {
            "role": m.role,
            "content": [
                parts.get(piece, {"type": "text", "text": piece}) for piece in _MARKS.split(m.content) if piece
            ],
        }
        for m in messages
    ]


def _prompt(messages: Sequence[Message]) -> tuple[Message, ...]:
    last_user = max((i for i, m in enumerate(messages) if m.role == "user"), default=len(messages) - 1)
    return tuple(messages[: last_user + 1])


def _render(processor: Any, messages: list[dict[str, Any]], *, prompt: bool) -> str:
    return str(
        processor.tokenizer.apply_chat_template(
            messages, chat_template=processor.chat_template, tokenize=False, add_generation_prompt=prompt
        )
    )


def _assistant_spans(
    processor: Any, messages: list[dict[str, Any]], text: str, *, sample: str
) -> list[tuple[int, int]]:
    """Character ranges of the assistant turns, found with the template itself, so any template works.

    The turn is what comes on top of the conversation before it plus the assistant prompt, its end mark included.
    """
    spans = []
    for i, message in enumerate(messages):
        if message["role"] == "assistant":
            before = _render(processor, messages[:i], prompt=True)
            after = _render(processor, messages[: i + 1], prompt=False)
            if not (text.startswith(before) and text.startswith(after)):
                raise SampleError(
                    sample, Reason.BAD_ROW, "the chat template rewrites earlier turns; labels are unknown"
                )
            spans.append((len(before), len(after)))
    return spans


def _pixels(image: Any) -> Tensor:
    """uint8 [3, height, width]."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()


def _seconds_per_grid(times: Sequence[float], processor: Any) -> float:
    """Mean spacing of the frames used, times the frames per temporal patch. One frame spans one grid: any value."""
    if len(times) < 2:
        return 1.0
    return float(processor.video_processor.temporal_patch_size * (times[-1] - times[0]) / (len(times) - 1))


def _check_grids(found: Tensor, expected: Sequence[Grid]) -> None:
    if found.tolist() != [list(g) for g in expected]:
        raise RuntimeError(
            f"the processor made grids {found.tolist()} where {[list(g) for g in expected]} were laid out"
        )
