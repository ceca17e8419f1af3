"""Which interval of a change holds the truth where questions share media? Ours beside others; its table is in docs.

    python scripts/other_intervals.py [--trials 12000] [--dry-run]

What is drawn is in `statistics_designs.py`. Tried are, of the change between two models:

- *Tango's*, for as many independent pairs as the media are worth (ours, `vtrap_bench.statistics.change_interval`)
- *Jeffreys'* limits of the shares that gained and lost, put together as for single questions, for as many pairs
- *Jeffreys', larger variance*: the pairs are worth what the larger of the jackknife's variance and that of a design
  effect says, as for scores
- *Jeffreys', more freedom*: t with one degree less than pairs that the media are worth, instead of media
- *Jeffreys' of media*: of the media that gained and lost, each counting as many questions as it changed on average

Jeffreys' are written for many trials at once; a test holds them to the function of vtrap_bench.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special
from statistics_designs import DESIGNS, KNOWN, Design, draw, write_between

from vtrap_bench.statistics import (
    change_interval,
    cluster_sums,
    correlation_within,
    effective_clusters,
    jackknife_error,
    sign_flip_p,
)

FEWEST_MEDIA = [Design(media, size, 0.75, 0.3) for media in (3, 5, 8) for size in (20, 100)]
"""As few media as somebody may try, with many questions on each."""

SHARED = [design for design in DESIGNS if design.size != 1]
CELL = Design(20, 3, 0.9, 0.3)
ENOUGH = 5  # media that changed, on average
MARK = "others"

Floats = NDArray[np.float64]


class Facts(NamedTuple):
    """What intervals are made of, of one trial or of many: float64 [trials], and `net` [trials, media].

    Attributes:
        gained: Share of questions that gained.
        lost: Share that lost.
        variance: Of one question's change.
        jackknife: Squared standard error of the mean change, over media.
        design: The same by a design effect, with the correlation of changes inside a medium.
        media: In effect (Kish 1965).
        questions: Number.
        net: Sum of the changes of each medium.
    """

    gained: Floats
    lost: Floats
    variance: Floats
    jackknife: Floats
    design: Floats
    media: Floats
    questions: Floats
    net: Floats

    @property
    def pairs(self) -> Floats:
        """Independent pairs that the media are worth."""
        return self.variance / self.jackknife


class Bounds(NamedTuple):
    """Ends of intervals: float64 [trials] each."""

    low: Floats
    high: Floats


def facts(design: Design, known: float, *, trials: int, seed: int) -> Facts:
    """Of so many comparisons in which something changed."""
    rng = np.random.default_rng([seed, design.media, design.size, int(100 * design.accuracy), int(100 * known)])
    found: list[Facts] = []
    while len(found) < trials:
        a, b, c, clusters = draw(design, rng)
        one = of((c if known else b) - a, clusters)
        if one.jackknife > 0:
            found.append(one)
    return Facts(*(np.array(column) for column in zip(*found, strict=True)))


def of(change: Floats, clusters: NDArray[np.int64]) -> Facts:
    """Facts of one comparison: the change of each question, and its medium; no error where all media changed alike."""
    names, n = clusters.tolist(), len(change)
    sums, sizes = cluster_sums(change, names)
    alike = np.ptp(sums / sizes) == 0
    return Facts(
        gained=np.maximum(change, 0).mean(),
        lost=np.maximum(-change, 0).mean(),
        variance=change.var(),
        jackknife=np.float64(0 if alike else jackknife_error(sums, sizes) ** 2),
        design=change.var() * np.sum(sizes * (1 + (sizes - 1) * correlation_within(change, names))) / n**2,
        media=np.float64(effective_clusters(sizes)),
        questions=np.float64(n),
        net=sums,
    )


def quantile(df: Floats) -> Floats:
    """Of t at 97.5 %, with so many degrees of freedom, at least one."""
    return np.asarray(special.stdtrit(np.maximum(df, 1), 0.975))


def tango(f: Facts) -> Bounds:
    """Ours."""
    worth = quantile(f.media - 1) ** 2 / f.pairs
    found = [change_interval(*shares, worth=w) for *shares, w in zip(f.gained, f.lost, worth, strict=True)]
    return Bounds(*np.array(found).T)


def jeffreys(f: Facts, pairs: Floats, df: Floats) -> Bounds:
    """Of `single_change_interval`, for so many pairs and degrees of freedom."""
    return put_together(f.gained, f.lost, pairs, special.ndtr(-quantile(df)))


def put_together(gained: Floats, lost: Floats, n: Floats, tail: Floats) -> Bounds:
    """Limits of a difference from Jeffreys' of its parts (Zou and Donner 2008)."""
    low, high = [], []
    for share in (gained, lost):
        right, wrong = share * n + 0.5, (1 - share) * n + 0.5
        low.append(np.where(share > 0, special.betaincinv(right, wrong, tail), 0))
        high.append(np.where(share < 1, special.betaincinv(right, wrong, 1 - tail), 1))
    stay = (1 - gained) * (1 - lost)
    r = -np.sqrt(gained * lost / np.where(stay > 0, stay, 1))
    down, up = (gained - low[0], high[1] - lost), (high[0] - gained, lost - low[1])
    below, above = (np.sqrt(a**2 + b**2 - 2 * r * a * b) for a, b in (down, up))
    return Bounds(gained - lost - below, gained - lost + above)


def of_media(f: Facts) -> Bounds:
    """Each medium that changed counts once; the mean of their squares over their mean is what one counts for."""
    up, down = np.maximum(f.net, 0), np.maximum(-f.net, 0)
    scale = (f.net**2).sum(1) / np.abs(f.net).sum(1)
    gained, lost = up.sum(1) / f.questions, down.sum(1) / f.questions
    return put_together(gained, lost, f.questions / scale, special.ndtr(-quantile(f.media - 1)))


INTERVALS: dict[str, Callable[[Facts], Bounds]] = {
    "Tango's (ours)": tango,
    "Jeffreys'": lambda f: jeffreys(f, f.pairs, f.media - 1),
    "Jeffreys', larger variance": lambda f: jeffreys(f, f.variance / np.maximum(f.jackknife, f.design), f.media - 1),
    "Jeffreys', more freedom": lambda f: jeffreys(f, f.pairs, f.pairs - 1),
    "Jeffreys' of media": of_media,
}


class Held(NamedTuple):
    """Shares of trials: the truth lay below the interval, above it; and media that changed, on average."""

    below: float
    above: float
    changed: float

    @property
    def covered(self) -> float:
        """The truth was in it."""
        return 1 - self.below - self.above


def held(f: Facts, bounds: Bounds, truth: float) -> Held:
    """How often intervals held a truth."""
    below, above = np.mean(truth < bounds.low - 1e-9), np.mean(truth > bounds.high + 1e-9)
    return Held(float(below), float(above), float(np.count_nonzero(f.net, axis=1).mean()))


def table(*, trials: int, seed: int) -> list[str]:
    """The lines of the page."""
    found: dict[str, dict[tuple[Design, float], Held]] = {name: {} for name in INTERVALS}
    against: dict[str, list[float]] = {name: [] for name in INTERVALS}
    for design in [*SHARED, *FEWEST_MEDIA]:
        for known in (0.0, KNOWN):
            f = facts(design, known, trials=trials, seed=seed)
            some = slice(0, trials // 24) if known and design in SHARED else slice(0, 0)
            p = np.array([sign_flip_p(net, flips=999) for net in f.net[some]])
            for name, interval in INTERVALS.items():
                bounds = interval(f)
                found[name][design, known] = held(f, bounds, known * (1 - design.accuracy))
                no = (bounds.low[some] > 0) | (bounds.high[some] < 0)
                against[name] += (no != (p < 0.05)).tolist()
    lines = [
        f"{trials} trials per design in which something changed, in percent.",
        "",
        f"| interval | {CELL.media} media x {CELL.size} at {CELL.accuracy}, true change: covered | lies above it "
        f"| lies below it | of all {2 * len(SHARED)}: lowest | highest with {ENOUGH} media changed "
        "| 3 to 8 media with 20 to 100: lowest | contradicts p |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, cells in found.items():
        cell = cells[CELL, KNOWN]
        shared = [h for (design, _), h in cells.items() if design in SHARED]
        shares = [
            cell.covered,
            cell.below,
            cell.above,
            min(h.covered for h in shared),
            max(h.covered for h in shared if h.changed >= ENOUGH),
            min(h.covered for (design, _), h in cells.items() if design in FEWEST_MEDIA),
            float(np.mean(against[name])),
        ]
        lines.append(f"| {name} | {' | '.join(f'{100 * share:.1f}' for share in shares)} |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=12000, help="per design (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dry-run", action="store_true", help="print only")
    args = parser.parse_args()
    lines = table(trials=args.trials, seed=args.seed)
    print("\n".join(lines))
    if not args.dry_run:
        write_between(MARK, lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
