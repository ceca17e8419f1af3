"""How do samples become one batch? Padded, and its pixels prepared by the family's processor, all in one call."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from vtrap_data.encoding.families import family_of
from vtrap_data.encoding.family import Modality, Row, Shown
from vtrap_data.encoding.pixels import as_numbers
from vtrap_data.encoding.tokens import IGNORE, Encoded
from vtrap_data.media.size import Size


def collate(
    batch: Sequence[Encoded],
    processor: Any,
    *,
    pad: Literal["left", "right"] = "right",
    always: Collection[Modality] = (),
    pad_to_multiple_of: int = 1,
    as_bytes: bool = False,
) -> dict[str, Tensor]:
    """Pad a batch and turn its frames into what the model takes.

    Args:
        batch: At least one sample; any mix of video, images and text.
        processor: As given to `encode`.
        pad: "left" for generation.
        always: Modalities that must be present in every batch, so that all ranks run the same modules (ZeRO would
            hang otherwise). A missing one is added as a small masked dummy at the end of the last row: attention 0,
            label -100, so it changes neither loss nor gradients.
        pad_to_multiple_of: Of the padded length.
        as_bytes: For a model that `accept_bytes` has seen: pixels of the Qwen families stay bytes, uint8 [patches,
            values] in an order of our own, a quarter of the memory. It makes of them what would be here otherwise.

    Returns:
        input_ids, attention_mask, labels: int64 [batch, length]; mm_token_type_ids likewise for the Qwen families;
        where there are images or videos, what the family's own processor makes of them (`pixel_values`,
        `pixel_values_videos`, their grids or sizes, and `second_per_grid_ts` for Qwen2.5-VL), over the batch in order
        of appearance.
    """
    family = family_of(processor)
    rows = [Row(e.images, e.video, e.seconds_per_grid) for e in batch]
    tail_ids, tail_types = [], []
    for row, token, kind, count in _dummies(rows, processor, always):
        rows.append(row)
        tail_ids += [token] * count
        tail_types += [kind] * count

    lengths = [e.input_ids.shape[0] for e in batch]  # `len` of a tensor takes longer
    lengths[-1] += len(tail_ids)
    length = -(-max(lengths) // pad_to_multiple_of) * pad_to_multiple_of
    # Filled by NumPy: torch takes longer to find each small piece than to copy it.
    empty = np.array([processor.tokenizer.pad_token_id, 0, IGNORE, 0])
    table = np.repeat(empty, len(batch) * length).reshape(len(empty), len(batch), length)
    ids, attention, labels, types = table
    for number, (e, taken) in enumerate(zip(batch, lengths, strict=True)):
        start = length - taken if pad == "left" else 0
        here = slice(start, start + e.input_ids.shape[0])
        ids[number, here] = e.input_ids.numpy()
        attention[number, here] = 1
        labels[number, here] = e.labels.numpy()
        types[number, here] = e.token_types.numpy()
    if tail_ids:
        end = length if pad == "left" else lengths[-1]
        after = slice(end - len(tail_ids), end)
        ids[-1, after] = tail_ids
        types[-1, after] = tail_types
    names = ("input_ids", "attention_mask", "labels", "mm_token_type_ids")
    out = {name: torch.from_numpy(rows) for name, rows in zip(names, table, strict=True)}
    if not family.token_types:
        del out["mm_token_type_ids"]
    pixels = family.pixels(rows, processor)
    return out | (pixels if as_bytes else as_numbers(pixels, processor))


def _dummies(rows: Sequence[Row], processor: Any, always: Collection[Modality]) -> list[tuple[Row, int, int, int]]:
    """For each modality that must be there and is not: its pixels, its token, the token's type, how many of them."""
    family = family_of(processor)
    side = family.dummy_side(processor)
    has_image = any(r.images for r in rows)
    has_video = any(r.video is not None for r in rows)
    wanted = set(always)
    if "video" not in family.modalities:
        # Videos go through the modules of images.
        has_image, has_video = has_image or has_video, True
        wanted |= {"image"} if wanted else set()
    found = []
    if "image" in wanted and not has_image:
        row = Row((torch.zeros(3, side, side, dtype=torch.uint8),), None)
        count = sum(family.image_tokens(Shown(images=(Size(side, side),)), processor))
        found.append((row, int(processor.image_token_id), 1, count))
    if "video" in wanted and not has_video:
        frames = family.frames_per_grid(processor)
        row = Row((), torch.zeros(frames, 3, side, side, dtype=torch.uint8))
        count = sum(family.video_tokens(Shown(frames=frames, frame_size=Size(side, side)), processor))
        found.append((row, int(processor.video_token_id), 2, count))
    return found
