"""How do row numbers become a batch? Opens the media, encodes, pads; a bad sample becomes a note instead.

Runs in the loader's workers. Beside the model's inputs a batch carries one more key, `FACTS`, which the trainer takes
out again: what the loss logs, the summary and the ledger need to know about its rows.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Literal, get_args

import torch

from vtrap_data.encoding import Encoded, blank, collate, encode
from vtrap_data.errors import Reason, SampleError, UnreachableError, VtrapError
from vtrap_data.samples import Kind
from vtrap_train.data import Mixture
from vtrap_train.ledger import Skip
from vtrap_train.packing import Packer

FACTS = "vtrap"
KINDS: tuple[Kind, ...] = get_args(Kind)


class VideoCollator:
    """Turns rows of the mixture into a batch of tensors, for a model that `encoding.accept_bytes` has seen.

    Args:
        mixture: Where the samples are.
        processor: Of the model.
        sources: All corpora that can occur; a row's source is stored as its place in this list.
        max_tokens: Ceiling per sample.
        always: Modalities that every batch must contain, so that every rank runs the same modules.
        pad_to_multiple_of: Of the padded length.
        pack: Lays the rows end to end; None pads them.
    """

    def __init__(
        self,
        mixture: Mixture,
        processor: Any,
        *,
        sources: Sequence[str],
        max_tokens: int | None,
        always: Collection[Literal["image", "video"]] = (),
        pad_to_multiple_of: int = 1,
        pack: Packer | None = None,
    ) -> None:
        self.mixture = mixture
        self.processor = processor
        self.max_tokens = max_tokens
        self.always = tuple(always)
        self.pad_to_multiple_of = pad_to_multiple_of
        self.pack = pack
        self._source = {name: number for number, name in enumerate(sources)}

    def __call__(self, rows: Sequence[int]) -> dict[str, Any]:
        """Build the batch.

        Args:
            rows: Their numbers in the mixture.

        Returns:
            What `encoding.collate` returns, and under `FACTS`: `source`, `kind`, `frames`, `visual_tokens`, `real`
            (all int64 [batch]); `skips`, a list of `Skip`; `ids` of the items; `packed`, the
            length of each where they share a row, else None; `tokens`, those of the samples, and
            `computed`, padding included; `unreachable`, why data did not come, else None.
        """
        encoded: list[Encoded] = []
        skips: list[Skip] = []
        unreachable = None
        for number in rows:
            try:
                encoded.append(encode(self.mixture[number], self.processor, train=True, max_length=self.max_tokens))
            except SampleError as error:
                skips.append(self._skip(number, error))
            except UnreachableError as error:
                # No sample is to blame. Ranks must stop together, so it travels with the batch.
                unreachable = str(error)
                break
            except VtrapError as error:
                # A shard that is cut short or damaged in the middle costs what it holds there, not the run.
                skips.append(self._skip(number, SampleError(self.mixture.id_of(number), Reason.CORRUPT, str(error))))
        real = [1] * len(encoded)
        if not encoded:
            # Every rank must take part in every step, so a batch that lost all its rows becomes one without loss.
            encoded, real = [blank(self.processor)], [0]
        batch: dict[str, Any] = dict(
            collate(
                encoded,
                self.processor,
                always=self.always,
                pad_to_multiple_of=self.pad_to_multiple_of,
                as_bytes=True,
            )
        )
        if self.pack is not None:
            batch = dict(self.pack(batch))
        batch[FACTS] = {
            "source": torch.tensor([self._source.get(e.source, 0) for e in encoded]),
            "kind": torch.tensor([KINDS.index(e.kind) for e in encoded]),
            "frames": torch.tensor([0 if e.video is None else e.video.shape[0] for e in encoded]),
            "visual_tokens": torch.tensor([e.visual_tokens for e in encoded]),
            "real": torch.tensor(real),
            "skips": skips,
            "ids": [e.id for e in encoded],
            "packed": None if self.pack is None else [len(e.input_ids) for e in encoded],
            "tokens": sum(len(e.input_ids) for e, counts in zip(encoded, real, strict=True) if counts),
            "computed": batch["input_ids"].numel(),
            "unreachable": unreachable,
        }
        return batch

    def _skip(self, number: int, error: SampleError) -> Skip:
        return Skip(
            sample=error.sample,
            source=str(self.mixture.source_of(number)),
            shard=self.mixture.shard_of(number),
            reason=error.reason.value,
            detail=error.detail,
        )
