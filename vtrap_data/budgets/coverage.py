"""How badly do F frames stand for the whole video? Looks at pixels only, never at the question.

    e(s)  for every pool slot s: the smaller of its distances to the chosen slot before and to the one after it
          distance = mean over the luma grid of max(0, |Y(s) - Y(chosen)| - NOISE)
    R(F)  1/2 * mean over s of e(s)  +  1/2 * max over s of e(s)
    r(F)  min over G <= F of min(1, R(G) / R(1 central frame))

Before or after, whichever is closer: a cut between two chosen frames shows nothing that neither of them shows, an
event that comes and goes between them does. The mean says how much of the time the chosen frames are wrong; the
maximum keeps a short event, seen in one slot only, from being averaged away. A video in which nothing moves by more
than the noise has r = 0 everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vtrap_data.errors import UsageError
from vtrap_data.media.select import subset_slots

NOISE = 8.0
"""Brightness differences (of 255) up to this are put down to camera and codec and count as none."""


def residuals(luma: ArrayLike, *, budgets: Sequence[int], smallest: int | None = None) -> tuple[float, ...]:
    """The residual r(F) of each candidate budget.

    Args:
        luma: uint8 or float [slots, h, w], brightness (0-255) of each pool slot on a coarse grid (`media.decode.luma`
            of the stored frames, repeated for slots that share one).
        budgets: Candidate budgets, ascending.
        smallest: The smallest candidate budget, which fixes where the subsets lie; `budgets[0]` unless given.

    Returns:
        One number in [0, 1] per budget, non-increasing; 0 for the whole pool, 1 for a single frame; 0 for all where
        nothing moves.

    Raises:
        UsageError: No budgets, not ascending, or they do not fit the number of slots.
        ValueError: `luma` has not three dimensions or no pixels.
    """
    if not budgets or list(budgets) != sorted(set(budgets)):
        raise UsageError(f"budgets must be different and ascending, not {list(budgets)} (setting: budgets)")
    values = np.asarray(luma, dtype=np.float32)
    if values.ndim != 3 or values.size == 0:
        raise ValueError(f"luma must be [slots, h, w] with at least one pixel, not of shape {values.shape}")
    slots = values.shape[0]
    first = budgets[0] if smallest is None else smallest
    unit = _error(values, subset_slots(slots, 1, smallest=1))
    result: list[float] = []
    lowest = 1.0
    for budget in budgets:
        chosen = subset_slots(slots, budget, smallest=first)
        if unit > 0:
            lowest = min(lowest, _error(values, chosen) / unit)
        result.append(lowest if unit > 0 else 0.0)
    return tuple(result)


def _error(luma: NDArray[np.float32], chosen: NDArray[np.int64]) -> float:
    """R of a choice of slots, in grey levels."""
    slots = np.arange(luma.shape[0])
    last = len(chosen) - 1
    before = chosen[np.clip(np.searchsorted(chosen, slots, side="right") - 1, 0, last)]
    after = chosen[np.clip(np.searchsorted(chosen, slots, side="left"), 0, last)]
    per_slot = np.minimum(_distance(luma, luma[before]), _distance(luma, luma[after]))
    return float(0.5 * per_slot.mean() + 0.5 * per_slot.max())


def _distance(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float64]:
    """How much each slot of `one` differs from that of `other` beyond the noise: float64 [slots]."""
    apart: NDArray[np.float64] = np.maximum(np.abs(one - other) - NOISE, 0.0).mean(axis=(1, 2), dtype=np.float64)
    return apart
