"""Means over pairs, cell by cell, where not every pair has every cell."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from interp.stats import mean_intervals

Floats = npt.NDArray[np.float64]


def alike(values: Floats) -> list[tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]]:
    """Cells that the same examples have, given values [example, row, column]: which cells, and
    which examples."""
    there = np.isfinite(values)
    return [
        ((there == which[:, None, None]).all(0), which)
        for which in np.unique(there.reshape(len(there), -1), axis=1).T
    ]


def intervals(values: Floats, clusters: npt.NDArray[np.int64] | None) -> tuple[Floats, Floats]:
    """Low and high of means [row, column] of values [example, row, column] at 95%, over the
    examples that have a cell; NaN where there are too few.

    Args:
        clusters: which examples belong together, one number each; None where each is its own.
    """
    low = np.full(values.shape[1:], np.nan)
    high = low.copy()
    # Cells with the same examples are taken together, since each call draws its samples anew.
    for cells, which in alike(values):
        if which.any():
            some = None if clusters is None else clusters[which]
            low[cells], high[cells] = mean_intervals(values[which][:, cells].T, some)
    return low, high
