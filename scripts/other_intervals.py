"""Which interval of a change holds the truth where questions share media? Ours beside others; its table is in docs.

    python scripts/other_intervals.py [--trials 12000] [--dry-run]

What is drawn is in `statistics_designs.py`. Tried are, of the change between two models:

- *Tango's*, for as many independent pairs as the media are worth (ours, `vtrap_bench.statistics.change_interval`)
- *Jeffreys'* limits of the shares that gained and lost, put together as for single questions, for as many pairs
- *Jeffreys', larger variance*: the pairs are worth what the larger of the jackknife's variance and that of a design
  effect says, as for scores
- *Jeffreys', more freedom*: t with one degree less than pairs that the media are worth, instead of media
- *Jeffreys' of media*: of the media that gained and lost, each counting as many questions as it changed on average

Written for many trials at once; a test holds Tango's and the first of Jeffreys' to the functions of vtrap_bench.
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

from vtrap_bench.statistics import sign_flip_p

FEWEST_MEDIA = [Design(media, size, 0.75, 0.3) for media in (3, 5, 8) for size in (20, 100)]
"""As few media as somebody may try, with many questions on each."""

SHARED = [design for design in DESIGNS if design.size != 1]
CELL = Design(20, 3, 0.9, 0.3)
ENOUGH = 5  # media that changed, on average
MARK = "others"

Floats = NDArray[np.float64]


class Facts(NamedTuple):
    """What intervals are made of, per trial: float64 [trials], and `net` [trials, media].

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
    sizes, ups, downs = (np.empty((trials, design.media)) for _ in range(3))
    done = 0
    while done < trials:
        a, b, c, clusters = draw(design, rng)
        change = (c if known else b) - a
        up, down = (np.bincount(clusters, np.maximum(sign * change, 0), design.media) for sign in (1, -1))
        size = np.bincount(clusters, minlength=design.media)
        if np.ptp((up - down) / size) > 0:
            sizes[done], ups[done], downs[done] = size, up, down
            done += 1
    return of(sizes, ups, downs)


def of(sizes: Floats, ups: Floats, downs: Floats) -> Facts:
    """Facts of media with so many questions, of which so many gained and lost: float64 [trials, media] each."""
    media, n, net = sizes.shape[1], sizes.sum(1), ups - downs
    gained, lost = ups.sum(1) / n, downs.sum(1) / n
    change = (gained - lost)[:, None]
    without = (net.sum(1, keepdims=True) - net) / (n[:, None] - sizes)
    between = (sizes * (net / sizes - change) ** 2).sum(1) / (media - 1)
    within = ((ups + downs).sum(1) - (net**2 / sizes).sum(1)) / np.maximum(n - media, 1)
    typical = (n - (sizes**2).sum(1) / n) / (media - 1)
    whole = between + (typical - 1) * within
    alike = np.clip((between - within) / np.where(whole > 0, whole, 1), 0, None)
    variance = gained + lost - (gained - lost) ** 2
    return Facts(
        gained=gained,
        lost=lost,
        variance=variance,
        jackknife=(media - 1) / media * ((without - change) ** 2).sum(1),
        design=variance * (sizes * (1 + (sizes - 1) * alike[:, None])).sum(1) / n**2,
        media=n**2 / (sizes**2).sum(1),
        questions=n,
        net=net,
    )


def quantile(df: Floats) -> Floats:
    """Of t at 97.5 %, with so many degrees of freedom, at least one."""
    return np.asarray(special.stdtrit(np.maximum(df, 1), 0.975))


def tango(f: Facts) -> Bounds:
    """Of `change_interval`, by halving."""
    gained, lost, worth = f.gained, f.lost, quantile(f.media - 1) ** 2 / f.pairs
    change = gained - lost

    def holds(d: Floats) -> NDArray[np.bool_]:
        half = gained + lost - (2 - gained + lost) * d
        q = (half + np.sqrt(np.maximum(0, half**2 + 8 * lost * d * (1 - d)))) / 4
        return np.asarray((change - d) ** 2 <= worth * (2 * q + d * (1 - d)))

    ends = []
    for end in (-1.0, 1.0):
        out, inside = np.full_like(change, end), change
        for _ in range(45):
            middle = (out + inside) / 2
            held = holds(middle)
            out, inside = np.where(held, out, middle), np.where(held, middle, inside)
        ends.append(inside)
    return Bounds(*ends)


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
