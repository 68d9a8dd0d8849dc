"""Intervals over examples.

No interval is drawn from fewer than `LEAST_N` independent examples, nor from examples that are all
the same: both ends are then NaN, and `no_interval` says why. Where several examples ask the same
thing they are no independent ones; `clusters` says which belong together, and then clusters count.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats as scipy_stats

from interp.errors import StatisticsError

Floats = npt.NDArray[np.float64]
Values = npt.NDArray[np.float64] | Sequence[float]
Clusters = Sequence[Hashable] | npt.NDArray[Any]

LEAST_N = 5
"""The fewest independent examples, or clusters of them, that an interval is drawn from."""

_RESAMPLES = 1999
_CELLS_AT_ONCE = 500
_MOST_RESAMPLED = 1000
"""Independent examples beyond which skew no longer matters, and Student's t is enough."""
ROUNDING = 1e-6
"""Spread, as a share of the largest value, that rounding in float32 explains."""
_WIDEST = 3.0
"""How many times as wide as by Student's t the bootstrap may make one side of an interval."""


def mean_interval(
    values: Values,
    clusters: Clusters | None = None,
    confidence: float = 0.95,
    *,
    bounds: tuple[float, float] | None = None,
) -> tuple[float, float]:
    """Interval of the mean over examples; NaN where there is none (see `no_interval`).

    It holds both Student's t interval and the bootstrap-t one (Efron 1979; Hall 1988), which
    follows skew. How often a nominal 95% holds the mean, simulated:

        examples                                5     10     20
        normal                                .97    .96    .96
        exponential                           .93    .95    .96
        lognormal, σ = ½                      .95    .95    .95
        lognormal, σ = 1                      .90    .91    .93
        Student's t, 3 degrees of freedom     .97    .97    .96
        0 or 1 with noise, half and half      .94   1.00    .98
        0 or 1 with noise, three in ten are 1 .84    .97    .99
        0 or 1 with noise, two in ten are 1   .70    .90    .98

    What is so rare that a sample may hold none of it cannot be seen in the sample; where values
    are 0 or 1 use `proportion_interval`. A percentile bootstrap covers .84, .89 and .93 of normal
    means and .78, .87 and .90 of exponential ones.

    Args:
        values: one number for each example [example].
        clusters: for each example what it shares with others that are not independent of it, such
            as the question it asks. The mean is still that over examples, its error that of
            clusters (linearised), with `n_independent` − 1 degrees of freedom.
        confidence: nominal coverage.
        bounds: smallest and largest possible value, where they are known, such as (0, 1): the
            interval stays inside, and equal values get the score interval of so many trials (see
            `wilson`) instead of none.

    Raises:
        StatisticsError: a value is not finite or out of bounds, or clusters do not fit.
    """
    low, high = mean_intervals(one_row(values), clusters, confidence, bounds=bounds)
    return float(low), float(high)


def mean_intervals(
    values: Floats,
    clusters: Clusters | None = None,
    confidence: float = 0.95,
    *,
    bounds: tuple[float, float] | None = None,
) -> tuple[Floats, Floats]:
    """`mean_interval` of many cells at once: values [..., example] to low and high [...]."""
    values = np.asarray(values, dtype=np.float64)
    low, high = ratio_intervals(values, np.ones(values.shape[-1]), clusters, confidence)
    if bounds is None:
        return low, high
    least, most = bounds
    if not -math.inf < least < most < math.inf:
        raise StatisticsError(f"Bounds are two growing numbers, not {least} and {most}.")
    if (values < least).any() or (values > most).any():
        raise StatisticsError(f"There are values outside of the bounds {least} and {most}.")
    n = n_independent(values.shape[-1], clusters)
    if n >= LEAST_N:
        mean = np.asarray(values.mean(-1))
        for place in np.argwhere(np.isnan(low)):
            at = tuple(place)
            share = min(1.0, max(0.0, (float(mean[at]) - least) / (most - least)))
            ends = wilson(share * n, n, confidence)
            low[at], high[at] = (least + (most - least) * end for end in ends)
    return np.clip(low, least, most), np.clip(high, least, most)


def ratio_interval(
    numerators: Values,
    denominators: Values,
    clusters: Clusters | None = None,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Interval of Σ numerators / Σ denominators over examples, as `mean_interval` makes it.

    Where the sum of the denominators is not clear of zero no interval of a ratio means anything
    (Fieller 1954): see whether `mean_interval` of them excludes 0 first.
    """
    low, high = ratio_intervals(one_row(numerators), one_row(denominators), clusters, confidence)
    return float(low), float(high)


def ratio_intervals(
    numerators: Floats,
    denominators: Floats,
    clusters: Clusters | None = None,
    confidence: float = 0.95,
) -> tuple[Floats, Floats]:
    """`ratio_interval` of many cells at once.

    Args:
        numerators: [..., example].
        denominators: [example], the same for all cells.
    """
    check_confidence(confidence)
    above, below = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    if above.shape[-1:] != below.shape:
        raise StatisticsError(
            f"A ratio needs one denominator for each example, not {below.size} for "
            f"{above.shape[-1]}."
        )
    check_finite(above, below)
    shape = above.shape[:-1]
    which, n = number_clusters(below.size, clusters)
    independent = n_independent(below.size, clusters)
    if independent < LEAST_N:
        return np.full(shape, math.nan), np.full(shape, math.nan)
    rows = above.reshape(-1, below.size)
    if clusters is not None:
        member = np.zeros((below.size, n))
        member[np.arange(below.size), which] = 1.0
        rows, below = rows @ member, below @ member
    if below.sum() == 0:
        return np.full(shape, math.nan), np.full(shape, math.nan)
    low, high = np.empty(len(rows)), np.empty(len(rows))
    for start in range(0, len(rows), _CELLS_AT_ONCE):
        part = slice(start, start + _CELLS_AT_ONCE)
        low[part], high[part] = _studentised(rows[part], below, confidence, independent)
    return low.reshape(shape), high.reshape(shape)


def _studentised(
    above: Floats, below: Floats, confidence: float, independent: float
) -> tuple[Floats, Floats]:
    """Intervals of Σ above / Σ below over independent columns [cell, column]; NaN without spread.

    Each resample is studentised by its own linearised error, in sums that are products of matrices.
    """
    n, total = below.size, below.sum()
    ratio = above.sum(1) / total
    rest = above - ratio[:, None] * below
    correction = small_sample(below)
    squared = correction * rest**2
    error = np.sqrt(squared.sum(1)) / abs(total)
    scale = np.abs(above).max(1) * n / abs(total)
    error[error <= ROUNDING * scale / math.sqrt(n)] = math.nan
    half = _t(confidence, independent)
    if n > _MOST_RESAMPLED:
        return ratio - half * error, ratio + half * error
    weights = _resamples(n)
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = below @ weights
        moved = (rest @ weights) / drawn
        squares = squared @ weights - 2 * moved * ((correction * rest * below) @ weights)
        squares += moved**2 * ((correction * below**2) @ weights)
        errors = np.sqrt(np.maximum(squares, 0.0)) / np.abs(drawn)
        # A resample of equal values is infinitely many errors off, unless it is not off at all.
        flat = errors <= ROUNDING * error[:, None]
        off = np.where(flat, np.sign(moved) * (np.abs(moved) > ROUNDING * error[:, None]), moved)
        t = off / np.where(flat, 0.0, errors)
    t = np.clip(np.nan_to_num(t, posinf=np.inf, neginf=-np.inf), -_WIDEST * half, _WIDEST * half)
    tail = (1 - confidence) / 2
    left, right = np.quantile(t, [tail, 1 - tail], axis=1)
    low = ratio - np.maximum(right, half) * error
    return low, ratio - np.minimum(left, -half) * error


def small_sample(weights: Floats) -> Floats:
    """By what squared residuals of a weighted mean are multiplied [cluster].

    A cluster that holds much of the total draws the mean to itself, so that its residual is too
    small (Bell & McCaffrey 2002). Of n equal clusters this is n / (n - 1).
    """
    return np.asarray(1 / np.clip(1 - weights / weights.sum(), 0.05, 1.0))


@functools.lru_cache(maxsize=4)
def _resamples(n: int) -> Floats:
    """How often each of n columns is drawn [column, resample]; the same for the same n, because an
    interval is a property of the numbers."""
    rng = np.random.default_rng(0)
    return rng.multinomial(n, np.full(n, 1 / n), _RESAMPLES).T.astype(np.float64)


def median_interval(
    values: Values, clusters: Clusters | None = None, confidence: float = 0.95
) -> tuple[float, float]:
    """Interval of the median: two of the ordered values, by the binomial distribution.

    It covers at least `confidence` for any continuous distribution, so it is wide: of 10 values
    the second and the ninth (.979), of fewer than 6 none at .95. NaN where there is none.

    Args:
        values: one number for each example [example].
        clusters: as for `mean_interval`; the interval is then that of the median over clusters, of
            each cluster's median.
    """
    check_confidence(confidence)
    sample = one_row(values)
    check_finite(sample)
    which, n = number_clusters(sample.size, clusters)
    if clusters is not None:
        sample = np.array([np.median(sample[which == code]) for code in range(n)])
    # The largest k with P(fewer than k of n are below the median) <= tail.
    k = int(scipy_stats.binom.ppf((1 - confidence) / 2, n, 0.5)) if n else 0
    if n < LEAST_N or k < 1:
        return math.nan, math.nan
    ordered = np.sort(sample)
    return float(ordered[k - 1]), float(ordered[n - k])


def wilson(successes: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval for a proportion (Wilson 1927); (0, 1) where nothing was observed.

    Unlike the normal approximation it stays inside [0, 1] and does not shrink to a point at 0 of n.
    `successes` need not be whole: where each of n examples was tried several times, pass n times
    the success rate, since tries of one example are not independent (see `proportion_interval`).

    Raises:
        StatisticsError: numbers that are not possible, NaN among them.
    """
    check_confidence(confidence)
    if not (0 <= successes <= n < math.inf):
        raise StatisticsError(f"{successes} successes of {n} trials is not possible.")
    if n == 0:
        return 0.0, 1.0
    quantile = float(scipy_stats.norm.ppf(0.5 + confidence / 2))
    low, high = score_intervals(np.float64(successes / n), np.float64(n), quantile)
    return float(low), float(high)


def proportion_interval(
    hits: npt.NDArray[np.bool_] | Sequence[bool] | Values,
    clusters: Clusters | None = None,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Score interval of a share of examples (see `wilson`), of as many trials as clusters make.

    Args:
        hits: True or False, or a success rate, for each example [example].
        clusters: as for `mean_interval`; see `proportion_intervals`.
    """
    check_confidence(confidence)
    sample = one_row(hits)
    check_finite(sample)
    if sample.size and not 0 <= sample.min() <= sample.max() <= 1:
        raise StatisticsError("Each example of a proportion is between 0 and 1.")
    which, n = number_clusters(sample.size, clusters)
    if n == sample.size:
        return wilson(float(sample.sum()), n, confidence)
    low, high = proportion_intervals(sample, which, confidence)
    return float(low), float(high)


def proportion_intervals(
    hits: Floats, clusters: npt.NDArray[np.int64], confidence: float = 0.95
) -> tuple[Floats, Floats]:
    """Intervals of many shares, where examples of a cluster are no evidence of their own.

    A score interval (Wilson 1927) for as many independent examples as there effectively are
    (Kish 1965; Korn & Graubard 1998): the variance of the mean comes from the clusters' totals,
    with a correction for few of them (see `small_sample`), and Student's t replaces the normal
    quantile, with one degree of freedom less than there are effective clusters. Where hardly any
    cluster has a wrong answer, or hardly any a right one, nothing shows that examples of a cluster
    differ; there a cluster counts as little more than one example.

    In simulations, 95% intervals cover 94 to 99% with 10 clusters and 92 to 98% with 50: equal and
    unequal ones, means of .5 to .98, answers that depend on the cluster hardly, somewhat or
    entirely.

    Args:
        hits: between 0 and 1, for each example [..., example].
        clusters: of the examples, as numbers from 0.
        confidence: of the interval.

    Returns:
        low and high [...].
    """
    flat = hits.reshape(-1, hits.shape[-1])
    sizes = np.bincount(clusters).astype(np.float64)
    totals = np.stack([np.bincount(clusters, row, len(sizes)) for row in flat])
    n, worth = sizes.sum(), n_independent(flat.shape[1], clusters)
    mean = totals.sum(1) / n
    rest = totals - mean[:, None] * sizes
    variance = (small_sample(sizes) * rest**2).sum(1) / n**2
    alone = mean * (1 - mean)
    # Answers that are right or wrong vary no less than independent ones; shares may.
    least = 1.0 if np.isin(flat, (0.0, 1.0)).all() else 0.01
    effect = np.maximum(n * variance / np.where(alone > 0, alone, 1), least)
    most = np.maximum(effect, n / worth)
    slack = 1e-9 * sizes
    mixed = np.minimum((totals > slack).sum(1), (totals < sizes - slack).sum(1))
    trust = mixed / (mixed + 1)
    independent = n / (effect**trust * most ** (1 - trust))
    low, high = score_intervals(mean, independent, _t(confidence, max(2.0, worth)))
    return low.reshape(hits.shape[:-1]), high.reshape(hits.shape[:-1])


def score_intervals(
    shares: Floats | np.float64, trials: Floats | np.float64, quantile: float
) -> tuple[Floats, Floats]:
    """Wilson's interval of shares of so many trials, with this quantile for the normal one's."""
    width = quantile**2 / trials
    centre = (shares + width / 2) / (1 + width)
    half = quantile / (1 + width) * np.sqrt((shares * (1 - shares) + width / 4) / trials)
    # A share lies within its interval; at 0 and 1 the closed form does so but for rounding.
    return np.clip(centre - half, 0, shares), np.clip(centre + half, shares, 1)


def n_independent(n: int, clusters: Clusters | None = None) -> float:
    """How many of n examples are independent: all, or the effective number of clusters.

    That is (Σ size)² / Σ size² (Kish 1965): the number of clusters if they are of one size, fewer
    if a few hold most examples and the mean hangs on these.
    """
    if clusters is None:
        return float(n)
    which, count = number_clusters(n, clusters)
    sizes = np.bincount(which, minlength=count)
    return float(n * n / (sizes**2).sum()) if n else 0.0


def no_interval(n: float, what: str = "examples") -> str:
    """Why there is no interval over n independent examples (`what`, a plural), as words."""
    if n < LEAST_N:
        counted = what.removesuffix("s") if n == 1 else what
        return f"no interval: {n:.3g} independent {counted}, and at least {LEAST_N} are needed"
    return f"no interval: all {what} have the same value, so their spread is not known"


def bootstrap(
    values: Values,
    statistic: Callable[..., npt.NDArray[np.float64]] = np.mean,
    n: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """BCa bootstrap interval of `statistic` over examples (Efron 1987); NaN where there is none.

    Of means and medians use `mean_interval` and `median_interval`, which cover what they say with
    few examples too: this holds .90 of normal, .85 of exponential means at 10 examples, not .95.

    Args:
        values: one number for each example [example].
        statistic: takes an array and `axis`, as np.mean and np.std do.
        n: resamples.
        seed: of the resamples.

    Raises:
        StatisticsError: a value is not finite.
    """
    check_confidence(confidence)
    sample = one_row(values)
    check_finite(sample)
    if n < 1:
        raise StatisticsError(f"A bootstrap takes at least one resample, not {n}.")
    if sample.size < LEAST_N or np.ptp(sample) == 0:
        return math.nan, math.nan
    found = scipy_stats.bootstrap(
        (sample,), statistic, n_resamples=n, confidence_level=confidence, random_state=seed
    ).confidence_interval
    return float(found.low), float(found.high)


def one_row(values: Any) -> Floats:
    row = np.asarray(values, dtype=np.float64)
    if row.ndim != 1:
        raise StatisticsError(f"Give one number for each example, not an array of {row.shape}.")
    return row


def check_finite(*arrays: Floats) -> None:
    missing = sum(int((~np.isfinite(array)).sum()) for array in arrays)
    if missing:
        raise StatisticsError(
            f"{missing} of {sum(array.size for array in arrays)} values are missing or infinite; "
            "leave them out, and say how many there were."
        )


def check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise StatisticsError(f"The confidence lies between 0 and 1, not at {confidence}.")


def number_clusters(n: int, clusters: Clusters | None) -> tuple[npt.NDArray[np.int64], int]:
    """The cluster of each example as a number, and how many there are."""
    if clusters is None:
        return np.arange(n), n
    if len(clusters) != n:
        raise StatisticsError(f"There are {len(clusters)} clusters named for {n} examples.")
    numbers: dict[Hashable, int] = {}
    try:
        missing = any(name != name for name in clusters)  # only what is missing is not itself
        which = [numbers.setdefault(name, len(numbers)) for name in clusters]
    except (TypeError, ValueError):
        raise StatisticsError("Name each example's cluster by one text or number.") from None
    if missing:
        raise StatisticsError(
            "Some examples have no cluster; name each one's, or leave such examples out."
        )
    return np.array(which, dtype=np.int64), len(numbers)


def _t(confidence: float, n: float) -> float:
    return float(scipy_stats.t.ppf(0.5 + confidence / 2, n - 1))
