"""Intervals and tests over examples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats as scipy_stats

Values = npt.NDArray[np.float64] | Sequence[float]


def wilson(successes: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval for a proportion (Wilson 1927); (0, 1) where nothing was observed.

    Unlike the normal approximation it stays inside [0, 1] and does not shrink to a point at 0 of n.
    `successes` need not be whole: where each of n examples was tried several times, pass n times
    the success rate, since tries of one example are not independent.
    """
    if n < 0 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} trials is not possible")
    if n == 0:
        return 0.0, 1.0
    z = float(scipy_stats.norm.ppf(0.5 + confidence / 2))
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # At the edges the closed form is exactly 0 or 1 but for rounding.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return max(0.0, low), min(1.0, high)


def bootstrap(
    values: Values,
    statistic: Callable[..., npt.NDArray[np.float64]] = np.mean,
    n: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Percentile bootstrap interval of `statistic` over examples (Efron 1979).

    Args:
        values: one number for each example [example].
        statistic: takes an array and `axis`, as np.mean and np.median do.
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.size == 0:
        return math.nan, math.nan
    rng = np.random.default_rng(seed)
    draws = sample[rng.integers(0, sample.size, size=(n, sample.size))]
    tail = (1 - confidence) / 2
    low, high = np.quantile(statistic(draws, axis=1), [tail, 1 - tail])
    return float(low), float(high)


def permutation_test(
    first: Values, second: Values, n: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Two-sided permutation test of a difference of means between two groups.

    Returns:
        (difference of means, p value); the p value counts the observed split among the drawn
        ones, so that it is never 0 (Phipson & Smyth 2010).
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    observed = float(a.mean() - b.mean())
    pooled = np.concatenate([a, b])
    rng = np.random.default_rng(seed)
    extreme = 0
    for _ in range(n):
        mixed = rng.permutation(pooled)
        drawn = mixed[: a.size].mean() - mixed[a.size :].mean()
        extreme += abs(drawn) >= abs(observed) - 1e-12
    return observed, (extreme + 1) / (n + 1)


@dataclass(frozen=True)
class Equivalence:
    """Result of `tost`: the mean, its (1 - 2α) interval, and the p value of "not equivalent"."""

    mean: float
    low: float
    high: float
    p_value: float
    margin: float

    @property
    def equivalent(self) -> bool:
        """Whether the whole interval lies inside ±margin."""
        return -self.margin < self.low and self.high < self.margin


def tost(values: Values, margin: float, alpha: float = 0.05) -> Equivalence:
    """Two one-sided t tests that a mean lies within ±margin of zero (Schuirmann 1987).

    "Not significantly different from zero" is no evidence of absence; this is.
    """
    sample = np.asarray(values, dtype=np.float64)
    if margin <= 0:
        raise ValueError("the margin must be positive")
    if sample.size < 2:
        mean = float(sample.mean()) if sample.size else math.nan
        return Equivalence(mean, -math.inf, math.inf, 1.0, margin)
    mean = float(sample.mean())
    error = float(sample.std(ddof=1) / math.sqrt(sample.size))
    if error == 0.0:
        p = 0.0 if abs(mean) < margin else 1.0
        return Equivalence(mean, mean, mean, p, margin)
    df = sample.size - 1
    half = float(scipy_stats.t.ppf(1 - alpha, df)) * error
    p_low = float(scipy_stats.t.sf((mean + margin) / error, df))
    p_high = float(scipy_stats.t.cdf((mean - margin) / error, df))
    return Equivalence(mean, mean - half, mean + half, max(p_low, p_high), margin)


def holm(p_values: Values) -> npt.NDArray[np.float64]:
    """P values corrected for testing several hypotheses at once (Holm 1979)."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p)
    scaled = np.maximum.accumulate((p.size - np.arange(p.size)) * p[order])
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(scaled, 1.0)
    return corrected


def specificity(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """How much each diagonal entry exceeds what its row and its column explain [n].

    With scores[i, j] = log p(answer j | question i), the row's mean tells how likely names are
    after this question and the column's how likely this name is after any question; what is left
    on the diagonal is knowledge of the pair. Means are over off-diagonal entries; NaN entries
    (names that are not wrong answers) are left out. In expectation zero where scores are a sum of
    row and column effects.

    Raises:
        ValueError: not square, or too few entries to take means of.
    """
    n = len(scores)
    if scores.shape != (n, n) or n < 3:
        raise ValueError("specificity needs a square matrix of at least 3 pairs")
    others = np.where(np.eye(n, dtype=bool), np.nan, scores)
    row, column = np.nanmean(others, axis=1), np.nanmean(others, axis=0)
    excess: npt.NDArray[np.float64] = np.diagonal(scores) - row - column + np.nanmean(others)
    return excess
