"""Statistics: against closed forms and against scipy and statsmodels, which were written by others."""

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
    minimum_detectable_change,
    paired_difference,
    percentile_interval,
    share_interval,
)


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


def test_coverage_of_the_interval():
    rng, hits, truth = np.random.default_rng(4), 0, 0.7
    for trial in range(200):
        level = np.repeat(rng.beta(7, 3, 60), 3)
        values = (rng.random(180) < level).astype(float)
        low, high = share_interval(values, np.repeat(np.arange(60), 3), seed=trial, resamples=400)
        hits += low <= truth <= high
    assert 0.89 <= hits / 200 <= 0.99


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
