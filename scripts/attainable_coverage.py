"""Could the interval of a change cover less where it covers too often? An exact calculation; its tables are in docs.

Usage: python scripts/attainable_coverage.py [--dry-run]   (a minute of one core)

With few media that changed there are few outcomes, and an interval either holds the truth after an outcome or does
not. Which outcomes a truth could be left out after is a choice of finitely many, so an integer programme finds the
lowest coverage of a truth by any interval that

- covers at least 93 % of the time there and under no change, whatever share of questions is answered anew, and
  whatever the accuracy and the correlation inside a medium;
- is a pair of bounds, as it is read: neither lies on the wrong side of that truth more than 3.5 % of the time;
- goes by the change of each medium, and lies no lower after a medium changed by more;
- is the same with its sign turned when the models change places;
- never leaves out no change where at most three media changed: if they did so all one way, that is chance every fourth
  time or oftener.

Media with 1 to 20 questions have too many outcomes for that. There, of models that are alike, every pattern of ups
and downs is equally likely, which bounds any interval that covers at least 93 % whatever the number of media that
changed.

The designs, and how models answer, are those of `statistics_designs.py`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, sparse, special, stats
from statistics_designs import ANEW, DESIGNS, KNOWN, Design, draw, write_between

from vtrap_bench.statistics import change_interval, share_interval, single_change_interval

FEW = [d for d in DESIGNS if d.media == 20 and d.size == 1] + [Design(20, 3, 0.9, 0.3), Design(50, 1, 0.9, 0.0)]
UNEVEN = Design(20, 0, 0.9, 0.3)

LEAST = 0.93
NEVER = 3
"""So few media that changed never show a change."""

MOST_MEDIA = {1: 12, 3: 7}
"""Outcomes in which more media changed, by questions each, count as left out at no cost: it can only flatter."""

ACCURACIES = (0.5, 0.75, 0.9, 0.95)

Z = float(special.ndtri(0.975))
ATTAINABLE, GRID = "attainable", "grid"  # marks in the page

Floats = NDArray[np.float64]
Outcome = tuple[int, ...]
"""How many media changed by +1, +2, ... questions, then by -1, -2, ..."""


class Truth(NamedTuple):
    """A design and how its second model answers.

    Attributes:
        design: Of the questions.
        known: Share of all questions that the second model knows.
        anew: Share that it answers anew.
    """

    design: Design
    known: float
    anew: float = ANEW

    @property
    def change(self) -> float:
        """Of the score."""
        return self.known * (1 - self.design.accuracy)

    def others(self) -> list[Truth]:
        """The same change, with other shares answered anew, accuracies and correlations."""
        single = self.design.size == 1
        shares = np.arange(0.04, 1.001, 0.04 if single else 0.08)
        return [
            Truth(self.design._replace(accuracy=accuracy, icc=icc), self.change / (1 - accuracy), float(share))
            for accuracy in dict.fromkeys((self.design.accuracy, *ACCURACIES))
            if self.change <= 1 - accuracy
            for share in shares
            for icc in ((0.0,) if single else (0.0, 0.3, 0.7))
        ]


def change_of_a_medium(truth: Truth) -> Floats:
    """Probability that a medium changes by -size, ..., size questions: float64 [2 size + 1]."""
    _, size, accuracy, icc = truth.design
    levels, weights = np.array([accuracy]), np.array([1.0])
    if icc:  # a polynomial of degree 2 size, so these few levels of the beta distribution give it exactly
        spread = (1 - icc) / icc
        levels, weights = special.roots_sh_jacobi(size + 1, spread - 1, accuracy * spread)
        weights = weights / weights.sum()
    anew = (1 - truth.known) * truth.anew * levels * (1 - levels)
    gain, loss = anew + truth.known * (1 - levels), anew
    sums = one = np.stack([loss, 1 - gain - loss, gain], axis=1)
    for _ in range(size - 1):
        sums = np.stack([np.convolve(a, b) for a, b in zip(sums, one, strict=True)])
    return np.asarray(weights @ sums)


def outcomes(size: int, most: int) -> list[Outcome]:
    """All with at most `most` media that changed, the first with none."""
    found: list[Outcome] = [()]
    for _ in range(2 * size):
        found = [(*some, count) for some in found for count in range(most - sum(some) + 1)]
    return found


def probabilities(outcomes: Sequence[Outcome], media: int, change: Floats) -> Floats:
    """Of each outcome, given that a medium changed at all; 0 of the outcome in which none did."""
    size = len(change) // 2
    each = np.concatenate([change[size + 1 :], change[:size][::-1]])
    counts = np.array(outcomes)
    rest = media - counts.sum(axis=1)
    ways = special.gammaln(media + 1) - special.gammaln(rest + 1) - special.gammaln(counts + 1).sum(axis=1)
    found = np.exp(ways + special.xlogy(counts, each).sum(axis=1) + special.xlogy(rest, change[size]))
    return np.asarray(np.where(counts.any(axis=1), found, 0) / (1 - change[size] ** media))


def raised(outcomes: Sequence[Outcome], media: int) -> list[tuple[int, int]]:
    """Places of two outcomes, of which the second is the first with one medium changed by one question more."""
    place = {outcome: i for i, outcome in enumerate(outcomes)}
    size, pairs = len(outcomes[0]) // 2, []
    for outcome, i in place.items():
        for change in range(-size, size):
            counts = list(outcome)
            for value, step in ((change, -1), (change + 1, 1)):
                if value:
                    counts[value - 1 if value > 0 else size - value - 1] += step
            if min(counts) >= 0 and sum(counts) <= media and (j := place.get(tuple(counts))) is not None:
                pairs.append((i, j))
    return pairs


def lowest_coverage(truth: Truth, *, most: int, on_a_side: float = 0.5) -> float:
    """The lowest coverage of this truth that an interval can have (see the top of the file).

    Args:
        truth: Whose.
        most: Media that changed, see MOST_MEDIA.
        on_a_side: Share of what is missed that may be missed on the same side. 1: all, so no pair of bounds.
    """
    media, size = truth.design.media, truth.design.size
    every = outcomes(size, most)
    count, place = len(every), {outcome: i for i, outcome in enumerate(every)}
    mirror = np.array([place[outcome[size:] + outcome[:size]] for outcome in every])
    # Unknown, 0 or 1, per outcome: does the interval lie above the truth, below it, above no change?
    above, below, zero = (np.arange(count) + count * i for i in range(3))
    less: list[tuple[int, int]] = []  # the first unknown is at most the second
    for i, j in raised(every, media):
        less += [(above[i], above[j]), (below[j], below[i]), (zero[i], zero[j])]
    less += [*zip(above, zero, strict=True), *zip(zero[mirror], below, strict=True)]
    if truth.change == 0:
        less += [*zip(zero, above, strict=True), *zip(below, zero[mirror], strict=True)]
    one = sparse.eye_array(count, format="csr")
    limits = np.ones(3 * count)
    limits[zero[np.sum(every, axis=1) <= NEVER]] = 0
    at_most = [
        sparse.csr_array(
            (np.tile([1.0, -1.0], len(less)), (np.repeat(np.arange(len(less)), 2), np.ravel(less))),
            shape=(len(less), 3 * count),
        ),
        sparse.hstack([one, one, sparse.csr_array((count, count))]),
        sparse.hstack([sparse.csr_array((count, 2 * count)), one + one[mirror]]),
    ]
    bounds = [np.zeros(len(less)), np.ones(2 * count)]
    for other in truth.others():
        p = probabilities(every, media, change_of_a_medium(other))
        q = probabilities(every, media, change_of_a_medium(other._replace(known=0.0)))
        no = np.zeros(count)
        left_out = [[*p, *p, *no], [*no, *no, *(q + q[mirror])], [*p, *no, *no], [*no, *p, *no]]
        at_most.append(sparse.csr_array(np.array(left_out)))
        bounds.append((1 - LEAST) * np.array([1, 1, on_a_side, on_a_side]))
    p = probabilities(every, media, change_of_a_medium(truth))
    solved = optimize.milp(
        np.concatenate([-p, -p, np.zeros(count)]),
        constraints=optimize.LinearConstraint(sparse.vstack(at_most).tocsr(), ub=np.concatenate(bounds)),
        integrality=np.ones(3 * count),
        bounds=optimize.Bounds(0, limits),
    )
    if not solved.success:
        raise RuntimeError(f"{truth}: {solved.message}")
    return float(p.sum() + solved.mip_dual_bound)


@cache
def least_possible(design: Design, known: float) -> float:
    """Lowest coverage of a change that any interval has which is as good elsewhere; see the top of the file.

    Raises:
        ValueError: It has not been worked out for this design.
    """
    if design.size in MOST_MEDIA:
        return lowest_coverage(Truth(design, known), most=MOST_MEDIA[design.size])
    if design.size == 0 and known == 0:
        return lowest_by_signs(design, trials=10000, seed=0)
    raise ValueError(f"{design}: what is possible has been worked out for {set(MOST_MEDIA)} questions, or no change")


@cache
def pairs(media: int) -> list[Outcome]:
    """All outcomes of single questions."""
    return outcomes(1, media)


@cache
def intervals(media: int) -> Floats:
    """Ours, of single questions, per outcome of `pairs`: float64 [outcomes, 2]; no change (the first) has none."""
    found = [single_change_interval(up / media, down / media, pairs=media) for up, down in pairs(media)[1:]]
    return np.array([(-1.0, 1.0), *found])


@cache
def tango_intervals(media: int) -> Floats:
    """The same of Tango's."""
    found = [change_interval(up / media, down / media, worth=Z**2 / media) for up, down in pairs(media)[1:]]
    return np.array([(-1.0, 1.0), *found])


def held(intervals: Floats, truth: float, p: Floats) -> float:
    """How often intervals hold a truth, with the probability of each."""
    low, high = intervals.T
    return float(p @ ((low <= truth + 1e-9) & (truth - 1e-9 <= high)))


def coverage(truth: Truth) -> float:
    """How often our interval of single questions holds the truth."""
    media = truth.design.media
    return held(intervals(media), truth.change, probabilities(pairs(media), media, change_of_a_medium(truth)))


class Spread(NamedTuple):
    """Coverage over many truths.

    Attributes:
        low: The lowest.
        mean: Of all.
        high: The highest.
        within: Share of truths with 93 to 97 %.
    """

    low: float
    mean: float
    high: float
    within: float

    def __str__(self) -> str:
        return " | ".join(f"{100 * share:.1f}" for share in self[:3]) + f" | {100 * self.within:.0f}"


def spread(shares: Sequence[float]) -> Spread:
    """Of these coverages."""
    found = np.array(shares)
    return Spread(found.min(), found.mean(), found.max(), float(np.mean((found >= LEAST) & (found <= 0.97))))


def over_changes(media: int, *, most: float) -> tuple[Spread, Spread]:
    """Of ours and of Tango's, on single questions: all changes up to `most` with all rates of losses.

    Only where a medium or more is expected to change.
    """
    ours, tango = [], []
    for change in np.arange(0, most + 1e-9, 0.01):
        for loss in (0, 0.002, 0.005, 0.01, 0.02, *np.arange(0.03, 0.5, 0.03)):
            stay = 1 - 2 * loss - change
            if stay > 0 and media * (1 - stay) >= 1:
                p = probabilities(pairs(media), media, np.array([loss, stay, loss + change]))
                ours.append(held(intervals(media), change, p))
                tango.append(held(tango_intervals(media), change, p))
    return spread(ours), spread(tango)


def over_scores(media: int) -> Spread:
    """Of Wilson's interval of a score, on single questions: accuracies of 10 to 90 %."""
    right = np.arange(media + 1)
    found = np.array([share_interval(np.arange(media) < count, range(media)) for count in right])
    return spread([held(found, a, stats.binom.pmf(right, media, a)) for a in np.arange(0.1, 0.9001, 0.001)])


def lowest_by_signs(design: Design, *, trials: int, seed: int) -> float:
    """Lowest coverage of no change by an interval that covers at least 93 % whatever the number of changed media.

    Counts the media that change; with k of them, an interval leaves out 0 after a whole number of 2^(k-1) patterns.
    Patterns come in pairs that are each other with all signs turned: both or neither are left out.
    """
    rng = np.random.default_rng(seed)
    number = np.empty(trials)
    for trial in range(trials):
        a, b, _, clusters = draw(design, rng)
        number[trial] = np.count_nonzero(np.bincount(clusters, weights=b - a))
    pairs = 2.0 ** (number[number > 0] - 1)
    return float(np.mean(1 - np.floor((1 - LEAST) * pairs) / pairs))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="print only")
    args = parser.parse_args()
    possible, grid = possibilities(), fine_grid()
    if not args.dry_run:
        write_between(ATTAINABLE, possible)
        write_between(GRID, grid)
    return 0


def possibilities() -> list[str]:
    """What is possible where few media change, as lines of the page."""
    lines = [
        "| media | questions each | accuracy | true change | ours covers, exactly | least possible "
        "| missing on one side |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for design in FEW:
        for truth in (Truth(design, 0.0), Truth(design, KNOWN)):
            exact = f"{100 * coverage(truth):.1f}" if design.size == 1 else "see above"
            least = f"{100 * least_possible(design, truth.known):.1f}"
            one_side = f"{100 * lowest_coverage(truth, most=MOST_MEDIA[design.size], on_a_side=1):.1f}"
            cells = [design.media, design.size, design.accuracy, f"{100 * truth.change:.1f}", exact, least, one_side]
            lines.append(f"| {' | '.join(map(str, cells))} |")
            print(lines[-1], flush=True)
    lines += [
        "",
        f"{UNEVEN.media} media with 1 to 20 questions at {UNEVEN.accuracy}, no change: an interval that covers "
        f"{100 * LEAST:.0f} % or more whatever the number of media that changed covers "
        f"{100 * least_possible(UNEVEN, 0.0):.1f} % or more.",
    ]
    print(lines[-1])
    return lines


def fine_grid() -> list[str]:
    """Coverage over many truths, one question per medium, as lines of the page."""
    lines = [
        "| media | interval | truths | lowest | mean | highest | within 93 to 97 |",
        "|---:|---|---|---:|---:|---:|---:|",
    ]
    for media in (10, 20, 30, 50, 100):
        lines.append(f"| {media} | score | 10 to 90 % | {over_scores(media)} |")
        for most in (0.3, 0.9):
            ours, tango = over_changes(media, most=most)
            lines.append(f"| {media} | change | 0 to {100 * most:.0f} points | {ours} |")
            lines.append(f"| {media} | change, Tango's | 0 to {100 * most:.0f} points | {tango} |")
        print(*lines[-5:], sep="\n", flush=True)
    return lines


if __name__ == "__main__":
    sys.exit(main())
