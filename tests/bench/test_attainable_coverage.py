"""scripts/attainable_coverage.py: the exact calculation, against counting out every case of a few questions."""

import importlib
import itertools
from pathlib import Path

import numpy as np
import pytest
from scipy import optimize, stats

from vtrap_bench.statistics import change_interval, paired_difference

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture(scope="module")
def exact():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPTS)
        yield importlib.import_module("attainable_coverage")


def truth_of(exact, media, known, size=1, accuracy=0.6, icc=0.0):
    return exact.Truth(exact.Design(media, size, accuracy, icc), known)


@pytest.mark.parametrize("known", [0.0, 0.3])
def test_change_of_a_medium_is_that_of_the_simulation(exact, known):
    design = exact.Design(40000, 3, 0.8, 0.4)
    a, b, c, clusters = exact.draw(design, np.random.default_rng(0))
    changes = np.bincount(clusters, weights=(c if known else b) - a).astype(int)
    seen = np.bincount(changes + 3, minlength=7) / design.media
    assert exact.change_of_a_medium(exact.Truth(design, known)) == pytest.approx(seen, abs=0.01)


@pytest.mark.parametrize("known", [0.0, 0.3])
def test_coverage_is_that_of_every_case_counted_out(exact, known):
    media, truth = 5, truth_of(exact, 5, known)
    loss, same, gain = exact.change_of_a_medium(truth)
    held = total = 0.0
    for changes in itertools.product((-1, 0, 1), repeat=media):
        up, down = changes.count(1), changes.count(-1)
        if not up + down:
            continue
        p = gain**up * loss**down * same ** (media - up - down)
        if media in (up, down):  # `paired_difference` has no interval then, as nothing varies
            low, high = change_interval(up / media, down / media, worth=exact.Z**2 / media)
        else:
            before = np.array(changes) < 0
            low, high = paired_difference(before, before + changes, range(media)).interval
        total += p
        held += p * (low <= truth.change <= high)
    assert exact.coverage(truth) == pytest.approx(held / total)


@pytest.mark.parametrize("known", [0.0, 0.4])
def test_mid_p_is_that_of_every_case_counted_out(exact, known):
    media, truth = 6, truth_of(exact, 6, known)
    cases = [(g, loss) for g in range(media + 1) for loss in range(media + 1 - g)]

    def distribution(q):
        p = [q + truth.change, q, 1 - 2 * q - truth.change]
        return np.array([stats.multinomial.pmf([g, loss, media - g - loss], media, p) for g, loss in cases])

    def likeliest(g, loss):
        def minus_log(q):
            return -stats.multinomial.logpmf(
                [g, loss, media - g - loss], media, [q + truth.change, q, 1 - 2 * q - truth.change]
            )

        return optimize.minimize_scalar(
            minus_log, bounds=(0, (1 - truth.change) / 2), method="bounded", options={"xatol": 1e-10}
        ).x

    rates = [likeliest(*case) for case in cases]
    score = np.array(
        [
            (g - loss - media * truth.change) / np.sqrt(media * (2 * q + truth.change * (1 - truth.change)) + 1e-12)
            for (g, loss), q in zip(cases, rates, strict=True)
        ]
    )
    held = []
    for q, own in zip(rates, score, strict=True):
        p = distribution(q)
        tie = p[np.abs(score - own) < 1e-4].sum() / 2
        held.append(min(p[score > own + 1e-4].sum(), p[score < own - 1e-4].sum()) + tie > 0.025)
    p = distribution(exact.change_of_a_medium(truth)[0])
    assert exact.mid_p_coverage(truth) == pytest.approx(p[1:] @ held[1:] / p[1:].sum(), abs=1e-6)


@pytest.mark.parametrize("least", [0.5, 0.8, 0.9])
@pytest.mark.parametrize("known", [0.0, 0.3])
def test_lowest_coverage_is_that_of_every_interval_tried(exact, known, least, monkeypatch):
    monkeypatch.setattr(exact, "LEAST", least)
    media, truth = 3, truth_of(exact, 3, known)
    cases = exact.outcomes(1, media)
    place = {case: i for i, case in enumerate(cases)}
    turned = [place[down, up] for up, down in cases]
    rising = []  # sets that hold, with an outcome, those with a gain more or a loss less
    for chosen in itertools.product((False, True), repeat=len(cases)):
        more = [(place[c], place[o]) for c in cases for o in ((c[0] + 1, c[1]), (c[0], c[1] - 1)) if o in place]
        if all(chosen[o] or not chosen[c] for c, o in more):
            rising.append(np.array(chosen))

    def p_of(truth):
        return exact.probabilities(cases, media, exact.change_of_a_medium(truth))

    here = [p_of(other) for other in truth.others()]
    alike = [p_of(other._replace(known=0.0)) for other in truth.others()]
    lowest = 1.0
    for zero in rising:
        if (zero & zero[turned]).any() or any(p @ (zero | zero[turned]) > 1 - least for p in alike):
            continue
        for above, rest in itertools.product(rising, rising):
            below = ~rest
            if known == 0 and not ((above == zero).all() and (below == zero[turned]).all()):
                continue
            if (above & ~zero).any() or (zero[turned] & ~below).any() or (above & below).any():
                continue
            if all(p @ (above | below) <= 1 - least for p in here):
                lowest = min(lowest, 1 - p_of(truth) @ (above | below))
    assert exact.lowest_coverage(truth, most=media) == pytest.approx(lowest)
    assert lowest < 1 or known == 0


@pytest.mark.parametrize("known", [0.0, 0.3])
def test_ours_is_one_of_the_intervals_that_are_tried(exact, known):
    """It covers at least 93 % and rises, so it cannot cover less than the lowest."""
    truth = truth_of(exact, 20, known, accuracy=0.75)
    low, high = exact.intervals(20).T
    every = exact.pairs(20)
    for i, j in exact.raised(every, 20):
        assert 0 in (i, j) or (low[i] <= low[j] and high[i] <= high[j])
    assert min(exact.coverage(other) for other in truth.others()) >= 0.93
    assert exact.lowest_coverage(truth, most=12) <= exact.coverage(truth)


def test_patterns_of_signs(exact):
    found = exact.by_signs(exact.UNEVEN, trials=200, seed=0)
    assert 0.3 < found.few < 0.6
    assert 0.9 < found.others < 1
    assert 0.96 < found.lowest < 1
