"""Do the intervals cover, and does a comparison under the null stay quiet? A simulation; its table is in docs.

Usage: python scripts/check_statistics.py [--trials 10000] [--dry-run]

Every trial draws clusters of questions: a cluster has an ability of its own (beta distributed; `icc` is the
correlation of two of its questions), its questions are right or wrong by it. A second model answers a quarter of the
questions anew by the same ability, so nothing has truly changed. A third is like the second, and knows 30 % of all
questions besides: a true change of 30 % of what the first gets wrong.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vtrap_bench.statistics import (
    RESAMPLES,
    bootstrap_means,
    holm,
    mean_difference,
    paired_difference,
    percentile_interval,
    share_interval,
    sign_flip_p,
)

PAGE = Path(__file__).parents[1] / "docs" / "benchmark.md"
ANEW, KNOWN = 0.25, 0.3
FLIPS = 999  # ten times fewer than `compare` takes; the test is exact with any number
ENOUGH = 5  # media that changed, on average, from which on the intervals of changes are claimed to be within bounds
BEGIN, END = "<!-- coverage -->", "<!-- /coverage -->"


class Design(NamedTuple):
    """Media, questions per medium (0: 1 to 20, drawn), true accuracy, correlation inside a medium."""

    media: int
    size: int
    accuracy: float
    icc: float

    def __str__(self) -> str:
        return f"{self.media}x{self.size or '1-20'} at {self.accuracy}, {self.icc}"


class Found(NamedTuple):
    """What came of the trials of one design.

    Attributes:
        score: Share of trials in which the interval of the score held the truth.
        same: The same of the change between models that are alike, where it had an interval (something changed).
        changed: Mean number of media on which the two had different scores.
        better: The same as `same`, of the model that is truly better.
        gained: Mean number of media on which the two had different scores.
        false_positives: Share of trials in which models that are alike were called different at 5 %.
    """

    score: float
    same: float
    changed: float
    better: float
    gained: float
    false_positives: float


DESIGNS = [
    Design(media, size, accuracy, icc)
    for media in (20, 50, 200)
    for size, icc in ((1, 0.0), (3, 0.3), (0, 0.3))
    for accuracy in (0.5, 0.75, 0.9)
]
SEVERAL = [d for d in DESIGNS if d.media >= 50][::4]


class Several(NamedTuple):
    """What came of comparing several tasks at once.

    Attributes:
        score: Share of trials in which the bootstrap interval of the mean score held the truth.
        same: The same of the mean change between models that are alike.
        better: The same with the model that is truly better.
        wrong: Share of trials in which, of models that are alike, any task was called changed after Holm's adjustment.
    """

    score: float
    same: float
    better: float
    wrong: float


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


def simulate(design: Design, *, trials: int, seed: int) -> Found:
    """Repeat one design."""
    rng = np.random.default_rng([seed, DESIGNS.index(design)])
    truth = KNOWN * (1 - design.accuracy)
    score, same, better, changed, gained, rejected = [], [], [], [], [], []
    for trial in range(trials):
        a, b, c, clusters = draw(design, rng)
        names = clusters.tolist()
        low, high = share_interval(a, names)
        score.append(low <= design.accuracy <= high)
        for other, change, covered, count in ((b, 0.0, same, changed), (c, truth, better, gained)):
            found = paired_difference(a, other, names)
            count.append(np.count_nonzero(found.contributions))
            if found.error > 0:
                covered.append(found.interval.low <= change <= found.interval.high)
            if other is b:
                rejected.append(sign_flip_p(found.contributions, flips=FLIPS, seed=trial) < 0.05)
    return Found(*(float(np.mean(x)) for x in (score, same, changed, better, gained, rejected)))


def several_tasks(*, trials: int, bootstraps: int, seed: int, resamples: int = RESAMPLES) -> Several:
    """Repeat the comparison of several tasks; the bootstrap of the mean score, which is slow, `bootstraps` times."""
    rng = np.random.default_rng(seed)
    accuracy = float(np.mean([d.accuracy for d in SEVERAL]))
    truth = KNOWN * (1 - accuracy)
    score, same, better, wrong = [], [], [], []
    for trial in range(trials):
        tasks = [draw(design, rng) for design in SEVERAL]
        if trial < bootstraps:
            draws = [
                bootstrap_means(a, g.tolist(), seed=i, resamples=resamples) for i, (a, _, _, g) in enumerate(tasks)
            ]
            low, high = percentile_interval(np.mean(draws, axis=0))
            score.append(low <= accuracy <= high)
        alike = [paired_difference(a, b, g.tolist()) for a, b, _, g in tasks]
        low, high = mean_difference(alike).interval
        same.append(low <= 0 <= high)
        low, high = mean_difference([paired_difference(a, c, g.tolist()) for a, _, c, g in tasks]).interval
        better.append(low <= truth <= high)
        ps = [sign_flip_p(f.contributions, flips=FLIPS, seed=trial) for f in alike]
        wrong.append(min(holm(ps)) < 0.05)
    return Several(*(float(np.mean(x)) for x in (score, same, better, wrong)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dry-run", action="store_true", help="print only")
    args = parser.parse_args()
    lines = [
        f"{args.trials} trials per row, in percent; two standard errors of a 95 (and of a 5) are "
        f"{200 * (0.0475 / args.trials) ** 0.5:.1f}.",
        "",
        "| media | questions each | accuracy | correlation | score covered | no change covered | media changed "
        "| true change covered | media changed | false positives |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    outside = [0, 0, 0]
    for design in DESIGNS:
        found = simulate(design, trials=args.trials, seed=args.seed)
        row = (
            f"| {design.media} | {design.size or '1 to 20'} | {design.accuracy} | {design.icc} "
            f"| {100 * found.score:.1f} | {100 * found.same:.1f} | {found.changed:.1f} "
            f"| {100 * found.better:.1f} | {found.gained:.1f} | {100 * found.false_positives:.1f} |"
        )
        print(row, flush=True)
        lines.append(row)
        outside[0] += not 0.93 <= found.score <= 0.97
        outside[1] += found.changed >= ENOUGH and not 0.93 <= found.same <= 0.97
        outside[2] += found.gained >= ENOUGH and not 0.93 <= found.better <= 0.97
    fewer = max(1, args.trials // 20)
    several = several_tasks(trials=args.trials, bootstraps=fewer, seed=args.seed)
    lines += [
        "",
        f"{len(SEVERAL)} tasks at once: the interval of the mean score held the truth ({fewer} trials) in "
        f"{100 * several.score:.1f} %, that of the mean change in {100 * several.same:.1f} % (no change) and "
        f"{100 * several.better:.1f} % (true change). Nothing changed: {100 * several.wrong:.1f} % of "
        "comparisons name a task, after Holm.",
    ]
    print(lines[-1])
    print(
        f"outside 93 to 97 %: {outside[0]} scores; with {ENOUGH} media changed, {outside[1]} and {outside[2]} changes"
    )
    if not args.dry_run:
        text = PAGE.read_text("utf-8")
        head, rest = text.split(BEGIN, 1)
        tail = rest.split(END, 1)[1]
        PAGE.write_text(head + BEGIN + "\n" + "\n".join(lines) + "\n" + END + tail, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
