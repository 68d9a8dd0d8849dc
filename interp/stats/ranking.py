"""How well a score ranks two classes: the area under the ROC curve, with its interval."""

from __future__ import annotations

import math

import numpy as np
from scipy import optimize, special
from scipy import stats as scipy_stats

from interp.errors import StatisticsError
from interp.stats.clusters import LEAST_N, Floats, Values, check_confidence, check_finite, one_row

__all__ = ["auroc", "auroc_difference", "auroc_interval"]

_EDGE = 1e-9


def auroc(positive: Values, negative: Values) -> float:
    """The chance that an example of one class scores above one of the other; ties count half.

    It is the area under the ROC curve, and the statistic of Mann & Whitney (1947) as a share.

    Args:
        positive: scores of the examples that should be high [example].
        negative: of those that should be low [other example].

    Raises:
        StatisticsError: there are none of a class, or a score is not finite.
    """
    high, low = _classes(positive, negative)
    return float(_below(high, low).mean())


def auroc_interval(
    positive: Values, negative: Values, confidence: float = 0.95
) -> tuple[float, float]:
    """Interval of `auroc` over independent examples; NaN with fewer than `LEAST_N` of a class.

    It holds two intervals. In that of Newcombe (2006, method 5) each end lies as many standard
    errors from the area as a normal quantile says, where the error is that of the end itself, by
    the closed form of Hanley & McNeil (1982): it does not shrink to a point at 0 and 1. The other
    has the error of DeLong et al. (1988), on the logit of the area: it knows of classes that are
    spread unequally.

    Simulated with normal scores, a nominal 95% holds areas of .5 to .9 in 93 to 99% of samples of
    20 or more of each class; an area of .97 in 78 to 91% of samples of 10 or 20, many of which are
    told apart without a mistake, and in 95% or more of 150.

    Args:
        positive: as for `auroc`.
        negative: likewise. Where they are the two sides of pairs that resemble each other, the
            interval is too wide.
        confidence: nominal coverage.

    Raises:
        StatisticsError: as for `auroc`, or no such confidence.
    """
    check_confidence(confidence)
    high, low = _classes(positive, negative)
    if min(high.size, low.size) < LEAST_N:
        return math.nan, math.nan
    area = auroc(high, low)
    quantile = float(scipy_stats.norm.ppf(0.5 + confidence / 2))
    both = (high.size + low.size) / 2 - 1

    def beyond(end: float) -> float:
        """Negative where `end` is nearer to the area than its own error allows."""
        spread = 1 + both * ((1 - end) / (2 - end) + end / (1 + end))
        variance = end * (1 - end) * spread / (high.size * low.size)
        return (end - area) ** 2 - quantile**2 * variance

    # At 0 and 1 itself there is no error.
    inside = min(max(area, _EDGE), 1 - _EDGE)
    lower = 0.0 if area == 0 else float(optimize.brentq(beyond, 0.0, inside, xtol=1e-9))
    upper = 1.0 if area == 1 else float(optimize.brentq(beyond, inside, 1.0, xtol=1e-9))
    error = _delong(high, low)
    if 0 < area < 1 and error > 0:
        half = quantile * error / (area * (1 - area))
        ends = special.expit(special.logit(area) + np.array([-half, half]))
        lower, upper = min(lower, float(ends[0])), max(upper, float(ends[1]))
    return lower, upper


def auroc_difference(
    first: tuple[Values, Values], second: tuple[Values, Values], confidence: float = 0.95
) -> tuple[float, float, float]:
    """The area by one score minus that by another one of the same examples, with its interval.

    The error is that of DeLong et al. (1988), which knows that both scores are of the same
    examples; the interval is NaN with fewer than `LEAST_N` of a class.

    Args:
        first: as (positive, negative).
        second: likewise, each in the same order of examples.
        confidence: nominal coverage.

    Returns:
        difference, low, high.

    Raises:
        StatisticsError: as for `auroc`, or the scores are of different numbers of examples.
    """
    check_confidence(confidence)
    (high, low), (high_too, low_too) = _classes(*first), _classes(*second)
    if high.size != high_too.size or low.size != low_too.size:
        raise StatisticsError(
            "Two areas are compared on the same examples; give both scores of each."
        )
    difference = auroc(high, low) - auroc(high_too, low_too)
    if min(high.size, low.size) < LEAST_N:
        return difference, math.nan, math.nan
    won = (
        _below(high, low) - _below(high_too, low_too),
        _below(low, high) - _below(low_too, high_too),
    )
    error = math.sqrt(sum(float(each.var(ddof=1)) / each.size for each in won))
    half = float(scipy_stats.norm.ppf(0.5 + confidence / 2)) * error
    return difference, max(difference - half, -1.0), min(difference + half, 1.0)


def _delong(high: Floats, low: Floats) -> float:
    """The standard error of the area (DeLong et al. 1988)."""
    won = (_below(high, low), 1 - _below(low, high))
    return math.sqrt(sum(float(each.var(ddof=1)) / each.size for each in won))


def _below(scores: Floats, others: Floats) -> Floats:
    """For each score the share of the others below it, ties as a half."""
    ordered = np.sort(others)
    below = np.searchsorted(ordered, scores, "left") + np.searchsorted(ordered, scores, "right")
    return np.asarray(below / (2 * others.size))


def _classes(positive: Values, negative: Values) -> tuple[Floats, Floats]:
    high, low = one_row(positive), one_row(negative)
    check_finite(high, low)
    if not high.size or not low.size:
        raise StatisticsError(
            f"Two classes are ranked, and these hold {high.size} and {low.size} examples; give "
            "one or more of each."
        )
    return high, low
