"""How sure can one be? Intervals and tests for scores whose questions share media.

Questions about one video are not independent, so everything here works on clusters. One idea runs through it: the
variance between clusters says how many independent questions the clusters are worth, and the interval that is made for
independent questions is then given for that many (Wilson's for a score, Tango's for a change). Tests flip the signs of
whole clusters. How often the intervals hold the truth, and the tests cry wolf, is in docs/benchmark.md.

References:
    Angrist and Pischke 2009, Mostly Harmless Econometrics, 8.2.3: the larger of two standard errors.
    Brown, Cai and DasGupta 2001, Interval estimation for a binomial proportion, Stat. Sci. 16: Jeffreys' interval.
    Donner 1986, A review of inference procedures for the intraclass correlation coefficient, Int. Stat. Rev. 54.
    Efron and Tibshirani 1993, An Introduction to the Bootstrap: jackknife, percentile intervals.
    Fisher 1935, The Design of Experiments, 21: sign flips.
    Holm 1979, A simple sequentially rejective multiple test procedure, Scand. J. Stat. 6.
    Kish 1965, Survey Sampling, 8.2: design effects, effective number of unequal clusters.
    Korn and Graubard 1998, Confidence intervals for proportions with small expected number of positive counts
    estimated from survey data, Survey Methodology 24: the effective sample size in a binomial interval.
    Pan 2002, Approximate confidence intervals for one proportion and difference of two proportions, Comput. Stat. Data
    Anal. 40: t for the normal quantile.
    Phipson and Smyth 2010, Permutation p-values should never be zero, Stat. Appl. Genet. Mol. Biol. 9.
    Tango 1998, Equivalence test and confidence interval for the difference in proportions for the paired-sample
    design, Stat. Med. 17.
    Wilson 1927, Probable inference, the law of succession, and statistical inference, JASA 22.
    Zou and Donner 2008, Construction of confidence limits about effect measures: a general approach, Stat. Med. 27:
    limits of a difference from the limits of its two parts.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special, stats

RESAMPLES = 2000
"""Bootstrap resamples: the Monte-Carlo error of a 95 % bound is then about 0.04 of the interval's half-width."""

FEWEST = 6
"""Changed clusters that a p below 0.05 takes, all changed one way: 2 / 2^6 = 0.03."""

FEW = 5
"""Where fewer clusters are expected to change, an interval of models that are alike covers more than it says
(docs/benchmark.md)."""

FLIPS = 9999
"""Sign flips drawn when there are too many to try all: a p of 0.05 then has a Monte-Carlo error of 0.002."""

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


@dataclass(frozen=True, eq=False)
class Paired:
    """Two scores of the same items, compared.

    Attributes:
        n: Items.
        clusters: Clusters.
        df: Degrees of freedom of the error.
        difference: Mean of b - a.
        error: Standard error of the difference (jackknife over clusters); 0 when every cluster changed equally.
        interval: Of the difference; with an error of 0, just the point, which says nothing.
        contributions: float64 [clusters]; what each cluster adds to the difference, which is their sum.
    """

    n: int
    clusters: int
    df: float
    difference: float
    error: float
    interval: Interval
    contributions: Floats

    @property
    def changed(self) -> int:
        """Clusters on which the two scores differ."""
        return int(np.count_nonzero(np.abs(self.contributions) > 1e-12))

    @cached_property
    def p(self) -> float:
        """Two-sided, of "no difference" (`sign_flip_p`); made when first asked for, as it takes up to a second."""
        return sign_flip_p(self.contributions)


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


def effective_clusters(sizes: Floats) -> float:
    """How many equally large clusters would be as good: (sum n_g)^2 / sum n_g^2 (Kish 1965)."""
    return float(sizes.sum() ** 2 / np.sum(sizes**2))


def degrees_of_freedom(sizes: Floats) -> float:
    """Of an error measured between clusters of these sizes: `effective_clusters` less one, at least 1."""
    return max(1.0, effective_clusters(sizes) - 1)


def jackknife_error(sums: Floats, sizes: Floats) -> float:
    """Standard error of the mean sum(sums) / sum(sizes), leaving out one of G clusters at a time.

    SE^2 = (G - 1) / G * sum_g (mean without g - mean)^2 (Efron and Tibshirani 1993, chapter 11). With equally large
    clusters it is the cluster-robust sandwich with the factor G / (G - 1).
    """
    groups, mean = len(sums), sums.sum() / sizes.sum()
    without = (sums.sum() - sums) / (sizes.sum() - sizes)
    return math.sqrt((groups - 1) / groups * float(np.sum((without - mean) ** 2)))


def correlation_within(values: ArrayLike, clusters: Sequence[Hashable]) -> float:
    """How alike values of one cluster are: the intraclass correlation, 0..1.

    The estimator from analysis of variance (Donner 1986): (MSB - MSW) / (MSB + (n0 - 1) MSW) with the mean squares
    between and within clusters and n0 = (N - sum n_g^2 / N) / (G - 1); below 0 counts as 0. Also 0 where nothing can
    be said: a single cluster, one value in each, or no variance.
    """
    sums, sizes = cluster_sums(values, clusters)
    groups, n = len(sums), float(sizes.sum())
    if groups < 2 or n == groups:
        return 0.0
    between = float(np.sum(sizes * (sums / sizes - sums.sum() / n) ** 2)) / (groups - 1)
    within = (float(np.sum(np.asarray(values, dtype=np.float64) ** 2)) - float(np.sum(sums**2 / sizes))) / (n - groups)
    typical = (n - float(np.sum(sizes**2)) / n) / (groups - 1)
    whole = between + (typical - 1) * within
    return max(0.0, (between - within) / whole) if whole > 0 else 0.0


def share_interval(values: ArrayLike, clusters: Sequence[Hashable], *, level: float = 0.95) -> Interval:
    """Interval of the mean of values in [0, 1]: Wilson's, for as many independent trials as the clusters are worth.

    With the clustered standard error s of the mean m, m(1-m)/s^2 trials that were independent would be as informative
    (the effective sample size of Korn and Graubard 1998); Wilson's interval (1927) is made for that many, with t of
    `effective_clusters` - 1 degrees of freedom. s is the larger of two (Angrist and Pischke 2009): the jackknife's,
    which assumes nothing, and that of a design effect, total variance / N^2 * sum n_g (1 + (n_g - 1) rho) with rho
    from `correlation_within` (Donner 1986). The jackknife alone is too small when by chance no weak medium was drawn.

    Independent trials (each cluster has one value, 0 or 1) need none of this: Wilson's interval as it is.

    When all clusters have the same mean (all right, all wrong, or one cluster) there is no error to measure, and the
    exact interval for as many trials as clusters is given instead.
    """
    array = np.asarray(values, dtype=np.float64)
    sums, sizes = cluster_sums(array, clusters)
    mean = float(sums.sum() / sizes.sum())
    if np.ptp(sums / sizes) == 0:
        return exact_interval(float(sums[0] / sizes[0]), len(sums), level=level)
    if _independent(array, sizes):
        worth = _quantile(math.inf, level) ** 2 / len(sums)  # t^2 / effective trials
    else:
        rho = correlation_within(array, clusters)
        design = float(array.var()) * float(np.sum(sizes * (1 + (sizes - 1) * rho))) / len(array) ** 2
        variance = max(jackknife_error(sums, sizes) ** 2, design)
        worth = _quantile(degrees_of_freedom(sizes), level) ** 2 * variance / (mean * (1 - mean))
    centre = (mean + worth / 2) / (1 + worth)
    reach = math.sqrt(worth * mean * (1 - mean) + worth**2 / 4) / (1 + worth)
    return Interval(max(0.0, centre - reach), min(1.0, centre + reach))


def paired_difference(a: ArrayLike, b: ArrayLike, clusters: Sequence[Hashable], *, level: float = 0.95) -> Paired:
    """Compare two scores, in [0, 1], of the same items.

    The interval is Tango's (`change_interval`) for as many independent pairs as the clusters are worth: as in
    `share_interval`, but with the jackknife's error alone, which does here (docs/benchmark.md). Independent pairs, a
    cluster each and changed by all or nothing, have `single_change_interval`. Interval and p may disagree at the edge:
    the one holds the truth 95 % of the time, the other is wrong at most 5 % of the time, which with few changes means
    hardly ever.

    Raises:
        ValueError: Fewer than two clusters, lengths differ, or a value is outside of [0, 1].
    """
    before, after = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    d = after - before
    sums, sizes = cluster_sums(d, clusters)
    groups, n = len(sums), len(d)
    if groups < 2:
        raise ValueError(f"{groups} cluster: an error of the difference needs at least 2")
    scores = np.concatenate([before, after])
    if len(outside := scores[np.abs(scores - 0.5) > 0.5 + 1e-6]):
        raise ValueError(f"{outside[0]} is not in 0 to 1, the range of a score")
    gained, lost = float(np.maximum(d, 0).mean()), float(np.maximum(-d, 0).mean())
    error, df = jackknife_error(sums, sizes), degrees_of_freedom(sizes)
    if error < 1e-12:
        error, interval = 0.0, Interval(gained - lost, gained - lost)
    elif _independent(d, sizes):
        interval = single_change_interval(gained, lost, pairs=n, level=level)
    else:
        trials = (gained + lost - (gained - lost) ** 2) / error**2
        interval = change_interval(gained, lost, worth=_quantile(df, level) ** 2 / trials)
    return Paired(n, groups, df, gained - lost, error, interval, sums / n)


def change_interval(gained: float, lost: float, *, worth: float) -> Interval:
    """Tango's score interval (1998) of a change: all D with (gained - lost - D)^2 <= worth * variance(D).

    variance(D) is that of one pair's change, 2 q + D (1 - D), with q the likeliest share of losses if the change is D:
    the positive root of 2 q^2 - (gained + lost - (2 - gained + lost) D) q - lost D (1 - D).

    Args:
        gained: Share of pairs that gained (partial gains count in part), 0..1.
        lost: Share of pairs that lost.
        worth: Squared quantile of the normal or t distribution / number of independent pairs.
    """
    difference = gained - lost

    def beyond(change: float) -> float:
        half = gained + lost - (2 - gained + lost) * change
        q = (half + math.sqrt(max(0.0, half**2 + 8 * lost * change * (1 - change)))) / 4
        return (difference - change) ** 2 - worth * (2 * q + change * (1 - change))

    # So near the end, rounding would decide the sign of `beyond`.
    low = -1.0 if difference < -1 + 1e-6 else float(optimize.brentq(beyond, -1.0, difference))
    high = 1.0 if difference > 1 - 1e-6 else float(optimize.brentq(beyond, difference, 1.0))
    return Interval(low, high)


def single_change_interval(gained: float, lost: float, *, pairs: int, level: float = 0.95) -> Interval:
    """Interval of a change gained - lost, from independent pairs that gain, lose or stay.

    Of the two shares, each has Jeffreys' interval (Brown, Cai and DasGupta 2001), from lg to ug and from ll to ul;
    with r = -sqrt(gained lost / ((1 - gained) (1 - lost))), their correlation, the low end is (Zou and Donner 2008)

        gained - lost - sqrt((gained - lg)^2 + (ul - lost)^2 - 2 r (gained - lg) (ul - lost)),

    and the high end that of the change turned round, with its sign turned. Jeffreys' are those of the level whose
    normal quantile is t's at `level`, with pairs - 1 degrees of freedom, as for clusters (for shares: Pan 2002). Where
    few pairs changed it is narrower than Tango's, which covers too often there; with many it is the same
    (docs/benchmark.md).

    Args:
        gained: Share of pairs that gained, 0..1.
        lost: Share of pairs that lost.
        pairs: Number of pairs, at least 2.
        level: Nominal coverage.
    """
    tail = float(special.ndtr(-_quantile(pairs - 1, level)))
    lg, ug = _jeffreys(gained, pairs, tail)
    ll, ul = _jeffreys(lost, pairs, tail)
    stay = (1 - gained) * (1 - lost)
    r = -math.sqrt(gained * lost / stay) if stay > 0 else 0.0
    below = (gained - lg) ** 2 + (ul - lost) ** 2 - 2 * r * (gained - lg) * (ul - lost)
    above = (ug - gained) ** 2 + (lost - ll) ** 2 - 2 * r * (ug - gained) * (lost - ll)
    return Interval(gained - lost - math.sqrt(below), gained - lost + math.sqrt(above))


def _jeffreys(share: float, n: int, tail: float) -> Interval:
    """Jeffreys' interval, which leaves out `tail` on a side; none of it where the share is 0 or 1."""
    right, wrong = share * n + 0.5, (1 - share) * n + 0.5
    low = float(special.betaincinv(right, wrong, tail)) if share > 0 else 0.0
    high = float(special.betaincinv(right, wrong, 1 - tail)) if share < 1 else 1.0
    return Interval(low, high)


def sign_flip_p(contributions: ArrayLike, *, flips: int = FLIPS, seed: int = 0) -> float:
    """Two-sided p of "the two models are alike": how often random signs give a sum as far from 0 as the real one.

    If they are alike, they could change places in any cluster, and its contribution would have the other sign (Fisher
    1935). All signs are tried where `flips` + 1 allow for it; else p = (1 + as far) / (1 + flips) (Phipson and Smyth
    2010). Both are below 0.05 at most 5 % of the time, however few, uneven or correlated the items of a cluster are;
    fewer than `FEWEST` clusters in which something changed never are. For models that are not alike and yet equally
    good on average, that holds with many clusters only.

    Args:
        contributions: float64 [clusters]; what each adds to the difference.
        flips: Number of random flips.
        seed: Of the random flips.
    """
    sizes = np.abs(np.asarray(contributions, dtype=np.float64))
    total = abs(float(np.sum(contributions)))
    sizes = np.sort(sizes[sizes > 0])  # sorted: p does not depend on the order of clusters, nor on which model is A
    count = len(sizes)
    bound = total - 1e-9 * float(sizes.sum())  # ties count as being as far
    every = count < 60 and 2**count <= flips + 1
    rng = np.random.default_rng(seed)
    chunk = max(1, 4_000_000 // max(1, count))  # bounds the memory: 32 MB of signs at a time
    rows, far = 2**count if every else flips, 0
    for start in range(0, rows, chunk):
        stop = min(start + chunk, rows)
        if every:
            bits = np.arange(start, stop)[:, None] >> np.arange(count) & 1
        else:
            bits = rng.integers(0, 2, (stop - start, count), dtype=np.int8)
        far += int(np.sum(np.abs(2 * (bits.astype(np.float64) @ sizes) - sizes.sum()) >= bound))
    return far / rows if every else (1 + far) / (1 + rows)


def mean_difference(found: Sequence[Paired]) -> Paired:
    """The mean of differences that were found on sets of items which share no media: tasks, say, each counting alike.

    Squared errors add, and so do the squared distances of the ends of the intervals from their middle (Zou and Donner
    2008). p flips the clusters of all sets. `clusters` and `df` are the smallest of any set.
    One difference is returned as it is.

    Raises:
        ValueError: There is none.
    """
    if not found:
        raise ValueError("no differences to average")
    if len(found) == 1:
        return found[0]
    sets = len(found)
    difference = sum(f.difference for f in found) / sets
    contributions = np.concatenate([f.contributions for f in found]) / sets
    return Paired(
        n=sum(f.n for f in found),
        clusters=min(f.clusters for f in found),
        df=min(f.df for f in found),
        difference=difference,
        error=math.hypot(*(f.error for f in found)) / sets,
        interval=Interval(
            difference - math.hypot(*(f.difference - f.interval.low for f in found)) / sets,
            difference + math.hypot(*(f.interval.high - f.difference for f in found)) / sets,
        ),
        contributions=contributions,
    )


def _independent(values: Floats, sizes: Floats) -> bool:
    """Is each value a cluster of its own, and all or nothing? Then their variance follows from their mean."""
    return len(sizes) == len(values) and bool(np.isin(values, (-1.0, 0.0, 1.0)).all())


def _quantile(df: float, level: float) -> float:
    return float(stats.t.ppf((1 + level) / 2, df))


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
        df: Degrees of freedom, `Paired.df`.
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
