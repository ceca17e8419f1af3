"""How much has been trained on, and with what loss, by source and by modality? Exact over resumes and ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vtrap_train.collate import KINDS


class Sums(NamedTuple):
    """Sums over the rows of one source or modality."""

    loss: float
    tokens: float
    samples: float

    @property
    def mean_loss(self) -> float | None:
        """Mean loss per token; None without tokens."""
        return self.loss / self.tokens if self.tokens else None


COUNTS = ("frames", "visual_tokens", "skipped", "tokens", "computed")
"""Frames of videos; tokens that stood for pixels; samples left out; tokens of the samples; the same with padding."""


class Totals:
    """A float64 vector behind names: one sum over ranks moves all of it.

    Layout: (loss, tokens, samples) per source, then per modality, then the counts named in `COUNTS`.
    """

    def __init__(self, sources: Sequence[str], vector: Tensor) -> None:
        self.sources = tuple(sources)
        self.vector = vector

    @classmethod
    def zeros(cls, sources: Sequence[str], device: torch.device | None = None) -> Totals:
        """Nothing seen yet."""
        size = 3 * (len(sources) + len(KINDS)) + len(COUNTS)
        return cls(sources, torch.zeros(size, dtype=torch.float64, device=device))

    def add(self, facts: Mapping[str, Any], *, loss: Tensor, tokens: Tensor) -> None:
        """Count one batch.

        Args:
            facts: From the collator.
            loss: float [batch]: sum over the row's tokens.
            tokens: [batch]: tokens that carry loss.
        """
        rows = torch.stack([loss.double(), tokens.double(), facts["real"].double()], dim=1)
        split = 3 * len(self.sources)
        self.vector[:split].view(-1, 3).index_add_(0, facts["source"], rows)
        self.vector[split : -len(COUNTS)].view(-1, 3).index_add_(0, facts["kind"], rows)
        counts = self.vector[-len(COUNTS) :]
        counts[0] += facts["frames"].sum()
        counts[1] += facts["visual_tokens"].sum()
        counts[2] += len(facts["skips"])
        counts[3] += facts["tokens"]
        counts[4] += facts["computed"]

    def by_source(self) -> dict[str, Sums]:
        """Sums per source."""
        rows = self.vector[: 3 * len(self.sources)].view(-1, 3).tolist()
        return {name: Sums(*row) for name, row in zip(self.sources, rows, strict=True)}

    def by_kind(self) -> dict[str, Sums]:
        """Sums per modality: video, images, text."""
        rows = self.vector[3 * len(self.sources) : -len(COUNTS)].view(-1, 3).tolist()
        return {name: Sums(*row) for name, row in zip(KINDS, rows, strict=True)}

    def whole(self) -> Sums:
        """Sums over everything."""
        loss, tokens, samples = (sum(column) for column in zip(*self.by_kind().values(), strict=True))
        return Sums(loss, tokens, samples)

    @property
    def frames(self) -> int:
        """Video frames seen."""
        return self._count("frames")

    @property
    def visual_tokens(self) -> int:
        """Tokens that stood for pixels."""
        return self._count("visual_tokens")

    @property
    def skipped(self) -> int:
        """Samples that were left out."""
        return self._count("skipped")

    @property
    def tokens(self) -> int:
        """Tokens of the samples."""
        return self._count("tokens")

    @property
    def padding(self) -> float:
        """Share of padding (and of the dummies that keep ranks together) among the tokens that were computed."""
        computed = self._count("computed")
        return 1 - self.tokens / computed if computed else 0.0

    def _count(self, name: str) -> int:
        return int(self.vector[len(self.vector) - len(COUNTS) + COUNTS.index(name)])

    def __sub__(self, other: Totals) -> Totals:
        return Totals(self.sources, self.vector - other.vector)

    def to_json(self) -> dict[str, Any]:
        """For `progress.json` in a checkpoint."""
        return {"sources": list(self.sources), "vector": self.vector.tolist()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Totals:
        """Read it back, bit by bit the same."""
        return cls(data["sources"], torch.tensor(data["vector"], dtype=torch.float64))
