"""Which position does each token have? The rules that the Qwen checkpoints were trained with.

Text counts up by one on all three axes. An image or video that starts at position s spans, per merged patch,
(s + t, s + row, s + column). Whatever follows starts at 1 + the largest id so far *on any axis*. For an image t is 0.
For a video it is

* Qwen2-VL: the index of the step in the temporal grid (arXiv 2409.12191, section 2.1);
* Qwen2.5-VL: floor(that index x seconds per grid x tokens per second) (arXiv 2502.13923, section 2.1.2);
* Qwen3-VL: 0. Each step is a picture of its own, with its time in words before it (arXiv 2511.21631).

transformers 5.19 to 5.23 let the text after a Qwen2-VL or Qwen2.5-VL video start at s + max(rows, columns) instead, so
that it overlaps the video's own time axis, and the more so the sparser the frames. vLLM and the original code do not.
`install_positions` puts the original rule back, for training and for generation. In Qwen3-VL both are the same.

Qwen2.5-VL's product is rounded down, and its factor is a number of single precision. The nearest one to 0.7 is a bit
less, so that the step at exactly 7 s may be numbered as if it came before: always in vLLM, which multiplies in double
precision; now and then in the original code, whose single precision rounds most such products up. Here the factor is
`rounded_up`: for any spacing that files have, every step gets the number of its true time, in all three.
"""

from __future__ import annotations

from types import MethodType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

POSITIONS_VERSION = 2
_TEXT, _IMAGE, _VIDEO = 0, 1, 2


class Positions(NamedTuple):
    """Position ids and what generation needs to go on from them.

    Attributes:
        ids: int64 [3, batch, length]; axes are time, row, column; 0 where masked.
        deltas: int64 [batch, 1]: next position minus number of unmasked tokens.
    """

    ids: Tensor
    deltas: Tensor


def rounded_up(seconds: float) -> float:
    """The smallest number of single precision that is no less.

    Seconds per grid must be such: see above.
    """
    single = np.float32(seconds)
    return float(single if float(single) >= seconds else np.nextafter(single, np.float32(np.inf)))


def position_ids(
    input_ids: Tensor,
    token_types: Tensor,
    *,
    image_grids: Tensor | None,
    video_grids: Tensor | None,
    seconds_per_grid: Tensor | None,
    attention_mask: Tensor | None,
    merge_size: int,
    tokens_per_second: float,
) -> Positions:
    """Position ids of a padded batch by the original rule.

    Args:
        input_ids: int64 [batch, length].
        token_types: int [batch, length]; 0 text, 1 image, 2 video.
        image_grids: int64 [images, 3] (time, rows, columns in patches), in order of appearance over the batch.
        video_grids: int64 [videos, 3].
        seconds_per_grid: float32 [videos]: seconds that one temporal grid step spans, `rounded_up`. None: 1 second.
        attention_mask: [batch, length]; 0 marks padding on either side. None: nothing is padding.
        merge_size: Patches per side that are merged into one token.
        tokens_per_second: Of the vision config.
    """
    batch, length = input_ids.shape
    device = input_ids.device
    ids = torch.zeros(3, batch, length, dtype=torch.long, device=device)
    deltas = torch.zeros(batch, 1, dtype=torch.long, device=device)
    grids = {
        _IMAGE: iter([] if image_grids is None else image_grids.tolist()),
        _VIDEO: iter([] if video_grids is None else video_grids.tolist()),
    }
    seconds = iter([] if seconds_per_grid is None else torch.as_tensor(seconds_per_grid).tolist())
    for row in range(batch):
        keep = None if attention_mask is None else attention_mask[row].bool()
        types = (token_types[row] if keep is None else token_types[row][keep]).tolist()
        parts: list[Tensor] = []
        start, at = 0, 0
        while at < len(types):
            kind = types[at]
            if kind == _TEXT:
                end = at + 1
                while end < len(types) and types[end] == _TEXT:
                    end += 1
                parts.append(torch.arange(start, start + end - at).expand(3, -1))
                start += end - at
            else:
                t, h, w = next(grids[kind])
                h, w = h // merge_size, w // merge_size
                end = at + t * h * w
                step = tokens_per_second * next(seconds, 1.0) if kind == _VIDEO else 0.0
                time = (torch.arange(t, dtype=torch.float64) * step).long()
                grid = torch.stack(torch.meshgrid(time, torch.arange(h), torch.arange(w), indexing="ij"))
                parts.append(grid.reshape(3, -1) + start)
                start = int(parts[-1].max()) + 1
            at = end
        row_ids = torch.cat(parts, dim=1).to(device) if parts else ids[:, row, :0]
        if keep is None:
            ids[:, row] = row_ids
        else:
            ids[:, row, keep] = row_ids
        deltas[row, 0] = start - len(types)
    return Positions(ids=ids, deltas=deltas)


class Rule(NamedTuple):
    """The rule of one model: what its family and its configuration decide.

    Attributes:
        kind: `model_type` of a Qwen family.
        merge_size: As for `position_ids`.
        tokens_per_second: As for `position_ids`; 1 in the families that know no seconds.
    """

    kind: str
    merge_size: int
    tokens_per_second: float

    def positions_of(
        self,
        input_ids: Tensor,
        token_types: Tensor,
        *,
        image_grids: Tensor | None,
        video_grids: Tensor | None,
        seconds_per_grid: Tensor | None,
        attention_mask: Tensor | None,
    ) -> Positions:
        """Position ids of a batch as the processor makes it. Arguments as for `position_ids`."""
        return position_ids(
            input_ids,
            token_types,
            image_grids=image_grids,
            video_grids=steps(video_grids) if self.kind == "qwen3_vl" and video_grids is not None else video_grids,
            seconds_per_grid=seconds_per_grid if self.kind == "qwen2_5_vl" else None,
            attention_mask=attention_mask,
            merge_size=self.merge_size,
            tokens_per_second=self.tokens_per_second,
        )


def rule_of(config: Any) -> Rule:
    """The rule that a model with this configuration (of any Qwen family) was trained with."""
    vision = config.vision_config
    kind = config.model_type
    return Rule(
        kind=kind,
        merge_size=int(vision.spatial_merge_size),
        tokens_per_second=float(vision.tokens_per_second) if kind == "qwen2_5_vl" else 1.0,
    )


def install_positions(model: Any) -> None:
    """Make `model` (of any Qwen family) number positions by the original rule, in training and in generation."""
    inner = model.model
    rule = rule_of(model.config)

    def get_rope_index(
        self: Any,
        input_ids: Tensor,
        mm_token_type_ids: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
        video_grid_thw: Tensor | None = None,
        second_per_grid_ts: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> Positions:
        if mm_token_type_ids is None:
            raise ValueError(
                "mm_token_type_ids is missing from the batch: build batches with vtrap_data.encoding.collate"
            )
        return rule.positions_of(
            input_ids,
            mm_token_type_ids,
            image_grids=image_grid_thw,
            video_grids=video_grid_thw,
            seconds_per_grid=second_per_grid_ts,
            attention_mask=attention_mask,
        )

    inner.get_rope_index = MethodType(get_rope_index, inner)


def steps(video_grids: Tensor) -> Tensor:
    """int64 [steps of all videos, 3]: each step in time as a grid of its own, as Qwen3-VL writes videos."""
    alone = video_grids.repeat_interleave(video_grids[:, 0], dim=0)
    alone[:, 0] = 1
    return alone
