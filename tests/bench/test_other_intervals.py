"""scripts/other_intervals.py: what it writes for many trials at once is what the package says of one."""

import importlib
from pathlib import Path

import numpy as np
import pytest

from vtrap_bench.statistics import paired_difference, single_change_interval


@pytest.fixture(scope="module")
def others():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "scripts")
        yield importlib.import_module("other_intervals")


def test_tango_s_is_ours_and_worth_the_same(others):
    f = others.facts(others.Design(12, 0, 0.7, 0.3), others.KNOWN, trials=20, seed=3)
    rng = np.random.default_rng([3, 12, 0, 70, 30])
    for trial, (low, high) in enumerate(zip(*others.tango(f), strict=True)):
        a, _, c, media = others.draw(others.Design(12, 0, 0.7, 0.3), rng)
        ours = paired_difference(a, c, media.tolist())
        assert (low, high) == pytest.approx(tuple(ours.interval), abs=1e-9)
        assert f.jackknife[trial] == pytest.approx(ours.error**2)
        assert f.media[trial] - 1 == pytest.approx(ours.df)


def test_jeffreys_of_single_questions_is_ours(others):
    rng = np.random.default_rng(1)
    kinds = rng.integers(0, 3, (20, 15))
    kinds[:, :2] = 1, 2
    changes = np.array([0.0, 1.0, -1.0])[kinds]
    f = others.Facts(*(np.array(c) for c in zip(*(others.of(c, np.arange(15)) for c in changes), strict=True)))
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
