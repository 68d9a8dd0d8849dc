"""Estimates over the organisms of a study, or over the examples of one.

With one seed an interval is over examples and about this one organism. With several it is over
seeds, by Student's t on the seeds' estimates, and never narrower than the one over all examples:
seeds that agree to the last example (all answer everything) say less than an interval of no width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import special

from experiments.numbers import percent
from experiments.study import Outcome, Verdict
from interp.stats import (
    difference_intervals,
    mean_interval,
    proportion_interval,
    share_difference,
)

__all__ = ["Estimate", "difference", "estimate", "outcome", "verdict"]

Values: TypeAlias = "npt.NDArray[np.float64]"


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval.

    Attributes:
        mean: over seeds, of their means over examples.
        low, high: of its interval; NaN where there is none.
        n: examples in all.
        seeds: the mean of each.
        confidence: of the interval.
    """

    mean: float
    low: float
    high: float
    n: int
    seeds: tuple[float, ...]
    confidence: float = 0.95

    @property
    def over(self) -> str:
        """What the interval is over, in words."""
        if len(self.seeds) == 1:
            return "examples of one model"
        return f"{len(self.seeds)} organisms"

    def share(self) -> str:
        """As percent: "92% [86%, 96%]"."""
        return f"{percent(self.mean)} [{percent(self.low)}, {percent(self.high)}]"

    def number(self, digits: int = 2) -> str:
        """As a number: "0.42 [0.31, 0.53]"."""

        def one(value: float) -> str:
            return f"{value + 0.0:.{digits}f}".replace("-", "−") if np.isfinite(value) else "–"

        return f"{one(self.mean)} [{one(self.low)}, {one(self.high)}]"


def estimate(
    seeds: Sequence[npt.ArrayLike],
    *,
    bounds: tuple[float, float] | None = None,
    clusters: Sequence[npt.ArrayLike] | None = None,
    confidence: float = 0.95,
) -> Estimate:
    """The mean of values per example.

    Args:
        seeds: for each seed its values [example]; examples that are NaN are left out.
        bounds: smallest and largest possible value, as for `mean_interval`: (0, 1) for shares.
        clusters: for each seed what its examples share with others that are not independent.
        confidence: of the interval.
    """
    found, groups = _present(seeds, clusters)
    means = tuple(float(each.mean()) if each.size else np.nan for each in found)
    n = sum(each.size for each in found)
    if not n or any(np.isnan(means)):
        return Estimate(np.nan, np.nan, np.nan, n, means, confidence)
    # Examples of two organisms share nothing, even if they have the same number.
    named = [(seed, one) for seed, each in enumerate(groups or ()) for one in each]
    which = None if groups is None else list(map(repr, named))
    values = np.concatenate(found)
    if bounds == (0.0, 1.0) and np.isin(values, (0.0, 1.0)).all():
        low, high = proportion_interval(values, which, confidence)
    else:
        low, high = mean_interval(values, which, confidence, bounds=bounds)
    return _over_seeds(means, (low, high), n, confidence, bounds)


def difference(
    first: Sequence[npt.ArrayLike],
    second: Sequence[npt.ArrayLike],
    *,
    shares: bool = False,
    confidence: float = 0.95,
) -> Estimate:
    """The mean of one group of examples minus that of another one, of the same organisms.

    Args:
        first, second: for each seed the values [example] of different examples; of the same ones
            take `estimate` of their differences.
        shares: whether values are hits (1) and misses (0).
    """
    one, _ = _present(first, None)
    other, _ = _present(second, None)
    n = sum(each.size for each in (*one, *other))
    if not all(each.size for each in (*one, *other)):
        return Estimate(np.nan, np.nan, np.nan, n, (np.nan,) * len(one), confidence)
    means = tuple(float(a.mean() - b.mean()) for a, b in zip(one, other, strict=True))
    whole, rest = np.concatenate(one), np.concatenate(other)
    if shares:
        ends = share_difference(whole, rest, paired=False, confidence=confidence)
    else:
        low, high = difference_intervals(whole, rest, confidence)
        ends = float(low), float(high)
    return _over_seeds(means, ends, n, confidence, (-1.0, 1.0) if shares else None)


def outcome(found: Estimate, *, above: float, below: float | None = None) -> Outcome:
    """Supported where the interval lies above one value, rejected where it lies below another.

    Args:
        above: what counts as an effect begins here.
        below: an effect smaller than this is none that matters; `above` if left out.
    """
    if found.low > above:
        return "supported"
    return "rejected" if found.high < (above if below is None else below) else "undecided"


def verdict(
    id: str,
    claim: str,
    decided: Outcome,
    statement: str,
    found: Estimate,
    *,
    unit: str,
    control: str,
    n: int | None = None,
) -> Verdict:
    """The verdict that an estimate stands for; `n` is the estimate's own where it is left out."""
    return Verdict(
        id,
        claim,
        decided,
        statement,
        found.mean,
        found.low,
        found.high,
        unit,
        found.n if n is None else n,
        control,
        found.confidence,
    )


def _over_seeds(
    means: tuple[float, ...],
    examples: tuple[float, float],
    n: int,
    confidence: float,
    bounds: tuple[float, float] | None,
) -> Estimate:
    low, high = examples
    mean = float(np.mean(means))
    if len(means) > 1:
        spread = float(np.std(means, ddof=1)) / len(means) ** 0.5
        half = float(special.stdtrit(len(means) - 1, 0.5 + confidence / 2)) * spread
        low, high = float(np.fmin(low, mean - half)), float(np.fmax(high, mean + half))
    if bounds is not None:
        low, high = float(np.clip(low, *bounds)), float(np.clip(high, *bounds))
    return Estimate(mean, low, high, n, means, confidence)


def _present(
    seeds: Sequence[npt.ArrayLike], clusters: Sequence[npt.ArrayLike] | None
) -> tuple[list[Values], list[npt.NDArray[np.str_]] | None]:
    given = [np.asarray(each, np.float64) for each in seeds]
    if not given:
        raise ValueError("there is no seed to estimate from")
    there = [np.isfinite(values) for values in given]
    found = [values[kept] for values, kept in zip(given, there, strict=True)]
    if clusters is None:
        return found, None
    names = [np.asarray(each).astype(str) for each in clusters]
    return found, [each[kept] for each, kept in zip(names, there, strict=True)]
