"""Intervals of the difference of two means or two shares, from the interval of each.

What is known of either one is put together by squares (Zou & Donner 2008, who call it MOVER; for
shares it is Newcombe's 1998 method 10), so that a difference inherits what its parts know of skew
and of the ends 0 and 1.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from interp.errors import StatisticsError
from interp.stats.clusters import Clusters, Floats, Values, check_finite, one_row
from interp.stats.means import mean_interval, mean_intervals
from interp.stats.proportions import proportion_interval

__all__ = ["difference_intervals", "share_difference"]

_Ends = tuple[Floats, Floats, Floats]


def difference_intervals(
    first: Floats,
    second: Floats,
    confidence: float = 0.95,
    *,
    clusters: tuple[Clusters | None, Clusters | None] = (None, None),
) -> tuple[Floats, Floats]:
    """Intervals of the mean of one sample minus that of another, independent one; many cells.

    Of differences of pairs take `mean_intervals`: they are narrower where pairs resemble each
    other.

    Args:
        first: [..., example].
        second: [..., other example], with the same cells.
        confidence: of the interval.
        clusters: of the examples of either sample, as for `mean_intervals`.

    Returns:
        low and high [...]; NaN where one of both has no interval (see `no_interval`).

    Raises:
        StatisticsError: a value is not finite, the cells differ, or clusters do not fit.
    """
    sides: list[_Ends] = []
    for sample, which in zip((first, second), clusters, strict=True):
        values = np.asarray(sample, np.float64)
        low, high = mean_intervals(values, which, confidence)
        sides.append((values.mean(-1), low, high))
    if sides[0][0].shape != sides[1][0].shape:
        raise StatisticsError(
            f"The samples have the cells {sides[0][0].shape} and {sides[1][0].shape}; both must "
            "have the same."
        )
    return _put_together(sides[0], sides[1], 0.0)


def share_difference(
    first: npt.NDArray[np.bool_] | Values,
    second: npt.NDArray[np.bool_] | Values,
    *,
    paired: bool,
    confidence: float = 0.95,
    clusters: tuple[Clusters | None, Clusters | None] = (None, None),
) -> tuple[float, float]:
    """Interval of one share of hits minus another (Newcombe 1998, method 10 of both papers).

    Where pairs stand in clusters, it is the interval of the mean difference of a pair
    (`mean_interval`).

    Args:
        first: hit or no hit, for each example [example].
        second: the same of other examples, or of the same ones in the same order.
        paired: whether they are the same examples, of which one that is a hit in one is more
            likely a hit in the other.
        confidence: of the interval.
        clusters: of the examples of either side, as for `proportion_interval`; of pairs the first
            ones are taken.

    Raises:
        StatisticsError: a number is no hit (1) or miss (0), there are none, or pairs or clusters do
            not fit.
    """
    one, other = one_row(first), one_row(second)
    check_finite(one, other)
    for hits in (one, other):
        if not hits.size or not np.isin(hits, (0.0, 1.0)).all():
            raise StatisticsError("A share needs one or more examples, each a hit or a miss.")
    if paired and one.size != other.size:
        raise StatisticsError(f"{one.size} and {other.size} examples are no pairs.")
    if paired and clusters[0] is not None:
        return mean_interval(one - other, clusters[0], confidence, bounds=(-1.0, 1.0))
    sides: list[_Ends] = []
    for hits, which in zip((one, other), clusters, strict=True):
        low, high = map(np.asarray, proportion_interval(hits, which, confidence))
        sides.append((np.asarray(hits.mean()), low, high))
    alike = _phi(one, other) if paired else 0.0
    ends = _put_together(sides[0], sides[1], alike)
    return float(ends[0]), float(ends[1])


def _phi(one: Floats, other: Floats) -> float:
    """How far hits of pairs go together, corrected towards 0 as Newcombe does."""
    n = one.size
    both, neither = (one * other).sum(), ((1 - one) * (1 - other)).sum()
    only_one, only_other = (one * (1 - other)).sum(), ((1 - one) * other).sum()
    spread = one.sum() * (n - one.sum()) * other.sum() * (n - other.sum())
    if spread == 0:
        return 0.0
    above = float(both * neither - only_one * only_other)
    if above > 0:
        above = max(above - n / 2, 0.0)
    return above / math.sqrt(spread)


def _put_together(first: _Ends, second: _Ends, alike: float) -> tuple[Floats, Floats]:
    """The ends of first − second, each a (mean, low, high) with this correlation."""
    (one, one_low, one_high), (other, other_low, other_high) = first, second
    difference = one - other

    def reach(down: Floats, up: Floats) -> Floats:
        squared = down**2 - 2 * alike * down * up + up**2
        return np.asarray(np.sqrt(np.maximum(squared, 0.0)))

    return (
        difference - reach(one - one_low, other_high - other),
        difference + reach(one_high - one, other - other_low),
    )
