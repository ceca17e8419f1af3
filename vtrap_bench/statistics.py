"""How sure can one be? Intervals and tests for scores whose questions share media.

Questions about one video are not independent, so everything here works on clusters. The formulas are the usual ones:
Wilson's interval for clustered shares, percentile bootstrap over clusters (Efron and Tibshirani 1993) for means over
several tasks, the cluster-robust sandwich with the finite-cluster
factor G/(G-1) and t with G-1 degrees of freedom (Cameron and Miller 2015), McNemar's exact test, Holm's step-down
adjustment, and the change detectable at a given power from the non-central t distribution.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

RESAMPLES = 2000
"""Bootstrap resamples: the Monte-Carlo error of a 95 % bound is then about 0.04 of the interval's half-width."""

Floats = NDArray[np.float64]


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


class Clusters(NamedTuple):
    """Values added up per cluster, in order of first appearance.

    Attributes:
        sums: float64 [clusters].
        sizes: float64 [clusters]; number of values.
    """

    sums: Floats
    sizes: Floats


class Paired(NamedTuple):
    """Two scores of the same items, compared.

    Attributes:
        n: Items.
        clusters: Clusters.
        difference: Mean of b - a.
        error: Standard error by the cluster sandwich; 0 when every item changed equally.
        interval: Of the difference.
        p: Two-sided, of "no difference".
    """

    n: int
    clusters: int
    difference: float
    error: float
    interval: Interval
    p: float


def cluster_sums(values: ArrayLike, clusters: Sequence[Hashable]) -> Clusters:
    """Add values up per cluster.

    Raises:
        ValueError: Nothing is given, the lengths differ, or a value is not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array) or len(array) != len(clusters):
        raise ValueError(f"values of shape {array.shape} with {len(clusters)} cluster names: need equally many, not 0")
    if not np.isfinite(array).all():
        raise ValueError(f"value {int(np.argmin(np.isfinite(array)))} is not finite: {array[~np.isfinite(array)][0]}")
    number: dict[Hashable, int] = {}
    ids = np.array([number.setdefault(c, len(number)) for c in clusters])
    return Clusters(
        sums=np.bincount(ids, weights=array, minlength=len(number)).astype(np.float64),
        sizes=np.bincount(ids, minlength=len(number)).astype(np.float64),
    )


def bootstrap_means(
    values: ArrayLike, clusters: Sequence[Hashable], *, seed: int = 0, resamples: int = RESAMPLES
) -> Floats:
    """Means of `resamples` samples of whole clusters, drawn with replacement.

    Returns:
        float64 [resamples]. The same for the same input and seed.
    """
    sums, sizes = cluster_sums(values, clusters)
    rng = np.random.default_rng(seed)
    count = len(sums)
    means = np.empty(resamples)
    chunk = max(1, 4_000_000 // count)  # bounds the memory: 32 MB of weights at a time
    for start in range(0, resamples, chunk):
        stop = min(start + chunk, resamples)
        weights = rng.multinomial(count, np.full(count, 1 / count), size=stop - start)
        means[start:stop] = (weights @ sums) / (weights @ sizes)
    return means


def percentile_interval(draws: Floats, *, level: float = 0.95) -> Interval:
    """The central `level` share of bootstrap draws."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def exact_interval(mean: float, n: float, *, level: float = 0.95) -> Interval:
    """Clopper-Pearson interval of a share `mean` of `n` independent trials; `mean * n` need not be whole."""
    right, tail = mean * n, (1 - level) / 2
    low = 0.0 if right <= 0 else float(stats.beta.ppf(tail, right, n - right + 1))
    high = 1.0 if right >= n else float(stats.beta.ppf(1 - tail, right + 1, n - right))
    return Interval(low, high)


def share_interval(values: ArrayLike, clusters: Sequence[Hashable], *, level: float = 0.95) -> Interval:
    """Interval of the mean of values in [0, 1]: Wilson's, for as many independent trials as the clusters are worth.

    With the clustered standard error s of the mean m, m(1-m)/s^2 trials that were independent would be as informative
    (the effective sample size of Korn and Graubard 1998); Wilson's interval is made for that many. s leaves out one
    cluster at a time (the jackknife), and t has as many degrees of freedom as there are clusters in effect, less one:
    (sum n_g)^2 / sum n_g^2 - 1 (Kish 1965), which is G-1 where all are equally large. Near 0 and 1, and with few or
    uneven clusters, it keeps its level where the bootstrap's percentiles fall short (docs/benchmark.md).

    When all clusters have the same mean (all right, all wrong, or one cluster) there is no error to measure, and the
    exact interval for as many trials as clusters is given instead.
    """
    sums, sizes = cluster_sums(values, clusters)
    means = sums / sizes
    mean, groups = float(sums.sum() / sizes.sum()), len(sums)
    if np.ptp(means) == 0:
        return exact_interval(float(means[0]), groups, level=level)
    without = (sums.sum() - sums) / (sizes.sum() - sizes)
    variance = (groups - 1) / groups * float(np.sum((without - mean) ** 2))
    df = max(1.0, float(sizes.sum() ** 2 / np.sum(sizes**2)) - 1)
    square = float(stats.t.ppf((1 + level) / 2, df)) ** 2
    worth = square * variance / (mean * (1 - mean))  # t^2 / effective trials
    centre = (mean + worth / 2) / (1 + worth)
    reach = math.sqrt(worth * mean * (1 - mean) + worth**2 / 4) / (1 + worth)
    return Interval(max(0.0, centre - reach), min(1.0, centre + reach))


def paired_difference(a: ArrayLike, b: ArrayLike, clusters: Sequence[Hashable], *, level: float = 0.95) -> Paired:
    """Compare two scores of the same items.

    With d = b - a and residuals summed per cluster, SE^2 = G/(G-1) * sum_g (sum_{i in g} (d_i - mean d))^2 / n^2.
    When every item changed by the same amount other than zero, the sandwich is 0 and says nothing; p is then that of
    the sign test over clusters, 2 * 0.5^G, and the interval is the point.

    Raises:
        ValueError: Fewer than two clusters, or lengths differ.
    """
    d = np.asarray(b, dtype=np.float64) - np.asarray(a, dtype=np.float64)
    sums, sizes = cluster_sums(d, clusters)
    groups, n = len(sums), len(d)
    if groups < 2:
        raise ValueError(f"{groups} cluster: an error of the difference needs at least 2")
    difference = float(d.mean())
    residuals = sums - sizes * difference
    error = math.sqrt(groups / (groups - 1) * float(residuals @ residuals)) / n
    if error < 1e-12:
        p = 1.0 if difference == 0 else min(1.0, 2 * 0.5**groups)
        return Paired(n, groups, difference, 0.0, Interval(difference, difference), p)
    reach = float(stats.t.ppf((1 + level) / 2, groups - 1)) * error
    p = 2 * float(stats.t.sf(abs(difference) / error, groups - 1))
    return Paired(n, groups, difference, error, Interval(difference - reach, difference + reach), p)


def mean_difference(found: Sequence[Paired], *, level: float = 0.95) -> Paired:
    """The mean of differences that were found on sets of items which share no media: tasks, say, each counting alike.

    Squared errors add. The degrees of freedom are those of the set with the fewest clusters, which is on the safe side
    of Welch and Satterthwaite's. `clusters` is that smallest number. One difference is returned as it is.

    Raises:
        ValueError: There is none.
    """
    if not found:
        raise ValueError("no differences to average")
    if len(found) == 1:
        return found[0]
    n, groups = sum(f.n for f in found), min(f.clusters for f in found)
    difference = float(np.mean([f.difference for f in found]))
    error = math.sqrt(sum(f.error**2 for f in found)) / len(found)
    if error < 1e-12:
        p = 1.0 if difference == 0 else min(1.0, 2 * 0.5**groups)
        return Paired(n, groups, difference, 0.0, Interval(difference, difference), p)
    reach = float(stats.t.ppf((1 + level) / 2, groups - 1)) * error
    p = 2 * float(stats.t.sf(abs(difference) / error, groups - 1))
    return Paired(n, groups, difference, error, Interval(difference - reach, difference + reach), p)


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact two-sided p of McNemar's test. It takes items as independent, so it is a second look, not the verdict.

    Args:
        only_a: Items that only A has right.
        only_b: Items that only B has right.
    """
    n = only_a + only_b
    return 1.0 if n == 0 else min(1.0, 2 * float(stats.binom.cdf(min(only_a, only_b), n, 0.5)))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for being looked at together: Holm's step-down rule, in the order given.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


def minimum_detectable_change(error: float, *, df: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """The smallest true difference that a two-sided t test would find with probability `power`.

    Args:
        error: Standard error of the difference.
        df: Degrees of freedom: clusters - 1.
        alpha: Significance level.
        power: Wanted probability of finding it.
    """
    if error == 0:
        return 0.0
    critical = float(stats.t.ppf(1 - alpha / 2, df))

    def missing(shift: float) -> float:
        # The other tail, P(T < -critical), is below 1e-6 for any shift that is found with a power worth asking for.
        return float(stats.nct.sf(critical, df, shift)) - power

    high = critical + 1
    while missing(high) < 0:
        high *= 1.25
    return error * float(optimize.brentq(missing, 0.0, high))
