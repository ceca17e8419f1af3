"""What does an allocation look at, in packing a corpus and in giving it other budgets, and what comes of it?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from vtrap_data.budgets.allocate import DELTA, Allocation, Need, allocate, reads_questions
from vtrap_data.budgets.demand import demands
from vtrap_data.samples import IMAGE_MARK, VIDEO_MARK, Item
from vtrap_data.shards.manifest import PackSettings


class Asked(NamedTuple):
    """A video item: its id, what its question says, how many frames it needs, facts of its video.

    Attributes:
        scores: What a model said of its budgets, for the strategies that ask one.
    """

    id: str
    text: str
    needs: int | None
    residuals: tuple[float, ...]
    distinct: int
    scores: tuple[float, ...] = ()

    @classmethod
    def of(cls, item: Item, *, residuals: tuple[float, ...], distinct: int) -> Asked:
        """An item and what was measured of its video."""
        return cls(item.id, item_text(item), item.needs, residuals, distinct)


def item_text(item: Item) -> str:
    """What a budget strategy reads: the bare question, or else the user's turns without the marks."""
    text = item.question or "\n".join(message.content for message in item.messages if message.role == "user")
    return text.replace(VIDEO_MARK, " ").replace(IMAGE_MARK, " ").strip()


def demand_scores(items: Sequence[Asked], settings: PackSettings) -> list[float | None]:
    """The demand of every item's question, or None for each when the strategy does not look at questions."""
    if not items or not reads_questions(settings.strategy):
        return [None] * len(items)
    return list(demands([one.text for one in items], scorer=settings.scorer))


def allocated(
    items: Sequence[Asked], scores: Sequence[float | None], settings: PackSettings, *, delta: float = DELTA
) -> Allocation:
    """The budget of every item. Raises as `budgets.allocate.allocate`."""
    return allocate(
        settings.strategy,
        [
            Need(demand=score, residuals=one.residuals, distinct=one.distinct, scores=one.scores)
            for one, score in zip(items, scores, strict=True)
        ],
        budgets=settings.budgets,
        mean_frames=settings.mean_frames,
        seed=settings.seed,
        delta=delta,
    )
