"""scripts/other_intervals.py: what it writes for many trials at once is what the package says of one."""

import importlib
from pathlib import Path

import numpy as np
import pytest

from vtrap_bench.statistics import correlation_within, paired_difference, single_change_interval


@pytest.fixture(scope="module")
def others():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "scripts")
        yield importlib.import_module("other_intervals")


def answers(sizes, ups, downs):
    """Of one trial: two models' answers and the medium of each question, with these gains and losses."""
    before, after, media = [], [], []
    for medium, (size, up, down) in enumerate(zip(sizes, ups, downs, strict=True)):
        stay = size - up - down
        before += [0] * up + [1] * down + [1] * stay
        after += [1] * up + [0] * down + [1] * stay
        media += [medium] * size
    return np.array(before), np.array(after), media


@pytest.fixture(scope="module")
def trials():
    rng = np.random.default_rng(0)
    sizes = rng.integers(2, 9, (20, 12))
    ups = rng.integers(0, 2, (20, 12))
    downs = rng.integers(0, 2, (20, 12))
    ups[:, 0], downs[:, 0] = 2, 0
    return sizes, ups, downs


def test_tango_s_is_ours(others, trials):
    f = others.of(*(counts.astype(float) for counts in trials))
    low, high = others.tango(f)
    for trial, counts in enumerate(zip(*trials, strict=True)):
        before, after, media = answers(*counts)
        ours = paired_difference(before, after, media)
        assert (low[trial], high[trial]) == pytest.approx(tuple(ours.interval), abs=1e-9)
        assert f.jackknife[trial] == pytest.approx(ours.error**2)
        assert f.media[trial] - 1 == pytest.approx(ours.df)
        change = after - before
        alike = correlation_within(change, media)
        sizes = np.bincount(media)
        design = change.var() * (sizes * (1 + (sizes - 1) * alike)).sum() / len(media) ** 2
        assert f.design[trial] == pytest.approx(design)


def test_jeffreys_of_single_questions_is_ours(others):
    rng = np.random.default_rng(1)
    kinds = rng.integers(0, 3, (20, 15))
    kinds[:, :2] = 1, 2
    ones = np.ones((20, 15))
    f = others.of(ones, (kinds == 1).astype(float), (kinds == 2).astype(float))
    found = others.jeffreys(f, np.full(20, 15.0), np.full(20, 14.0))
    media = others.of_media(f)
    for trial in range(20):
        expected = single_change_interval(f.gained[trial], f.lost[trial], pairs=15)
        assert (found.low[trial], found.high[trial]) == pytest.approx(tuple(expected))
        assert (media.low[trial], media.high[trial]) == pytest.approx(tuple(expected))


def test_shares_of_trials(others):
    f = others.facts(others.CELL, others.KNOWN, trials=50, seed=0)
    assert (f.variance > 0).all() and (f.jackknife > 0).all()
    bounds = others.Bounds(np.full(50, 0.05), np.r_[np.full(20, 0.02), np.full(30, 0.9)])
    found = others.held(f, bounds, 0.03)
    assert (found.below, found.above) == (1.0, 0.4)
    assert found.changed == pytest.approx(np.count_nonzero(f.net) / 50)


def test_the_page_has_every_interval_and_ours_as_in_the_first_table(others):
    page = others.write_between.__globals__["PAGE"].read_text("utf-8")
    lines = page.split("<!-- others -->")[1].split("<!-- /others -->")[0].strip().splitlines()[4:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    table = {name: [float(share) for share in shares] for name, *shares in rows}
    assert list(table) == list(others.INTERVALS)
    ours = table["Tango's (ours)"]
    assert ours[0] == pytest.approx(100 - ours[1] - ours[2], abs=0.11)
    (row,) = [line for line in page.splitlines() if line.startswith("| 20 | 3 | 0.9 | 0.3 |")]
    assert float(row.split("|")[9]) == pytest.approx(ours[0], abs=0.5)
