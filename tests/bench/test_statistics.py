"""Statistics: against closed forms and against scipy and statsmodels, which were written by others."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.proportion import proportion_confint

from vtrap_bench.statistics import (
    bootstrap_means,
    cluster_sums,
    exact_interval,
    holm,
    mcnemar,
    mean_difference,
    minimum_detectable_change,
    paired_difference,
    percentile_interval,
    share_interval,
)

SCRIPT = Path(__file__).parents[2] / "scripts" / "check_statistics.py"
spec = importlib.util.spec_from_file_location("check_statistics", SCRIPT)
check = importlib.util.module_from_spec(spec)
spec.loader.exec_module(check)


def clustered(seed: int, groups: int = 40):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 6, groups)
    clusters = np.repeat(np.arange(groups), sizes)
    level = rng.uniform(0.2, 0.9, groups)[clusters]
    a = (rng.random(len(clusters)) < level).astype(float)
    b = np.where(rng.random(len(clusters)) < 0.3, rng.random(len(clusters)) < 0.5, a).astype(float)
    return a, b, [f"c{c}" for c in clusters]


def test_bootstrap_has_the_closed_form_error():
    a, _, clusters = clustered(0, groups=200)
    draws = bootstrap_means(a, clusters, resamples=8000)
    sums, sizes = cluster_sums(a, clusters)
    # Linearised ratio estimator: var = sum of squared cluster residuals / n^2.
    error = np.sqrt(((sums - sizes * a.mean()) ** 2).sum()) / len(a)
    assert draws.std() == pytest.approx(error, rel=0.05)
    assert draws.mean() == pytest.approx(a.mean(), abs=error / 10)


def test_bootstrap_interval_agrees_with_scipy():
    a = np.random.default_rng(1).random(300)
    ours = percentile_interval(bootstrap_means(a, range(300), resamples=9999))
    theirs = stats.bootstrap((a,), np.mean, method="percentile", rng=np.random.default_rng(2)).confidence_interval
    assert ours == pytest.approx(tuple(theirs), abs=0.003)


def test_bootstrap_is_seeded_and_blind_to_names():
    a, _, clusters = clustered(2)
    first = bootstrap_means(a, clusters, seed=5, resamples=50)
    assert (first == bootstrap_means(a, [f"other-{c}" for c in clusters], seed=5, resamples=50)).all()
    assert (first != bootstrap_means(a, clusters, seed=6, resamples=50)).any()


def test_copies_of_an_item_add_no_certainty():
    a = np.random.default_rng(3).integers(0, 2, 60).astype(float)
    once = share_interval(a, range(60))
    copied = share_interval(np.repeat(a, 5), np.repeat(np.arange(60), 5))
    assert copied == pytest.approx(once)
    naive = share_interval(np.repeat(a, 5), range(300))
    assert naive.high - naive.low < 0.6 * (copied.high - copied.low)


@pytest.mark.parametrize(("right", "n"), [(3, 10), (95, 100), (1, 40), (250, 500)])
def test_interval_of_single_items_is_wilson_s(right, n):
    """With one item per cluster the effective number of trials is n - 1, and t stands for the normal quantile."""
    values = np.arange(n) < right
    low, high = share_interval(values, range(n))
    z, trials, mean = stats.t.ppf(0.975, n - 1), n - 1, right / n
    centre = (mean + z**2 / (2 * trials)) / (1 + z**2 / trials)
    reach = z / (1 + z**2 / trials) * np.sqrt(mean * (1 - mean) / trials + z**2 / (4 * trials**2))
    assert (low, high) == pytest.approx((centre - reach, centre + reach))
    if n >= 100:
        assert (low, high) == pytest.approx(proportion_confint(right, n, method="wilson"), abs=0.004)


@pytest.mark.parametrize("design", check.DESIGNS[::4], ids=str)
def test_simulated_coverage_and_false_positives(design):
    """The full simulation, with every design and ten times the trials, is scripts/check_statistics.py."""
    found = check.simulate(design, trials=500, seed=3)
    # 500 trials: two standard errors of a share near 0.95 are 0.02.
    assert (0.90 if design.media == 20 else 0.92) <= found.coverage_share <= 0.985
    assert 0.92 <= found.coverage_change <= 0.985
    assert found.false_positives <= 0.08


def test_false_positives_of_a_whole_comparison():
    """Five tasks, nothing has changed: how often does anything come out as changed, after Holm?"""
    assert check.family_wise(trials=150, seed=5) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 150)


def test_mean_of_differences_adds_squared_errors():
    a, b, clusters = clustered(9)
    one, two = paired_difference(a, b, clusters), paired_difference(b, np.roll(a, 1), clusters)
    both = mean_difference([one, two])
    assert both.difference == pytest.approx((one.difference + two.difference) / 2)
    assert both.error == pytest.approx(np.hypot(one.error, two.error) / 2)
    t = stats.t(one.clusters - 1)
    assert both.p == pytest.approx(2 * t.sf(abs(both.difference) / both.error))
    assert both.interval == pytest.approx(tuple(both.difference + both.error * np.array(t.interval(0.95))))
    assert mean_difference([one]) is one
    with pytest.raises(ValueError, match="no differences"):
        mean_difference([])


@pytest.mark.parametrize(("right", "n"), [(0, 10), (3, 10), (10, 10), (499, 500)])
def test_exact_interval_is_clopper_pearson(right, n):
    assert exact_interval(right / n, n) == pytest.approx(proportion_confint(right, n, method="beta"))


def test_all_right_is_no_certainty():
    low, high = share_interval([1.0] * 40, range(40))
    assert high == 1 and low == pytest.approx(0.025 ** (1 / 40))
    low, high = share_interval([1.0, 0.0, 1.0], ["one"] * 3)
    assert low < 0.05 and high > 0.95


@pytest.mark.parametrize("seed", range(3))
def test_paired_difference_is_the_cluster_robust_regression(seed):
    a, b, clusters = clustered(seed)
    ours = paired_difference(a, b, clusters)
    groups = np.unique(clusters, return_inverse=True)[1]
    fit = OLS(b - a, np.ones(len(a))).fit(
        cov_type="cluster", cov_kwds={"groups": groups, "df_correction": True}, use_t=True
    )
    assert ours.difference == pytest.approx(fit.params[0])
    assert ours.error == pytest.approx(fit.bse[0])
    assert ours.p == pytest.approx(fit.pvalues[0])
    assert ours.interval == pytest.approx(tuple(fit.conf_int()[0]))


def test_paired_difference_of_single_items_is_the_paired_t_test():
    a, b, _ = clustered(7)
    ours = paired_difference(a, b, range(len(a)))
    theirs = stats.ttest_rel(b, a)
    assert ours.p == pytest.approx(theirs.pvalue)
    assert ours.interval == pytest.approx(tuple(theirs.confidence_interval()))


def test_paired_difference_without_spread():
    same = paired_difference([1, 0, 1], [1, 0, 1], "abc")
    assert (same.difference, same.error, same.p) == (0, 0, 1)
    all_changed = paired_difference([0] * 5, [1] * 5, "abcde")
    assert (all_changed.difference, all_changed.p) == (1, 2 * 0.5**5)


@pytest.mark.parametrize(("a", "b"), [(0, 0), (0, 6), (3, 11), (11, 3), (5, 5), (40, 61)])
def test_mcnemar(a, b):
    expected = 1.0 if a + b == 0 else reference_mcnemar([[10, a], [b, 10]], exact=True).pvalue
    assert mcnemar(a, b) == pytest.approx(expected)


def test_holm():
    for p in ([0.01, 0.04, 0.03], [0.5], [0.2, 0.2, 0.001, 0.9], [0.0, 1.0]):
        assert holm(p) == pytest.approx(list(multipletests(p, method="holm")[1]))
    assert holm([]) == []


@pytest.mark.parametrize("n", [3, 10, 50, 1000])
@pytest.mark.parametrize("power", [0.8, 0.95])
def test_minimum_detectable_change(n, power):
    # The other implementation works in standard deviations of one difference: SE = sd / sqrt(n).
    expected = TTestPower().solve_power(nobs=n, alpha=0.05, power=power) * np.sqrt(n)
    assert minimum_detectable_change(2.0, df=n - 1, power=power) == pytest.approx(2 * expected, rel=1e-3)


def test_minimum_detectable_change_is_found_that_often():
    rng, n = np.random.default_rng(8), 30
    shift = minimum_detectable_change(1 / np.sqrt(n), df=n - 1)
    draws = rng.normal(shift, 1, (4000, n))
    assert (stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.03)


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="not finite"):
        cluster_sums([1.0, float("nan")], "ab")
    with pytest.raises(ValueError, match="equally many"):
        cluster_sums([1.0], "ab")
    with pytest.raises(ValueError, match="equally many"):
        share_interval([], [])
    with pytest.raises(ValueError, match="at least 2"):
        paired_difference([1, 0], [0, 1], "aa")
