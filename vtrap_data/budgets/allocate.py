"""How many frames does each item get? The strategies, each a pure function of what is known about the items.

    fixed:N      N for everybody
    hybrid       the smallest F with  d * r(F) <= eps       (demand of the question times residual of the video)
    coverage     the smallest F with  r(F) <= eps           (the video alone)
    instruction  the smallest F with  d * smallest/F <= eps (the question alone)
    random       the budgets of hybrid, shuffled among the items: the control
    loss         the smallest F whose answer loss under a model is within delta of the best F: the oracle, for study
    vlm          the F that a model prefers after seeing a few frames and the question

The last two need a model that has looked at the stored frames (`encoding.judge`, through `budget --model`).

eps is solved so that the mean budget is `mean_frames`, from below. Items exactly at eps are split between the two
sides in a seeded order, because questions of one kind about one video tie and would otherwise make the mean jump.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vtrap_data.errors import UsageError

STRATEGIES = ("fixed:N", "instruction", "coverage", "hybrid", "random")
JUDGED = ("loss", "vlm")
"""Strategies that a model decides. Possible once frames are stored, so with `budget` and not with `pack`."""

DELTA = 0.05
"""How much worse than the best budget an answer may be under `loss`, in nats per answer token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What the strategies may know about one video item.

    Attributes:
        demand: d(q) in [0, 1]; None when the question was not scored.
        residuals: r(F) for each candidate budget, ascending in F, non-increasing; empty when not measured.
        distinct: Different frames in the pool of its video: what a budget can show at most.
        scores: What a model said about each candidate budget: the answer loss (`loss`) or how much it prefers it
            (`vlm`); empty when no model was asked.
    """

    demand: float | None
    residuals: tuple[float, ...]
    distinct: int
    scores: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """The budgets, in the order of the needs, and how they came about (JSON-ready).

    `params` always has strategy, items, mean_budget (of the budgets) and mean_shown (after videos with fewer different
    frames than their budget). Solved strategies add mean_frames (asked for), eps, ties_split, attainable_max (the mean
    at eps = 0), seed and, when the mean could not be reached, a note.
    """

    budgets: tuple[int, ...]
    params: dict[str, float | int | str]


class Quality(NamedTuple):
    """How well an allocation fits a known truth."""

    share_satisfied: float
    """Share of items that got at least the frames they need."""
    mean_frames: float
    """Mean budget: what that cost."""


def allocate(
    strategy: str,
    needs: Sequence[Need],
    *,
    budgets: Sequence[int],
    mean_frames: float,
    seed: int,
    delta: float = DELTA,
) -> Allocation:
    """Give every item a budget.

    Args:
        strategy: One of `STRATEGIES` or `JUDGED`.
        needs: One per video item, in corpus order. Items about images or text have no need and no budget.
        budgets: Candidate budgets, ascending.
        mean_frames: The mean budget, at most; `fixed:N` and those of `JUDGED` ignore it.
        seed: For `random` and for the order in which ties are split.
        delta: For `loss`.

    Raises:
        UsageError: An unknown strategy, a budget or mean outside the candidates, or inputs of the strategy missing.
        ValueError: Demands or residuals out of [0, 1], residuals that rise, or not one per budget.
    """
    check_strategy(strategy, budgets=budgets, mean_frames=mean_frames, judged=True)
    if strategy in JUDGED:
        return _judged(strategy, needs, budgets, delta)
    fixed = fixed_budget(strategy)
    if fixed is not None:
        return _allocation(strategy, np.full(len(needs), fixed, dtype=np.int64), needs, {})
    scores = _scores(strategy, needs, budgets)
    given, params = _solve(scores, np.array(budgets, dtype=np.int64), mean_frames, seed)
    if strategy == "random":
        given = np.random.default_rng([seed, 1]).permutation(given)
    return _allocation(strategy, given, needs, params)


def check_strategy(strategy: str, *, budgets: Sequence[int], mean_frames: float, judged: bool = False) -> None:
    """Check the name of a strategy and its numbers, before anything is looked at.

    Args:
        strategy: Its name.
        budgets: Candidate budgets.
        mean_frames: The mean to reach.
        judged: Whether frames are stored already, so that a model may look at them.

    Raises:
        UsageError: With the setting to change.
    """
    if not budgets or min(budgets) < 1 or list(budgets) != sorted(set(budgets)):
        raise UsageError(f"--budgets must be different, ascending and at least 1, not {list(budgets)}")
    if strategy.startswith("fixed:"):
        if fixed_budget(strategy) not in budgets:
            allowed = ", ".join(f"fixed:{b}" for b in budgets)
            raise UsageError(f"--strategy is {strategy!r}; with these --budgets {allowed} are allowed")
    elif strategy in JUDGED:
        if not judged:
            raise UsageError(
                f"--strategy {strategy} needs frames that a model can look at: pack with --strategy hybrid --store"
                f" {budgets[-1]} first, then run `budget --strategy {strategy} --model NAME`"
            )
    elif strategy not in STRATEGIES:
        raise UsageError(f"--strategy {strategy!r} is not known; allowed are {', '.join(STRATEGIES)}")
    elif not (math.isfinite(mean_frames) and budgets[0] <= mean_frames <= budgets[-1]):
        raise UsageError(
            f"--mean-frames must lie between the smallest and the largest of --budgets, from {budgets[0]} to"
            f" {budgets[-1]}, not {mean_frames}"
        )


def check_delta(delta: float) -> None:
    """Check how much worse than the best an answer may be under `loss` (UsageError)."""
    if not (math.isfinite(delta) and delta >= 0):
        raise UsageError(f"--delta must be 0 or more, not {delta}")


def fixed_budget(strategy: str) -> int | None:
    """N of "fixed:N"; None for every other strategy and for what is no number."""
    name, _, number = strategy.partition(":")
    return int(number) if name == "fixed" and number.isascii() and number.isdigit() else None


def reads_questions(strategy: str) -> bool:
    """Whether a strategy needs the demand of the questions ("random" shuffles the budgets of "hybrid")."""
    return strategy in ("instruction", "hybrid", "random")


def reads_videos(strategy: str) -> bool:
    """Whether a strategy needs residuals, that is the whole pool of every video."""
    return strategy in ("coverage", "hybrid", "random")


def smallest_budgets(
    scores: NDArray[np.float64], budgets: NDArray[np.int64], eps: float, *, strict: bool = False
) -> NDArray[np.int64]:
    """For each row of `scores` [n, budgets] the smallest budget scored <= eps (strict: < eps), else the largest."""
    enough = scores < eps if strict else scores <= eps
    enough[:, -1] = True
    chosen: NDArray[np.int64] = budgets[enough.argmax(axis=1)]
    return chosen


def quality(allocation: Allocation, truth: Sequence[int]) -> Quality:
    """Compare budgets with the frames that the items truly need (`Item.needs`, in the order of the needs).

    Raises:
        ValueError: Not one number per item, or no items.
    """
    given, needed = np.array(allocation.budgets), np.array(truth)
    if given.shape != needed.shape or given.size == 0:
        raise ValueError(f"{given.size} budgets and {needed.size} known needs: there must be one need per budget")
    return Quality(share_satisfied=float((given >= needed).mean()), mean_frames=float(given.mean()))


def _judged(strategy: str, needs: Sequence[Need], budgets: Sequence[int], delta: float) -> Allocation:
    check_delta(delta)
    scores = np.array([need.scores or (np.nan,) * len(budgets) for need in needs], dtype=np.float64)
    scores = scores.reshape(len(needs), len(budgets))
    if not np.isfinite(scores).all():
        raise UsageError(f"strategy {strategy!r} needs what a model says about every item: use `budget --model NAME`")
    if strategy == "loss":
        first = (scores <= scores.min(axis=1, keepdims=True) + delta).argmax(axis=1)
        return _allocation(strategy, np.array(budgets)[first], needs, {"delta": float(delta)})
    return _allocation(strategy, np.array(budgets)[scores.argmax(axis=1)], needs, {})


def _scores(strategy: str, needs: Sequence[Need], budgets: Sequence[int]) -> NDArray[np.float64]:
    """float64 [items, budgets], non-increasing along each row: what the strategy wants to be at most eps."""
    shape = (len(needs), len(budgets))
    demand = np.ones((len(needs), 1))
    if reads_questions(strategy):
        values = [need.demand for need in needs]
        if any(v is None for v in values):
            raise UsageError(
                f"strategy {strategy!r} needs the demand of every question; {values.count(None)} have none"
            )
        demand = np.array(values, dtype=np.float64).reshape(len(needs), 1)
    if not reads_videos(strategy):
        residual = np.broadcast_to(budgets[0] / np.array(budgets, dtype=np.float64), shape)
    else:
        lengths = {len(need.residuals) for need in needs} - {len(budgets)}
        if 0 in lengths:
            raise UsageError(f"strategy {strategy!r} needs coverage, which was not measured: pack with it first")
        if lengths:
            raise ValueError(f"residuals must have {len(budgets)} numbers, one per budget, not {sorted(lengths)}")
        residual = np.array([need.residuals for need in needs], dtype=np.float64).reshape(shape)
    for name, found in (("demand", demand), ("residuals", residual)):
        if not ((found >= 0) & (found <= 1)).all():
            raise ValueError(f"{name} must be from 0 to 1")
    if (np.diff(residual, axis=1) > 0).any():
        raise ValueError("residuals must not increase with the budget")
    return demand * residual


def _solve(
    scores: NDArray[np.float64], budgets: NDArray[np.int64], mean_frames: float, seed: int
) -> tuple[NDArray[np.int64], dict[str, float | int | str]]:
    """The largest mean budget <= mean_frames that some eps >= 0 gives, ties at eps split."""
    # The mean changes only where eps passes a score, so the search goes over those instead of over the real line.
    candidates = np.unique(np.concatenate([[0.0], scores.ravel()]))
    total = mean_frames * len(scores) + 1e-9
    low, high = 0, len(candidates) - 1  # at the highest candidate everybody has the smallest budget, which fits
    while low < high:
        middle = (low + high) // 2
        if smallest_budgets(scores, budgets, candidates[middle]).sum() <= total:
            high = middle
        else:
            low = middle + 1
    eps = float(candidates[low])
    given = smallest_budgets(scores, budgets, eps)
    most = smallest_budgets(scores, budgets, 0.0)
    params: dict[str, float | int | str] = {
        "mean_frames": float(mean_frames),
        "eps": eps,
        "attainable_max": float(most.mean()) if len(scores) else 0.0,
        "ties_split": 0,
        "seed": seed,
    }
    if eps > 0:
        more = smallest_budgets(scores, budgets, eps, strict=True)
        left = total - float(given.sum())
        for item in np.random.default_rng([seed, 0]).permutation(np.flatnonzero(more > given)):
            extra = int(more[item] - given[item])
            if extra <= left:
                given[item] = more[item]
                left -= extra
                params["ties_split"] = int(params["ties_split"]) + 1
    elif len(scores) and float(given.mean()) < mean_frames:
        params["note"] = (
            f"a mean of {mean_frames:g} frames is out of reach: even at eps = 0 questions and videos ask for"
            f" {given.mean():.2f}, because the rest is static"
        )
    return given, params


def _allocation(
    strategy: str, given: NDArray[np.int64], needs: Sequence[Need], params: dict[str, float | int | str]
) -> Allocation:
    shown = np.minimum(given, [need.distinct for need in needs]) if len(needs) else given
    facts: dict[str, float | int | str] = {
        "strategy": strategy,
        "items": len(needs),
        "mean_budget": float(given.mean()) if len(needs) else 0.0,
        "mean_shown": float(shown.mean()) if len(needs) else 0.0,
    }
    return Allocation(budgets=tuple(int(b) for b in given), params=facts | params)
