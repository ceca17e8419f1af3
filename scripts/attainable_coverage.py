"""Could the interval of a change cover less where it covers too often? An exact calculation; its table is in docs.

Usage: python scripts/attainable_coverage.py [--dry-run]   (two minutes of one core)

With few media that changed there are few outcomes, and an interval either holds the truth after an outcome or does
not. Which outcomes a truth could be left out after is a choice of finitely many, so an integer programme finds the
lowest coverage of a truth by any interval that

- covers at least 93 % of the time there and under no change, whatever share of questions is answered anew, and
  whatever the correlation inside a medium;
- goes by the change of each medium, and lies no lower after a medium changed by more;
- is the same with its sign turned when the models change places.

Media with 1 to 20 questions have too many outcomes for that. There, of models that are alike, every pattern of ups
and downs is equally likely, which bounds any interval that covers at least 93 % whatever the number of media that
changed.

The designs, and how models answer, are those of `check_statistics.py`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from check_statistics import ANEW, DESIGNS, KNOWN, Design, draw, write_between
from numpy.typing import NDArray
from scipy import optimize, sparse, special

from vtrap_bench.statistics import change_interval, paired_difference

FEW = [d for d in DESIGNS if d.media == 20 and d.size == 1] + [Design(20, 3, 0.9, 0.3), Design(50, 1, 0.9, 0.0)]
UNEVEN = Design(20, 0, 0.9, 0.3)
"""Where an interval of `check_statistics.py` covers more than 97 %: always with fewer than five media that changed."""

LEAST = 0.93
MOST_MEDIA = {1: 12, 3: 6}
"""Outcomes in which more media changed, by questions each, count as left out at no cost: it can only flatter."""

Z = float(special.ndtri(0.975))
ATTAINABLE = "attainable"  # mark in the page

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
        """The same change, with other shares answered anew and other correlations."""
        shares = np.arange(0.04, 1.001, 0.04)
        correlations = (0.0, 0.3, 0.7) if self.design.size > 1 else (0.0,)
        return [Truth(self.design._replace(icc=c), self.known, float(share)) for share in shares for c in correlations]


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


def lowest_coverage(truth: Truth, *, most: int) -> float:
    """The lowest coverage of this truth that an interval can have (see the top of the file)."""
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
        left_out = [[*p, *p, *np.zeros(count)], [*np.zeros(2 * count), *(q + q[mirror])]]
        at_most.append(sparse.csr_array(np.array(left_out)))
        bounds.append(np.full(2, 1 - LEAST))
    p = probabilities(every, media, change_of_a_medium(truth))
    solved = optimize.milp(
        np.concatenate([-p, -p, np.zeros(count)]),
        constraints=optimize.LinearConstraint(sparse.vstack(at_most).tocsr(), ub=np.concatenate(bounds)),
        integrality=np.ones(3 * count),
        bounds=optimize.Bounds(0, 1),
    )
    if not solved.success:
        raise RuntimeError(f"{truth}: {solved.message}")
    return float(p.sum() + solved.mip_dual_bound)


@cache
def pairs(media: int) -> list[Outcome]:
    """All outcomes of single questions."""
    return outcomes(1, media)


@cache
def intervals(media: int) -> Floats:
    """Ours, of single questions, per outcome of `pairs`: float64 [outcomes, 2]; no change (the first) has none."""
    found = [change_interval(up / media, down / media, worth=Z**2 / media) for up, down in pairs(media)[1:]]
    return np.array([(-1.0, 1.0), *found])


def coverage(truth: Truth) -> float:
    """How often our interval of single questions holds the truth."""
    low, high = intervals(truth.design.media).T
    p = probabilities(pairs(truth.design.media), truth.design.media, change_of_a_medium(truth))
    return float(p @ ((low <= truth.change + 1e-9) & (truth.change - 1e-9 <= high)))


def mid_p_coverage(truth: Truth) -> float:
    """The same of the interval that an exact test makes: the statistic of ours, its distribution counted out.

    Left out are truths with a mid-p (half the probability of an outcome as far counts) of 0.025 or less on a side. The
    rate of losses, which the truth leaves open, is the likeliest one.
    """
    media, change = truth.design.media, truth.change
    gained, lost = np.array(pairs(media)).T / media
    half = gained + lost - (2 - gained + lost) * change
    losses = (half + np.sqrt(np.maximum(0, half**2 + 8 * lost * change * (1 - change)))) / 4
    score = (gained - lost - change) / np.sqrt(np.maximum(1e-12, 2 * losses + change * (1 - change)))
    held = np.ones(len(score), dtype=bool)
    for i, q in enumerate(losses):
        if q + change > 0:
            p = probabilities(pairs(media), media, np.array([q, 1 - 2 * q - change, q + change]))
            p *= 1 - (1 - 2 * q - change) ** media
            p[0] = (1 - 2 * q - change) ** media
            tie = p @ (np.abs(score - score[i]) < 1e-9) / 2
            higher, lower = p @ (score > score[i] + 1e-9), p @ (score < score[i] - 1e-9)
            held[i] = min(higher, lower) + tie > 0.025
    return float(probabilities(pairs(media), media, change_of_a_medium(truth)) @ held)


class Signs(NamedTuple):
    """What came of models that are alike.

    Attributes:
        few: Share of trials (in which something changed) with at most three media that changed.
        others: How often our interval held 0 in the others.
        lowest: Lowest coverage of 0 by an interval that covers at least 93 % whatever the number of changed media.
    """

    few: float
    others: float
    lowest: float


def by_signs(design: Design, *, trials: int, seed: int) -> Signs:
    """Count the media that change; with k of them, an interval leaves out 0 after a whole number of 2^(k-1) patterns.

    Patterns come in pairs that are each other with all signs turned: both or neither are left out.
    """
    rng = np.random.default_rng(seed)
    changed, held = [], []
    for _ in range(trials):
        a, b, _, clusters = draw(design, rng)
        found = paired_difference(a, b, clusters.tolist())
        if found.error > 0:
            changed.append(np.count_nonzero(found.contributions))
            held.append(found.interval.low <= 0 <= found.interval.high)
    number = np.array(changed)
    pairs = 2.0 ** (number - 1)
    return Signs(
        few=float(np.mean(number <= 3)),
        others=float(np.mean(np.array(held)[number > 3])),
        lowest=float(np.mean(1 - np.floor((1 - LEAST) * pairs) / pairs)),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="print only")
    args = parser.parse_args()
    lines = [
        "| media | questions each | accuracy | true change | ours covers | lowest possible | exact test, mid-p |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for design in FEW:
        for truth in (Truth(design, 0.0), Truth(design, KNOWN)):
            single = design.size == 1
            shares = [lowest_coverage(truth, most=MOST_MEDIA[design.size])]
            if single:
                shares = [coverage(truth), *shares, mid_p_coverage(truth)]
            told = [f"{100 * share:.1f}" for share in shares]
            told = told if single else ["see above", *told, "-"]
            cells = [design.media, design.size, design.accuracy, f"{100 * truth.change:.1f}", *told]
            lines.append(f"| {' | '.join(map(str, cells))} |")
            print(lines[-1], flush=True)
    lines.append("")
    for media in (20, 50):
        truths = [
            Truth(Design(media, 1, accuracy, 0.0), known, anew)
            for accuracy in (0.5, 0.75, 0.9)
            for known in np.arange(0, 0.61, 0.04).tolist()
            for anew in (0.1, 0.25, 0.5, 0.75, 1.0)
        ]
        lines.append(
            f"Over {len(truths)} truths on {media} media with one question each, ours covers "
            f"{100 * min(map(coverage, truths)):.1f} % or more, the exact test "
            f"{100 * min(map(mid_p_coverage, truths)):.1f} %."
        )
        print(lines[-1], flush=True)
    signs = by_signs(UNEVEN, trials=10000, seed=0)
    lines += [
        "",
        f"{UNEVEN.media} media with 1 to 20 questions at {UNEVEN.accuracy}, no change (10000 trials): in "
        f"{100 * signs.few:.1f} % at most three media changed, in the others ours covers {100 * signs.others:.1f} %. "
        f"An interval that covers {100 * LEAST:.0f} % or more whatever the number of media that changed covers "
        f"{100 * signs.lowest:.1f} % or more.",
    ]
    print(lines[-1])
    if not args.dry_run:
        write_between(ATTAINABLE, lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
