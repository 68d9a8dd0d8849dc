"""Independent examples, and clusters of those that are not; what cannot have an interval, and why.

Where several examples ask the same thing they are no independent ones; `clusters` says which belong
together, and then clusters count.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from interp.errors import StatisticsError

Floats = npt.NDArray[np.float64]
Values = npt.NDArray[np.float64] | Sequence[float]
Clusters = Sequence[Hashable] | npt.NDArray[Any]

LEAST_N = 5
"""The fewest independent examples, or clusters of them, that an interval is drawn from."""


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


def connected(*names: Clusters) -> npt.NDArray[np.int64]:
    """Clusters of examples that share any of their names, directly or by others [example].

    Args:
        names: of each example in one respect, for each respect.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(names[0])
    columns, beyond = [], n
    for some in names:
        numbers, count = number_clusters(n, some)
        columns.append(beyond + numbers)
        beyond += count
    rows = np.tile(np.arange(n), len(names))
    edges = coo_array((np.ones(len(rows)), (rows, np.concatenate(columns))), shape=(beyond, beyond))
    return np.asarray(connected_components(edges, directed=False)[1][:n], dtype=np.int64)


def small_sample(weights: Floats) -> Floats:
    """By what squared residuals of a weighted mean are multiplied [cluster].

    A cluster that holds much of the total draws the mean to itself, so that its residual is too
    small (Bell & McCaffrey 2002). Of n equal clusters this is n / (n - 1).
    """
    return np.asarray(1 / np.clip(1 - weights / weights.sum(), 0.05, 1.0))


def no_interval(n: float, what: str = "examples") -> str:
    """Why there is no interval over n independent examples (`what`, a plural), as words."""
    if n < LEAST_N:
        counted = what.removesuffix("s") if n == 1 else what
        return f"no interval: {n:.3g} independent {counted}, and at least {LEAST_N} are needed"
    return f"no interval: all {what} have the same value, so their spread is not known"


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


def check_seed(seed: int) -> None:
    # As SciPy's oldest generator has it.
    if not 0 <= seed < 2**32:
        raise StatisticsError("A seed of resamples lies between 0 and 2^32 − 1; choose one there.")


def check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise StatisticsError(f"The confidence lies between 0 and 1, not at {confidence}.")


def t_quantile(confidence: float, n: float) -> float:
    # As `scipy.stats.t.ppf`, whose checks take longer than the number.
    return float(special.stdtrit(n - 1, 0.5 + confidence / 2))
