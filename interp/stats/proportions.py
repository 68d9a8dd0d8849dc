"""Intervals of proportions: Wilson's, of as many trials as there are independent examples."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import special

from interp.errors import StatisticsError
from interp.stats.clusters import (
    Clusters,
    Floats,
    Values,
    check_confidence,
    check_finite,
    n_independent,
    number_clusters,
    one_row,
    small_sample,
    t_quantile,
)


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
    quantile = float(special.ndtri(0.5 + confidence / 2))
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
    low, high = score_intervals(mean, independent, t_quantile(confidence, max(2.0, worth)))
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
