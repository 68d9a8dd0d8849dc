"""Tests over examples: of a difference, of equivalence, of several hypotheses, of knowledge."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import linalg
from scipy import stats as scipy_stats
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from interp.errors import StatisticsError
from interp.stats.clusters import (
    LEAST_N,
    Clusters,
    Floats,
    Values,
    check_finite,
    check_seed,
    n_independent,
    no_interval,
    number_clusters,
    one_row,
    small_sample,
)
from interp.stats.means import ROUNDING

_DRAWS_AT_ONCE = 1_000
# Rounding of a difference of means, as a share of the largest value.
_SAME = 1e-12


def permutation_test(
    first: Values, second: Values, n: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Two-sided permutation test of a difference of means between two groups.

    Returns:
        (difference of means, p value); all splits are counted where there are at most n or a group
        has a single value, otherwise n drawn ones and the observed one, so that p is never 0
        (Phipson & Smyth 2010).

    Raises:
        StatisticsError: a group is empty or holds a value that is not finite, n is below 1, or
            there is no such seed.
    """
    a, b = one_row(first), one_row(second)
    if a.size == 0 or b.size == 0 or n < 1:
        raise StatisticsError(
            f"A permutation test compares two groups by at least one draw; these hold {a.size} "
            f"and {b.size} values, for {n} draws."
        )
    check_seed(seed)
    check_finite(a, b)
    difference = float(a.mean() - b.mean())
    pooled = np.concatenate([a, b])
    centred = pooled - pooled.mean()
    if min(a.size, b.size) == 1:  # which SciPy refuses: there are as many splits as values
        apart = np.abs(centred) * pooled.size / (pooled.size - 1)
        observed, drawn = apart[0 if a.size == 1 else -1], False
    else:
        found = scipy_stats.permutation_test(
            (centred[: a.size], centred[a.size :]),
            _distance,
            n_resamples=n,
            batch=_DRAWS_AT_ONCE,
            alternative="greater",
            rng=seed,
        )
        apart, observed = found.null_distribution, found.statistic
        drawn = math.comb(pooled.size, a.size) > n
    # Splits that are as far apart but for rounding count as such, which SciPy sees as a share of
    # the difference: of a small one between large values it is too little.
    extreme = int((apart >= observed - _SAME * float(np.abs(pooled).max())).sum())
    return difference, (extreme + drawn) / (apart.size + drawn)


def _distance(one: Floats, other: Floats, axis: int) -> Floats:
    return np.asarray(np.abs(one.mean(axis) - other.mean(axis)))


@dataclass(frozen=True)
class Equivalence:
    """Result of `tost`.

    Attributes:
        mean: over examples.
        low, high: its (1 - 2α) interval; infinite where there is none.
        p_value: of "not equivalent".
        margin: around 0.
        reason: why there is no interval; empty where there is one.
    """

    mean: float
    low: float
    high: float
    p_value: float
    margin: float
    reason: str = ""

    @property
    def equivalent(self) -> bool:
        """Whether the whole interval lies inside ±margin."""
        return -self.margin < self.low and self.high < self.margin


def tost(
    values: Values, margin: float, alpha: float = 0.05, clusters: Clusters | None = None
) -> Equivalence:
    """Two one-sided t tests that a mean lies within ±margin of zero (Schuirmann 1987).

    "Not significantly different from zero" is no evidence of absence; this is. Fewer than `LEAST_N`
    examples, or examples that are all the same, are no evidence either: their spread is not known,
    so p is 1 and the interval has no ends.

    Args:
        values: one number for each example [example].
        margin: below which a mean counts as none.
        alpha: level of each test.
        clusters: as for `mean_interval`.

    Raises:
        StatisticsError: a value is not finite, or margin or alpha are not possible.
    """
    sample = one_row(values)
    check_finite(sample)
    if not 0 < margin < math.inf:
        raise StatisticsError(f"The margin must be positive, not {margin}.")
    if not 0 < alpha < 0.5:
        raise StatisticsError(f"The level of a test lies between 0 and 0.5, not at {alpha}.")
    which, n = number_clusters(sample.size, clusters)
    independent = n_independent(sample.size, clusters)
    mean = float(sample.mean()) if sample.size else math.nan
    if independent >= LEAST_N:
        rest = np.bincount(which, sample - mean, n)
        correction = small_sample(np.bincount(which).astype(np.float64))
        error = math.sqrt(float((correction * rest**2).sum())) / sample.size
        if error > ROUNDING * float(np.abs(sample).max()) / math.sqrt(n):
            t = scipy_stats.t(independent - 1)
            half = float(t.ppf(1 - alpha)) * error
            p = max(float(t.sf((mean + margin) / error)), float(t.cdf((mean - margin) / error)))
            return Equivalence(mean, mean - half, mean + half, p, margin)
    return Equivalence(mean, -math.inf, math.inf, 1.0, margin, no_interval(independent))


def holm(p_values: Values) -> Floats:
    """P values corrected for testing several hypotheses at once (Holm 1979).

    Raises:
        StatisticsError: something is no p value; leave out what was not tested.
    """
    p = one_row(p_values)
    if not ((p >= 0) & (p <= 1)).all():
        raise StatisticsError(
            "P values lie between 0 and 1; leave out hypotheses that were not tested."
        )
    # Not by statsmodels, which has the garbage collector search all of the process at each call.
    order = np.argsort(p)
    scaled = np.maximum.accumulate((p.size - np.arange(p.size)) * p[order])
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(scaled, 1.0)
    return corrected


def specificity(scores: Floats) -> Floats:
    """How much each diagonal entry exceeds what its row and its column explain [..., n].

    With scores[i, j] = log p(answer j | question i), the row's effect tells how likely names are
    after this question and the column's how likely this name is after any question; what is left
    on the diagonal is knowledge of the pair. Both effects are fitted to the off-diagonal entries by
    least squares, so that NaN entries (names that are not wrong answers) can be left out anywhere:
    where scores are a sum of row and column effects, every entry is 0. Means of rows and columns
    would do that only without NaN, and only on average over the diagonal.

    Args:
        scores: [..., n, n]; several matrices with the same NaN entries are fitted at once.

    Returns:
        NaN for a pair whose row and column no chain of entries connects, so that their effects
        cannot be told apart, and where the diagonal is NaN.

    Raises:
        StatisticsError: not square, fewer than 3 pairs, or infinite entries.
    """
    scores = np.asarray(scores, dtype=np.float64)
    n = scores.shape[-1] if scores.ndim else 0
    if scores.ndim < 2 or scores.shape[-2] != n or n < 3:
        raise StatisticsError("Specificity needs a square matrix of at least 3 pairs.")
    if np.isinf(scores).any():
        raise StatisticsError("Specificity needs finite scores; make what is not there NaN.")
    each = scores.reshape(-1, n, n)
    here = ~np.isnan(each) & ~np.eye(n, dtype=bool)
    if len(each) == 0 or (here != here[0]).any():
        rows = [specificity(one) for one in each]
        return np.array(rows, dtype=np.float64).reshape(scores.shape[:-1])
    present = here[0]
    shift = each[:, present].mean(1) if present.any() else np.zeros(len(each))
    seen = np.where(present, each - shift[:, None, None], 0.0)
    joined = coo_array(np.block([[np.zeros((n, n)), present], [present.T, np.zeros((n, n))]]))
    part = connected_components(joined, directed=False)[1]
    row, column = _two_way(present.astype(np.float64), seen, part[n:])
    rest = np.diagonal(each, axis1=1, axis2=2) - row - column - shift[:, None]
    return np.where(part[:n] == part[n:], rest, np.nan).reshape(scores.shape[:-1])


def _two_way(present: Floats, seen: Floats, part: npt.NDArray[np.int32]) -> tuple[Floats, Floats]:
    """Row and column effects [matrix, n] by least squares; in a part of the columns up to a
    constant.

    The rows' effects are eliminated, so that a system of n columns is left. It is singular by one
    constant for each part, which is set to sum to zero.
    """
    counts = np.maximum(present.sum(1), 1.0)
    share = present / counts[:, None]
    system = np.diag(present.sum(0)) - present.T @ share + (part[:, None] == part[None, :])
    by_row, by_column = seen.sum(2), seen.sum(1)
    column = linalg.solve(system, (by_column - by_row @ share).T, assume_a="pos").T
    return (by_row - column @ present.T) / counts, column
