"""Does the allocator know its job? What every strategy would give the items of a packed corpus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vtrap_data.budgets.allocate import (
    DELTA,
    JUDGED,
    Allocation,
    check_delta,
    check_strategy,
    reads_videos,
)
from vtrap_data.budgets.demand import Scorer
from vtrap_data.errors import UsageError
from vtrap_data.shards.asked import Asked, allocated, demand_scores
from vtrap_data.shards.manifest import Manifest, PackSettings, read_manifest
from vtrap_data.shards.pack import check_settings
from vtrap_data.shards.stored import read_stored


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a strategy gives.

    Attributes:
        strategy: Its name.
        mean_frames: Mean budget over the video items.
        items: Video items.
        items_with_truth: Video items that carry `needs`.
        enough: Share of those that got at least the frames they need; None when there are none.
        per_budget: How many video items got each budget, a pair (budget, items) for each candidate.
        error: Why the strategy cannot be used on this corpus; then the numbers are empty.
    """

    strategy: str
    mean_frames: float | None
    items: int
    items_with_truth: int
    enough: float | None
    per_budget: tuple[tuple[int, int], ...] = ()
    error: str | None = None


def asked_items(root: Path) -> list[Asked]:
    """The video items of a corpus, in its order."""
    items = []
    for stored in read_stored(root, members=False):
        if stored.sample.video is not None and stored.frames is not None:
            residuals, distinct = stored.sample.video.residuals, stored.frames.distinct
            items += [Asked.of(item, residuals=residuals, distinct=distinct) for item in stored.sample.items]
    return items


def check_again(settings: PackSettings, *, delta: float = DELTA) -> None:
    """Find settings that cannot work before a corpus is read and a model is asked.

    Raises:
        UsageError: With the setting to change.
    """
    check_strategy(settings.strategy, budgets=settings.budgets, mean_frames=settings.mean_frames, judged=True)
    # Where a model decides, no mean is reached and no question is read.
    judged = settings.strategy in JUDGED
    check_settings(replace(settings, strategy=f"fixed:{settings.budgets[0]}") if judged else settings)
    check_delta(delta)


def allocate_again(
    asked: Sequence[Asked], scores: Sequence[float | None], settings: PackSettings, *, delta: float = DELTA
) -> Allocation:
    """Allocate from what is stored.

    Raises:
        UsageError: The strategy needs residuals and the corpus was packed without them, or they are none.
    """
    check_again(settings, delta=delta)
    if reads_videos(settings.strategy) and any(not one.residuals for one in asked):
        raise UsageError(
            f"strategy {settings.strategy!r} needs coverage, which was not measured for this corpus: pack the media "
            "again with --strategy hybrid (or coverage, or random)"
        )
    try:
        return allocated(asked, scores, settings, delta=delta)
    except ValueError as error:
        raise UsageError(f"the corpus holds what pack does not write ({error}): run `doctor` on it") from None


def compare_strategies(root: Path, *, mean_frames: float | None = None, scorer: Scorer | None = None) -> list[Outcome]:
    """Run every strategy on a packed corpus.

    Args:
        root: The corpus folder.
        mean_frames: Mean budget to hit; None: that of the corpus.
        scorer: What reads the questions; None: as the corpus was packed.

    Raises:
        UsageError: No packed corpus, or no video items in it.
    """
    manifest: Manifest = read_manifest(root)
    settings = manifest.settings
    settings = replace(
        settings,
        mean_frames=settings.mean_frames if mean_frames is None else mean_frames,
        scorer=scorer or settings.scorer,
        strategy="hybrid",
    )
    asked = asked_items(root)
    if not asked:
        raise UsageError(f"{root} holds no video items: there is nothing to allocate")
    scores = demand_scores(asked, settings)
    names = ["hybrid", "instruction", "coverage", "random", *(f"fixed:{budget}" for budget in settings.budgets)]
    return [_outcome(name, asked, scores, settings) for name in names]


def _outcome(name: str, asked: Sequence[Asked], scores: Sequence[float | None], settings: PackSettings) -> Outcome:
    truth = sum(one.needs is not None for one in asked)
    try:
        budgets = allocate_again(asked, scores, replace(settings, strategy=name)).budgets
    except UsageError as error:
        return Outcome(
            strategy=name, mean_frames=None, items=len(asked), items_with_truth=truth, enough=None, error=str(error)
        )
    enough = sum(budget >= one.needs for one, budget in zip(asked, budgets, strict=True) if one.needs is not None)
    return Outcome(
        strategy=name,
        mean_frames=sum(budgets) / len(budgets),
        items=len(asked),
        items_with_truth=truth,
        enough=enough / truth if truth else None,
        per_budget=tuple((budget, budgets.count(budget)) for budget in settings.budgets),
    )


def as_text(outcomes: Sequence[Outcome]) -> str:
    """The outcomes as a table."""
    candidates = next((one.per_budget for one in outcomes if one.per_budget), ())
    heads = "".join(f"{f'at {budget}':>8}" for budget, _ in candidates)
    lines = [f"{'strategy':<14}{'mean frames':>12}{'got enough':>12}{heads}"]
    for one in outcomes:
        if one.error is not None or one.mean_frames is None:
            lines.append(f"{one.strategy:<14}{'-':>12}{'-':>12}   {one.error}")
        else:
            enough = "-" if one.enough is None else f"{one.enough:.1%}"
            items = "".join(f"{count:>8}" for _, count in one.per_budget)
            lines.append(f"{one.strategy:<14}{one.mean_frames:>12.2f}{enough:>12}{items}")
    truth = outcomes[0].items_with_truth
    lines.append(
        f"{outcomes[0].items} video items; "
        + (f"{truth} of them say how many frames they need" if truth else "none says how many frames it needs")
    )
    return "\n".join(lines)
