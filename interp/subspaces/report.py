"""What is reported of a search: accuracies beside controls, and the smallest rank that holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from interp.stats import (
    LEAST_N,
    mean_interval,
    n_independent,
    proportion_interval,
    proportion_intervals,
)
from interp.subspaces.controls import Hits

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_CELL = ("layer", "position", "rank")


def generalises(
    low: Floats, control_high: Floats, independent: npt.NDArray[np.float64] | float
) -> Mask:
    """Whether held-out accuracy is clearly above that of every control.

    Args:
        low: lower ends of its intervals [...].
        control_high: upper ends of those of the controls [control, ...].
        independent: how many independent examples they are of [...].
    """
    return np.asarray((low > control_high.max(0)) & (np.asarray(independent) >= LEAST_N))


def boundary(holds: Mask, ranks: Sequence[int]) -> Floats:
    """The smallest rank that holds [layer, position]; NaN where none does.

    Args:
        holds: whether it generalises, and not by a dormant pathway [layer, position, rank].
        ranks: ascending.
    """
    smallest = np.asarray(ranks, dtype=np.float64)[holds.argmax(-1)]
    return np.where(holds.any(-1), smallest, np.nan)


def intervals(hits: npt.NDArray[np.float32], groups: Codes) -> tuple[Floats, Floats, Floats]:
    """Mean, and 95% interval over groups [...], of hits [..., example], NaN where there is none."""
    shape = hits.shape[:-1]
    rows = hits.reshape(-1, hits.shape[-1])
    mean, low, high = (np.full(len(rows), np.nan) for _ in range(3))
    # Rows of one place have the same examples.
    every, which = np.unique(np.isfinite(rows), axis=0, return_inverse=True)
    for number, there in enumerate(every):
        if there.any():
            at = np.flatnonzero(which.reshape(-1) == number)
            found = rows[at][:, there].astype(np.float64)
            mean[at] = found.mean(1)
            codes = np.unique(groups[there], return_inverse=True)[1].reshape(-1)
            if len(np.unique(codes)) == len(codes):
                low[at], high[at] = np.transpose([proportion_interval(row) for row in found])
            else:
                low[at], high[at] = proportion_intervals(found, codes)
    return mean.reshape(shape), low.reshape(shape), high.reshape(shape)


def describe(
    hits: Hits, groups: Codes, held: Mask, shape: tuple[int, int], ranks: Sequence[int]
) -> dict[str, Any]:
    """The variables of the result.

    Args:
        hits: of every interchange.
        groups: of the examples.
        held: which examples are held out.
        shape: numbers of layers and of positions.
        ranks: ascending.
    """
    n = len(groups)

    def by_cell(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """[..., example, place, rank] as [..., layer, position, rank, example]."""
        return np.moveaxis(values, -3, -1).reshape(*values.shape[:-3], *shape, len(ranks), n)

    learned, control, natural = (by_cell(v) for v in (hits.learned, hits.control, hits.natural))
    mine = groups[held]
    mean, low, high = intervals(learned[..., held], mine)
    control_mean, control_low, control_high = intervals(control[..., held], mine)
    natural_mean, natural_low, _ = intervals(natural[..., held], mine)
    whole = hits.whole.T.reshape(*shape, n)
    independent = np.array(
        [
            [n_independent(int(there.sum()), mine[there]) for there in np.isfinite(row)]
            for row in whole[..., held]
        ]
    )
    holds = generalises(low, control_high, independent[..., None])
    alone = generalises(natural_low, control_high, independent[..., None])
    lost = np.zeros_like(holds)
    for at in np.argwhere(holds & ~alone):
        gap = (learned - natural)[tuple(at)][held]
        there = np.isfinite(gap)
        least, _ = mean_interval(gap[there], mine[there], bounds=(-1.0, 1.0))
        lost[tuple(at)] = least > 0
    controls = ("control", *_CELL)
    return {
        "accuracy": (_CELL, _mean(learned[..., ~held])),
        "held_out": (_CELL, mean),
        "held_out_low": (_CELL, low),
        "held_out_high": (_CELL, high),
        "control_accuracy": (controls, _mean(control[..., ~held])),
        "control_held_out": (controls, control_mean),
        "control_low": (controls, control_low),
        "control_high": (controls, control_high),
        "generalises": (_CELL, holds),
        "boundary": (_CELL[:2], boundary(holds & ~lost, ranks)),
        "whole": (_CELL[:2], _mean(whole[..., held])),
        "natural": (_CELL, natural_mean),
        "dormant": (_CELL, lost),
        "independent": (_CELL[:2], independent),
        "hit": (("example", *_CELL), np.moveaxis(learned, -1, 0)),
        "control_hit": (("control", "example", *_CELL), np.moveaxis(control, -1, 1)),
    }


def _mean(hits: npt.NDArray[np.float32]) -> Floats:
    """The share of hits over the last axis; NaN where there are none."""
    there = np.isfinite(hits)
    total = np.where(there, hits, 0).sum(-1, dtype=np.float64)
    return np.asarray(np.where(there.any(-1), total / np.maximum(there.sum(-1), 1), np.nan))
