"""The only way to a share of an effect: the effect must be there, and clear of zero.

A share divides by how far two runs lie apart. Where that could be nothing, or has the wrong sign,
the quotient says nothing whatever its size; then there is no share, and a reason instead.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from interp.stats.clusters import Clusters, Floats, Values, n_independent, no_interval
from interp.stats.means import mean_interval, ratio_intervals


@dataclass(frozen=True)
class Effect:
    """How far the metric of a run lies above that of the run without what is looked for.

    Attributes:
        mean: over pairs, counted so that the expected direction is positive.
        low, high: its 95% interval, NaN where there is none.
        n: independent pairs.
        unit: of the metric.
        reason: why there is no share of it, as a sentence; empty where it is clear.
    """

    mean: float
    low: float
    high: float
    n: float
    unit: str
    reason: str

    @property
    def clear(self) -> bool:
        """Whether the interval lies above 0, so that shares mean something."""
        return not self.reason

    @property
    def attrs(self) -> dict[str, float | int | str]:
        """What a result with shares of this effect notes."""
        return {
            "clear": int(self.clear),
            "reason": self.reason,
            "effect": self.mean,
            "effect_low": self.low,
            "effect_high": self.high,
        }

    def __str__(self) -> str:
        interval = (
            no_interval(self.n, "pairs")
            if math.isnan(self.low)
            else f"[{_number(self.low)}, {_number(self.high)}]"
        )
        joined = f", {interval}" if math.isnan(self.low) else f" {interval}"
        return f"{_number(self.mean)}{' ' if self.unit else ''}{self.unit}{joined}"


def effect(
    full: Values,
    empty: Values,
    *,
    unit: str = "",
    metric: str = "",
    clusters: Clusters | None = None,
) -> Effect:
    """How far `full` lies above `empty`, and whether shares of that mean something.

    Args:
        full: the metric of each pair in the run that has what is looked for [example].
        empty: the same in the run that lacks it [example].
        unit: of the metric.
        metric: its name; of "rank" less is better, of any other more.
        clusters: which pairs are not independent, as for `mean_interval`.

    Raises:
        StatisticsError: numbers that are missing.
    """
    gap = direction(metric) * (
        np.asarray(full, dtype=np.float64) - np.asarray(empty, dtype=np.float64)
    )
    low, high = mean_interval(gap, clusters)
    mean = float(gap.mean()) if gap.size else math.nan
    found = Effect(mean, low, high, n_independent(gap.size, clusters), unit, "")
    return replace(found, reason=_reason(found))


def _reason(found: Effect) -> str:
    if math.isnan(found.low):
        return f"No share can be told: the effect is {found}."
    if found.high < 0:
        return f"No share can be told: the effect has the wrong sign, {found}."
    if found.low <= 0:
        return f"No share can be told: the effect, {found}, could be none."
    return ""


def direction(metric: str) -> int:
    """1 if a larger metric is better for the answer, −1 for ranks."""
    return -1 if metric == "rank" else 1


def shares(
    part: npt.ArrayLike,
    full: Values,
    empty: Values,
    of: Effect,
    clusters: Clusters | None = None,
) -> tuple[Floats, Floats, Floats]:
    """(mean part − mean empty) / (mean full − mean empty) with its 95% interval.

    Args:
        part: the metric in runs that have some of it [..., example].
        full: as for `effect`.
        empty: as for `effect`.
        of: what `effect` says of these; all shares are NaN where it is not clear.
        clusters: as for `effect`.

    Returns:
        The shares and both ends of their intervals [...]. A run that is, but for rounding, the
        whole or the empty one for every pair has both ends at 1 or 0; other parts that are the same
        share of every pair's effect have NaN for ends.
    """
    base = np.asarray(empty, dtype=np.float64)
    gap = np.asarray(full, dtype=np.float64) - base
    moved = np.asarray(part, dtype=np.float64) - base
    if not of.clear:
        nothing = np.full(moved.shape[:-1], math.nan)
        return nothing, nothing.copy(), nothing.copy()
    share = np.asarray(moved.sum(-1) / gap.sum())
    low, high = ratio_intervals(moved, gap, clusters)
    rounding = 1e-5 * float(np.abs([base, base + gap]).max())
    for sure in (0.0, 1.0):
        exactly = (np.abs(moved - sure * gap) <= rounding).all(-1)
        low, high = np.where(exactly, sure, low), np.where(exactly, sure, high)
    return share, low, high


def _number(value: float) -> str:
    """With a true minus sign, as figures write numbers, which `interp` does not import."""
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "−")
