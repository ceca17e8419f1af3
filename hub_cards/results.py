"""What is one number of a benchmark, and one row of a comparison, as cards and pages show it?

Scores are in percent (0 to 100, higher is better), changes in percentage points.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


class Estimate(NamedTuple):
    """A number with its confidence interval; `low` and `high` are None when no interval was computed."""

    value: float
    low: float | None = None
    high: float | None = None

    def text(self, *, signed: bool = False) -> str:
        """As people read it, with one decimal.

        Example:
            >>> Estimate(61.25, 58, 64.5).text(), Estimate(-2.0).text(signed=True), Estimate(0.0).text(signed=True)
            ('61.2 [58.0, 64.5]', '−2.0', '0.0')
        """
        show = _signed if signed else "{:.1f}".format
        if self.low is None or self.high is None:
            return show(self.value)
        return f"{show(self.value)} [{show(self.low)}, {show(self.high)}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultRow:
    """One model at one frame setting.

    Attributes:
        model: Hub id or the name it goes by.
        base: The model it was fine-tuned from; None for a base.
        frames: Frame setting of the scoring: "8", "16", ..., "budget".
        trained: Frame setting of the training, if it was trained.
        image: Mean score over the image tasks.
        video: Mean score over the video tasks.
        image_change: `image` minus that of the base at the same frame setting.
        video_change: The same for video.
        mean_frames: Frames per video question.
        tasks: Score per task.
        items: Questions scored.
        date: ISO date of the run.
        records: Link to the run's records: https, or relative to the page.
        notes: What else a reader must know, in a sentence.
        synthetic: Scored on generated data.
    """

    model: str
    frames: str
    base: str | None = None
    trained: str | None = None
    image: Estimate | None = None
    video: Estimate | None = None
    image_change: Estimate | None = None
    video_change: Estimate | None = None
    mean_frames: float | None = None
    tasks: Mapping[str, Estimate] = field(default_factory=dict)
    items: int | None = None
    date: str = ""
    records: str | None = None
    notes: str = ""
    synthetic: bool = False

    def __post_init__(self) -> None:
        named = {"image": self.image, "video": self.video, "image_change": self.image_change}
        for name, estimate in {**named, "video_change": self.video_change, **self.tasks}.items():
            if estimate is not None and not all(math.isfinite(x) for x in estimate if x is not None):
                raise ValueError(f"{self.model}: {name} is {tuple(estimate)}: scores must be finite numbers")


def _signed(value: float) -> str:
    text = f"{value:+.1f}"
    return text[1:] if text in ("+0.0", "-0.0") else text.replace("-", "−")
