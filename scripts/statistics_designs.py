"""Designs of questions for simulations of the statistics, and how three models answer them.

Every draw has clusters of questions: a cluster has an ability of its own (beta distributed; `icc` is the correlation
of two of its questions), its questions are right or wrong by it. A second model answers a quarter of the questions
anew by the same ability, so nothing has truly changed. A third is like the second, and knows 30 % of all questions
besides: a true change of 30 % of what the first gets wrong.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

PAGE = Path(__file__).parents[1] / "docs" / "benchmark.md"
ANEW, KNOWN = 0.25, 0.3


class Design(NamedTuple):
    """Media, questions per medium (0: 1 to 20, drawn), true accuracy, correlation inside a medium."""

    media: int
    size: int
    accuracy: float
    icc: float

    def __str__(self) -> str:
        return f"{self.media}x{self.size or '1-20'} at {self.accuracy}, {self.icc}"


DESIGNS = [
    Design(media, size, accuracy, icc)
    for media in (20, 50, 200)
    for size, icc in ((1, 0.0), (3, 0.3), (0, 0.3))
    for accuracy in (0.5, 0.75, 0.9)
]
BEYOND = [
    Design(10, 0, 0.75, 0.3),
    Design(50, 0, 0.97, 0.3),
    Design(200, 0, 0.97, 0.3),
    Design(50, 0, 0.5, 0.7),
    Design(50, 0, 0.9, 0.7),
]
"""Fewer media, more extreme or more alike: shown, but no bounds are claimed."""

ELSEWHERE = [
    Design(media, size, accuracy, icc)
    for media in (15, 35, 120)
    for size, icc in ((1, 0.0), (2, 0.1), (5, 0.5), (0, 0.15))
    for accuracy in (0.4, 0.6, 0.85)
]
"""At which nothing was looked for when the intervals were chosen."""


def draw(design: Design, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Three models' answers and the cluster of each question."""
    sizes = np.full(design.media, design.size) if design.size else rng.integers(1, 21, design.media)
    if design.icc:
        spread = (1 - design.icc) / design.icc
        level = rng.beta(design.accuracy * spread, (1 - design.accuracy) * spread, design.media)
    else:
        level = np.full(design.media, design.accuracy)
    clusters = np.repeat(np.arange(design.media), sizes)
    chance, n = level[clusters], len(clusters)
    a = rng.random(n) < chance
    b = np.where(rng.random(n) < ANEW, rng.random(n) < chance, a)
    c = np.where(rng.random(n) < ANEW, rng.random(n) < chance, a) | (rng.random(n) < KNOWN)
    return a.astype(float), b.astype(float), c.astype(float), clusters


def write_between(mark: str, lines: list[str]) -> None:
    """Put lines into the page, between `<!-- mark -->` and `<!-- /mark -->`."""
    begin, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    head, rest = PAGE.read_text("utf-8").split(begin, 1)
    PAGE.write_text(head + begin + "\n" + "\n".join(lines) + "\n" + end + rest.split(end, 1)[1], "utf-8")
