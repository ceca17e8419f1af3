"""How do samples share one row without seeing each other? Laid end to end, each with its own positions and attention.

Packing replaces padding: the samples of a forward pass become one row of as many tokens as they have. Each keeps the
position ids that it would have alone, and transformers, seeing the counters in the first row of [4, 1, tokens] start
again, lets no token attend beyond its own sample. No label is predicted across a border: the first token of a sample
never carries loss. So losses and gradients are those of the padded batch, which a test holds to rounding.

That has been proven here for the Qwen families. For others it has not been tried, and they are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vtrap_data.encoding import ModelRef
from vtrap_data.encoding.family import FamilyName
from vtrap_data.encoding.positions import Rule, rule_of
from vtrap_data.encoding.tokens import IGNORE
from vtrap_data.errors import UsageError

PROVEN: tuple[FamilyName, ...] = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
ATTENTION = ("sdpa", "eager", "flash_attention_2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Packer:
    """Turns a padded batch of `encoding.collate` into one row.

    Attributes:
        rule: By which the model numbers positions.
    """

    rule: Rule

    def __call__(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Pack.

        Args:
            batch: Padded on the right; a masked dummy for ranks that lack a modality may follow the last row.

        Returns:
            input_ids, labels, mm_token_type_ids: int64 [1, tokens]; position_ids: int64 [4, 1, tokens] (counter within
            the sample, then time, row, column); pixels as they were. There is no attention_mask. For a forward pass
            with `use_cache=False`: a cache would switch the separation off.
        """
        real = batch["attention_mask"].bool()
        dummy = ~real & (batch["mm_token_type_ids"] > 0)
        found = self.rule.positions_of(
            batch["input_ids"],
            batch["mm_token_type_ids"],
            image_grids=batch.get("image_grid_thw"),
            video_grids=batch.get("video_grid_thw"),
            seconds_per_grid=batch.get("second_per_grid_ts"),
            attention_mask=batch["attention_mask"],
        )
        counter = (real.cumsum(dim=1) - 1).masked_fill(dummy, 0) + (dummy.cumsum(dim=1) - 1).masked_fill(~dummy, 0)
        places = torch.cat([counter[None], found.ids.masked_fill(dummy, 0)])
        labels = batch["labels"].clone()
        labels[:, 0] = IGNORE
        kept = real | dummy
        flat = {"input_ids": batch["input_ids"], "labels": labels, "mm_token_type_ids": batch["mm_token_type_ids"]}
        out = {name: value[kept][None] for name, value in flat.items()}
        out["position_ids"] = places[:, kept][:, None]
        return out | {k: v for k, v in batch.items() if k not in flat and k != "attention_mask"}


def packer(ref: ModelRef, config: Any, *, attn_implementation: str) -> Packer:
    """The packer for a model. Raises UsageError where packed rows have not been proven equal to padded ones."""
    if ref.family not in PROVEN:
        raise UsageError(
            f"--pack is proven to change nothing for {', '.join(PROVEN)} only, and {ref.name} is of the family "
            f"{ref.family}, for which nobody has tried: --tokens_per_batch alone saves most of the padding"
        )
    if attn_implementation not in ATTENTION:
        raise UsageError(f"--pack needs --attn_implementation {', '.join(ATTENTION)}, not {attn_implementation!r}")
    return Packer(rule=rule_of(config))
