"""Do the intervals cover, and does a comparison under the null stay quiet? A simulation; its table is in docs.

Usage: python scripts/check_statistics.py [--trials 5000] [--dry-run]

Every trial draws clusters of questions: a cluster has an ability of its own (beta distributed; `icc` is the
correlation of two of its questions), its questions are right or wrong by it. For the change, a second model answers a
quarter of the questions anew by the same ability, so nothing has truly changed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vtrap_bench.statistics import holm, paired_difference, share_interval

PAGE = Path(__file__).parents[1] / "docs" / "benchmark.md"
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
    """Shares of trials in which the interval held the truth, and in which "no difference" was rejected at 5 %."""

    coverage_share: float
    coverage_change: float
    false_positives: float


DESIGNS = [
    Design(media, size, accuracy, icc)
    for media in (20, 50, 200)
    for size, icc in ((1, 0.0), (3, 0.3), (0, 0.3))
    for accuracy in (0.5, 0.75, 0.9)
]


def draw(design: Design, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two models' answers and the cluster of each."""
    sizes = np.full(design.media, design.size) if design.size else rng.integers(1, 21, design.media)
    if design.icc:
        spread = (1 - design.icc) / design.icc
        level = rng.beta(design.accuracy * spread, (1 - design.accuracy) * spread, design.media)
    else:
        level = np.full(design.media, design.accuracy)
    clusters = np.repeat(np.arange(design.media), sizes)
    chance = level[clusters]
    a = rng.random(len(clusters)) < chance
    b = np.where(rng.random(len(clusters)) < 0.25, rng.random(len(clusters)) < chance, a)
    return a.astype(float), b.astype(float), clusters


def simulate(design: Design, *, trials: int, seed: int) -> Found:
    """Repeat one design."""
    rng = np.random.default_rng([seed, DESIGNS.index(design)])
    covered = change = rejected = 0
    for _ in range(trials):
        a, b, clusters = draw(design, rng)
        low, high = share_interval(a, clusters.tolist())
        covered += low <= design.accuracy <= high
        found = paired_difference(a, b, clusters.tolist())
        change += found.interval.low <= 0 <= found.interval.high
        rejected += found.p < 0.05
    return Found(covered / trials, change / trials, rejected / trials)


def family_wise(*, trials: int, seed: int) -> float:
    """Share of comparisons of five tasks in which at least one is called changed after Holm's adjustment."""
    rng = np.random.default_rng(seed)
    designs = [d for d in DESIGNS if d.media >= 50][:: max(1, len(DESIGNS) // 8)][:5]
    wrong = 0
    for _ in range(trials):
        ps = []
        for design in designs:
            a, b, clusters = draw(design, rng)
            ps.append(paired_difference(a, b, clusters.tolist()).p)
        wrong += min(holm(ps)) < 0.05
    return wrong / trials


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dry-run", action="store_true", help="print only")
    args = parser.parse_args()
    lines = [
        f"{args.trials} trials per row, in percent; two standard errors of a 95 are "
        f"{200 * (0.0475 / args.trials) ** 0.5:.1f}.",
        "",
        "| media | questions each | accuracy | correlation | score covered | change covered | false positives |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    outside = 0
    for design in DESIGNS:
        found = simulate(design, trials=args.trials, seed=args.seed)
        cells = " | ".join(f"{100 * share:.1f}" for share in found)
        row = f"| {design.media} | {design.size or '1 to 20'} | {design.accuracy} | {design.icc} | {cells} |"
        print(row, flush=True)
        lines.append(row)
        outside += not (0.93 <= found.coverage_share <= 0.97 and 0.93 <= found.coverage_change <= 0.97)
    family = family_wise(trials=args.trials, seed=args.seed)
    lines += [
        "",
        f"Five tasks at once, nothing changed: {100 * family:.1f} % of comparisons name one, after Holm.",
    ]
    print(lines[-1], f"\n{outside} of {len(DESIGNS)} rows have a coverage outside 93 to 97 %")
    if not args.dry_run:
        text = PAGE.read_text("utf-8")
        head, rest = text.split(BEGIN, 1)
        tail = rest.split(END, 1)[1]
        PAGE.write_text(head + BEGIN + "\n" + "\n".join(lines) + "\n" + END + tail, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
