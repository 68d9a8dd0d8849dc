"""Intervals over groups, and tests against shuffled labels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import stats as scipy_stats

from interp.stats import LEAST_N, proportion_intervals
from probes.labels import Codes

Floats = npt.NDArray[np.float64]

LEAST_GROUPS = LEAST_N
"""Fewer groups do not tell how much groups differ: their intervals are NaN."""


def group_interval(
    values: Floats, groups: Codes, *, confidence: float = 0.95
) -> tuple[Floats, Floats]:
    """Interval of a mean over examples, where examples of a group are no evidence of their own.

    Args:
        values: between 0 and 1, for each example [..., example].
        groups: of the examples, as numbers.
        confidence: of the interval.

    Returns:
        low and high [...], as `proportion_intervals` makes them; NaN for fewer than `LEAST_GROUPS`
        groups.
    """
    if int(groups.max()) + 1 < LEAST_GROUPS:
        none = np.full(values.shape[:-1], np.nan)
        return none, none.copy()
    return proportion_intervals(values, groups, confidence)


def difference_interval(
    first: Floats, second: Floats, groups: Codes, *, confidence: float = 0.95
) -> tuple[Floats, Floats]:
    """Interval of the difference of two means over the same examples.

    From the intervals of both and the correlation of their groups' totals (Newcombe 1998, method
    10), so that two probes that are always right differ by nothing, give or take what their
    intervals do.

    Args:
        first, second, groups, confidence: as for `group_interval`.

    Returns:
        low and high [...] of first minus second.
    """
    means, below, above, rest = [], [], [], []
    for values in (first, second):
        low, high = group_interval(values, groups, confidence=confidence)
        flat = values.reshape(-1, values.shape[-1])
        mean, totals, sizes = _by_group(flat, groups)
        means.append(mean.reshape(low.shape))
        below.append(means[-1] - low)
        above.append(high - means[-1])
        rest.append(totals - mean[:, None] * sizes)
    product = (rest[0] * rest[1]).sum(1)
    length = np.sqrt((rest[0] ** 2).sum(1) * (rest[1] ** 2).sum(1))
    related = np.where(length > 0, product / np.where(length > 0, length, 1), 0.0)
    # A positive correlation narrows the interval, and few groups do not tell how large it is.
    worth = sizes.sum() ** 2 / (sizes**2).sum()
    related = np.where(related > 0, related * max(0.0, 1 - 3 / worth), related)
    related = np.clip(related, -1, 1).reshape(means[0].shape)
    difference = means[0] - means[1]

    def reach(one: Floats, other: Floats) -> Floats:
        squared: Floats = one**2 - 2 * related * one * other + other**2
        return np.sqrt(np.maximum(squared, 0))

    return difference - reach(below[0], above[1]), difference + reach(above[0], below[1])


def _by_group(values: Floats, groups: Codes) -> tuple[Floats, Floats, Floats]:
    """Means [row], totals of groups [row, group] and sizes of groups [group]."""
    sizes = np.bincount(groups).astype(np.float64)
    totals: Floats = np.stack([np.bincount(groups, row, len(sizes)) for row in values])
    return totals.sum(1) / sizes.sum(), totals, sizes


def against_shuffled(found: Floats, shuffled: Floats, *, least: float = 0.0) -> Floats:
    """One-sided p values that a score is larger than those of shuffled labels.

    Under the null hypothesis the score and its shuffled copies are draws of one distribution;
    taken as normal, (score - mean) / (sd · √(1 + 1/m)) follows Student's t with m - 1 degrees of
    freedom, exactly also for few shuffles. Where all shuffles agree, the rank decides.

    Args:
        found: [site].
        shuffled: [site, shuffle].
        least: p value that none can be below, since there are no more ways to shuffle.
    """
    m = shuffled.shape[1]
    mean, sd = shuffled.mean(1), shuffled.std(1, ddof=1)
    flat = sd <= 1e-12 * np.maximum(1e-300, np.abs(mean))
    t = (found - mean) / np.where(flat, 1.0, sd * np.sqrt(1 + 1 / m))
    rank = (1 + (shuffled >= found[:, None]).sum(1)) / (m + 1)
    p: Floats = np.maximum(np.where(flat, rank, scipy_stats.t.sf(t, m - 1)), least)
    return p
