"""Statistics: against closed forms and against scipy and statsmodels, which were written by others."""

import importlib
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
    FEWEST,
    bootstrap_means,
    change_interval,
    cluster_sums,
    correlation_within,
    effective_clusters,
    exact_interval,
    holm,
    jackknife_error,
    mcnemar,
    mean_difference,
    minimum_detectable_change,
    paired_difference,
    percentile_interval,
    share_interval,
    sign_flip_p,
    single_change_interval,
)

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(Path(__file__).parents[2] / "scripts")
    check = importlib.import_module("check_statistics")


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
    a = np.random.default_rng(3).random(60)
    once = share_interval(a, range(60))
    copied = share_interval(np.repeat(a, 5), np.repeat(np.arange(60), 5))
    assert copied == pytest.approx(once)
    a = np.random.default_rng(3).integers(0, 2, 60).astype(float)  # of single right or wrong answers more is known
    once = share_interval(a, range(60))
    copied = share_interval(np.repeat(a, 5), np.repeat(np.arange(60), 5))
    assert copied.low <= once.low and copied.high >= once.high
    assert copied == pytest.approx(once, abs=0.01)
    naive = share_interval(np.repeat(a, 5), range(300))
    assert naive.high - naive.low < 0.6 * (copied.high - copied.low)


@pytest.mark.parametrize(("right", "n"), [(3, 10), (95, 100), (1, 40), (250, 500)])
def test_interval_of_single_items_is_wilson_s(right, n):
    expected = proportion_confint(right, n, method="wilson")
    assert share_interval(np.arange(n) < right, range(n)) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(3))
def test_clustered_interval_is_wilson_s_at_the_effective_number_of_trials(seed):
    """Its ends are where (mean - end)^2 = t^2 * variance, the variance being that of a mean of `end`."""
    a, _, clusters = clustered(seed)
    groups = np.unique(clusters, return_inverse=True)[1]
    sizes = np.bincount(groups)
    left_out = np.array([a[groups != g].mean() for g in range(40)])
    jackknife = 39 / 40 * ((left_out - a.mean()) ** 2).sum()
    design = a.var() / len(a) ** 2 * (sizes * (1 + (sizes - 1) * correlation_within(a, clusters))).sum()
    t = stats.t.ppf(0.975, sizes.sum() ** 2 / (sizes**2).sum() - 1)
    for end in share_interval(a, clusters):
        factor = end * (1 - end) / (a.mean() * (1 - a.mean()))
        assert (a.mean() - end) ** 2 == pytest.approx(t**2 * max(jackknife, design) * factor)


@pytest.mark.parametrize("seed", range(3))
def test_correlation_within_follows_from_the_analysis_of_variance(seed):
    a, _, clusters = clustered(seed)
    groups = np.unique(clusters, return_inverse=True)[1]
    f = stats.f_oneway(*(a[groups == g] for g in range(40))).statistic
    sizes = np.bincount(groups)
    typical = (sizes.sum() - (sizes**2).sum() / sizes.sum()) / 39
    assert correlation_within(a, clusters) == pytest.approx(max(0, (f - 1) / (f - 1 + typical)))


def test_correlation_within_of_what_says_nothing_is_0():
    for values, clusters in (([1, 0, 1], "aaa"), ([1, 0, 1], "abc"), ([1, 1, 1], "aab"), ([1, 0, 1, 0], "aabb")):
        assert correlation_within(values, clusters) == 0
    assert correlation_within([1, 1, 0, 0], "aabb") == 1


def test_effective_clusters():
    assert effective_clusters(np.full(7, 3.0)) == pytest.approx(7)
    assert effective_clusters(np.array([100.0, 1.0, 1.0])) == pytest.approx(102**2 / 10002)


def test_jackknife_leaves_out_one_cluster_at_a_time():
    a, _, clusters = clustered(4)
    names = np.array(clusters)
    means = np.array([a[names != name].mean() for name in np.unique(names)])
    expected = np.sqrt(39 / 40 * ((means - a.mean()) ** 2).sum())
    assert jackknife_error(*cluster_sums(a, clusters)) == pytest.approx(expected)


@pytest.mark.parametrize("design", check.DESIGNS[::4], ids=str)
def test_simulated_coverage_and_false_positives(design):
    """The full simulation, with every design and ten times the trials, is scripts/check_statistics.py."""
    found = check.simulate(design, trials=500, seed=3)
    # 500 trials: two standard errors of a share near 0.95 (and 0.05) are 0.02.
    low = 0.92 if design.media >= 50 else 0.91
    assert low <= found.score <= 0.985
    for known, share in ((0.0, found.same), (check.KNOWN, found.better)):
        assert low <= share
        assert share <= 0.985 or share <= check.least_possible(design, known) + 0.02
    assert found.false_positives <= 0.07


def test_intervals_of_means_and_false_positives_of_a_whole_comparison():
    """Five tasks: does the mean's interval hold the truth, and if nothing changed, does any come out as changed?"""
    found = check.several_tasks(trials=100, bootstraps=100, seed=5, resamples=200)
    error = np.sqrt(0.05 * 0.95 / 100)
    assert found.wrong <= 0.05
    for covered in found[:3]:
        assert covered >= 0.95 - 3 * error


def test_mean_of_differences_adds_squared_errors():
    a, b, clusters = clustered(9)
    one, two = paired_difference(a, b, clusters), paired_difference(b, np.roll(a, 1), clusters)
    both = mean_difference([one, two])
    assert both.difference == pytest.approx((one.difference + two.difference) / 2)
    assert both.error == pytest.approx(np.hypot(one.error, two.error) / 2)
    below = [f.difference - f.interval.low for f in (one, two)]
    above = [f.interval.high - f.difference for f in (one, two)]
    assert both.interval == pytest.approx(
        (both.difference - np.hypot(*below) / 2, both.difference + np.hypot(*above) / 2)
    )
    assert both.contributions.sum() == pytest.approx(both.difference)
    assert both.p == sign_flip_p([*one.contributions, *two.contributions])
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


def test_error_of_equal_clusters_is_the_cluster_robust_regression():
    a, b, _ = clustered(0)
    a, b, groups = a[:90], b[:90], np.repeat(np.arange(30), 3)
    ours = paired_difference(a, b, groups)
    fit = OLS(b - a, np.ones(90)).fit(cov_type="cluster", cov_kwds={"groups": groups, "df_correction": True})
    assert ours.difference == pytest.approx(fit.params[0])
    assert ours.error == pytest.approx(fit.bse[0])
    assert ours.df == pytest.approx(29)


def tango(n: int, b: int, c: int) -> tuple[float, float]:
    """Tango's limits without iteration: the real roots of a quartic (Yang, Sun and Hardin, doi:10.1002/sim.5561)."""
    g = stats.norm.ppf(0.975) ** 2
    quartic = [
        n**2 * (n / g + 1) ** 2,
        -n * (b - c) * (n / g + 1) * (4 * n / g + 1),
        2 * n * (b - c) ** 2 * (3 * n / g + 2) / g - n**2 * ((b + c) / g + 1),
        n * (b - c) * (2 * (b + c) / g + 1) - (b - c) ** 3 * (4 * n / g + 1) / g,
        (b - c) ** 2 * ((b - c) ** 2 / g - (b + c)) / g,
    ]
    real = sorted(r.real for r in np.roots(quartic) if abs(r.imag) < 1e-6)
    return real[0], real[-1]


@pytest.mark.parametrize(("n", "b", "c"), [(160, 40, 20), (122, 23, 3), (50, 12, 2), (21, 1, 7), (300, 9, 9)])
def test_change_interval_is_tango_s(n, b, c):
    interval = change_interval(b / n, c / n, worth=stats.norm.ppf(0.975) ** 2 / n)
    assert interval == pytest.approx(tango(n, b, c), abs=1e-6)
    # It leaves out 0 exactly when McNemar's test without a correction is below 0.05.
    p = reference_mcnemar([[0, b], [c, 0]], exact=False, correction=False).pvalue
    assert (p < 0.05) == (interval.low > 0 or interval.high < 0)


@pytest.mark.parametrize("level", [0.8, 0.95])
@pytest.mark.parametrize(
    ("n", "b", "c"), [(160, 40, 20), (122, 23, 3), (50, 12, 2), (21, 1, 7), (20, 0, 3), (9, 4, 5)]
)
def test_interval_of_single_pairs_is_made_of_jeffreys_limits(n, b, c, level):
    before = np.arange(n) >= b
    after = np.where(before, np.arange(n) < n - c, 1)
    if level == 0.95:
        interval = paired_difference(before, after, range(n)).interval
    else:
        interval = single_change_interval(b / n, c / n, pairs=n, level=level)
    alpha = 2 * stats.norm.sf(stats.t.ppf((1 + level) / 2, n - 1))
    (lg, ug), (ll, ul) = (proportion_confint(count, n, alpha, method="jeffreys") for count in (b, c))
    ll = 0 if c == 0 else ll
    lg = 0 if b == 0 else lg
    gain, loss = b / n, c / n
    variance = [gain * (1 - gain) / n, loss * (1 - loss) / n]
    r = -gain * loss / n / np.sqrt(np.prod(variance)) if b and c else 0.0
    spread = np.array([[1, -r], [-r, 1]])  # of a difference: the squared length of both limits' distances
    below, above = np.array([gain - lg, ul - loss]), np.array([ug - gain, loss - ll])
    assert interval.low == pytest.approx(gain - loss - np.sqrt(below @ spread @ below))
    assert interval.high == pytest.approx(gain - loss + np.sqrt(above @ spread @ above))


@pytest.mark.parametrize(("gained", "lost"), [(0.1, 0.05), (0.02, 0.0), (0.3, 0.3)])
def test_of_many_single_pairs_both_intervals_are_the_same(gained, lost):
    for pairs, apart in ((2_000, 0.03), (200_000, 0.003)):
        tango = change_interval(gained, lost, worth=stats.norm.ppf(0.975) ** 2 / pairs)
        ours = single_change_interval(gained, lost, pairs=pairs)
        assert ours == pytest.approx(tango, abs=apart * (tango.high - tango.low))
        back = single_change_interval(lost, gained, pairs=pairs)
        assert back == pytest.approx((-ours.high, -ours.low))


def test_interval_of_a_change_stays_in_range():
    for gained, lost in ((0.0, 0.3), (1.0, 0.0), (0.0, 1.0), (0.999, 0.0), (0.4, 0.6), (1e-9, 0.0)):
        for low, high in (
            change_interval(gained, lost, worth=2.0),
            single_change_interval(gained, lost, pairs=2),
            single_change_interval(gained, lost, pairs=1000),
        ):
            assert -1 <= low <= gained - lost <= high <= 1


@pytest.mark.parametrize("seed", range(3))
def test_clustered_change_is_for_as_many_pairs_as_the_clusters_are_worth(seed):
    a, b, clusters = clustered(seed)
    found = paired_difference(a, b, clusters)
    gained, lost = (b > a).mean(), (b < a).mean()
    pairs = (gained + lost - (gained - lost) ** 2) / found.error**2
    worth = stats.t.ppf(0.975, found.df) ** 2 / pairs
    assert found.interval == pytest.approx(change_interval(gained, lost, worth=worth))
    back = paired_difference(b, a, clusters)
    assert back.interval == pytest.approx((-found.interval.high, -found.interval.low)) and back.p == found.p


def test_copied_pairs_add_no_certainty():
    rng = np.random.default_rng(3)
    a, b = rng.random(60), rng.random(60)
    once = paired_difference(a, b, range(60))
    copied = paired_difference(np.repeat(a, 5), np.repeat(b, 5), np.repeat(np.arange(60), 5))
    assert copied.interval == pytest.approx(once.interval)
    assert copied.p == once.p
    a, b = rng.integers(0, 2, 60), rng.integers(0, 2, 60)
    once = paired_difference(a, b, range(60))
    copied = paired_difference(np.repeat(a, 5), np.repeat(b, 5), np.repeat(np.arange(60), 5))
    assert copied.interval.low <= once.interval.low and copied.interval.high >= once.interval.high
    assert copied.interval == pytest.approx(once.interval, abs=0.01)


@pytest.mark.parametrize("groups", [2, 5, 10])
def test_sign_flips_are_scipy_s_permutation_test(groups):
    each = np.random.default_rng(groups).integers(-3, 6, groups).astype(float)
    theirs = stats.permutation_test((each,), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip_p(each) == pytest.approx(theirs.pvalue)


def test_many_sign_flips_are_drawn():
    rng = np.random.default_rng(0)
    each = rng.normal(0.2, 1, 300)
    t = stats.ttest_1samp(each, 0).pvalue
    assert 0.0001 < t < 0.2
    assert sign_flip_p(each) == pytest.approx(t, abs=0.01)
    assert sign_flip_p(each) == sign_flip_p(-each[::-1])
    assert sign_flip_p(np.ones(300)) == 1 / 10000


@pytest.mark.parametrize(("b", "c"), [(0, 6), (3, 9), (5, 5), (40, 61)])
def test_sign_flips_of_single_items_are_mcnemar_s(b, c):
    each = np.repeat([1.0, -1.0, 0.0], [b, c, 30]) / (b + c + 30)
    assert sign_flip_p(each) == pytest.approx(mcnemar(b, c), abs=1e-12 if b + c < 14 else 0.01)


def test_fewest_clusters_that_show_a_difference():
    assert sign_flip_p(np.ones(FEWEST)) < 0.05 < sign_flip_p(np.ones(FEWEST - 1))
    assert sign_flip_p(np.zeros(9)) == 1


def test_paired_difference_without_spread():
    same = paired_difference([1, 0, 1], [1, 0, 1], "abc")
    assert (same.difference, same.error, same.p) == (0, 0, 1)
    all_changed = paired_difference([0] * 5, [1] * 5, "abcde")
    assert (all_changed.difference, all_changed.error, all_changed.p) == (1, 0, 2 * 0.5**5)


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
    with pytest.raises(ValueError, match="not in 0 to 1"):
        paired_difference([1, 0], [0, 100], "ab")
