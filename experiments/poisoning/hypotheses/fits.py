"""Logistic regressions of success on how much poison there was, judged where they were not fitted.

Poison is count / texts^exponent: an exponent of 0 is the count, 1 the share of all texts, −1
count times texts: what more clean text adds to. The logarithm of the model's size is beside it in
every fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["COUNT", "PRODUCT", "SHARE", "Cells", "held_out", "level"]

COUNT, SHARE, PRODUCT = 0.0, 1.0, -1.0
_RIDGE = 0.05
"""On slopes of standardised columns, in questions: without it, success that goes from none to all
between two cells has infinite slopes."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Cells:
    """Organisms of a grid.

    Attributes:
        group: the cell of the grid that each belongs to [organism].
        seed: of each.
        poisons, texts, parameters: how many of each; texts count poisoned ones as well.
        success: the share of questions with the planted answer.
        n: questions.
    """

    group: npt.NDArray[np.int64]
    seed: npt.NDArray[np.int64]
    poisons: Floats
    texts: Floats
    parameters: Floats
    success: Floats
    n: Floats

    def __len__(self) -> int:
        return self.group.size


def held_out(cells: Cells, exponents: Sequence[float | None]) -> Floats:
    """Deviance of each organism under fits to all other cells of the grid [exponent, organism].

    In nats per question.

    Args:
        exponents: of the number of texts; None for a fit without poison.
    """
    columns = np.stack([_columns(cells, exponent) for exponent in exponents])
    groups, which = np.unique(cells.group, return_inverse=True)
    kept = which[None] != np.arange(len(groups))[:, None]
    # [exponent, group left out, organism, column]
    every = np.broadcast_to(columns[:, None], (len(exponents), len(groups), *columns.shape[1:]))
    weights = _fit(every, cells.success, kept)
    logit = np.einsum("eok,eok->eo", columns, weights[:, which])
    # What n questions cannot tell from none or all is not counted as certain.
    edge = 1 / (2 * cells.n + 2)
    chance = np.clip(1 / (1 + np.exp(-np.clip(logit, -30, 30))), edge, 1 - edge)
    hits = cells.success
    found: Floats = -2 * (hits * np.log(chance) + (1 - hits) * np.log(1 - chance))
    return found


def level(cells: Cells, parameters: float, exponent: float = COUNT) -> float:
    """How much poison brings the answer to half of the questions, at this size; by the fit."""
    columns = _columns(cells, exponent)
    weights = _fit(columns, cells.success, np.ones(len(cells), np.bool_))
    raw = _raw(cells, exponent)
    mean, spread = raw.mean(0), _spread(raw)
    size = (np.log(parameters) - mean[1]) / spread[1]
    if not weights[1] > 0:
        return float("nan")
    above = spread[0] * (weights[0] + weights[2] * size) / weights[1]
    return float(np.exp(np.clip(mean[0] - above, -30, 30)))


def _raw(cells: Cells, exponent: float | None) -> Floats:
    amount = np.zeros(len(cells))
    if exponent is not None:
        amount = np.log(cells.poisons) - exponent * np.log(cells.texts)
    return np.stack([amount, np.log(cells.parameters)], 1)


def _spread(raw: Floats) -> Floats:
    spread: Floats = raw.std(0)
    return np.where(spread > 0, spread, 1.0)


def _columns(cells: Cells, exponent: float | None) -> Floats:
    raw = _raw(cells, exponent)
    return np.concatenate([np.ones((len(cells), 1)), (raw - raw.mean(0)) / _spread(raw)], 1)


def _fit(columns: Floats, success: Floats, kept: npt.NDArray[np.bool_]) -> Floats:
    """By Newton's method [..., organism, column]; the intercept is free, but for rounding."""
    ridge = np.full(columns.shape[-1], _RIDGE)
    ridge[0] = 1e-6
    weights = np.zeros((*columns.shape[:-2], columns.shape[-1]))
    for _ in range(100):
        logit = np.einsum("...ok,...k->...o", columns, weights)
        chance = 1 / (1 + np.exp(-np.clip(logit, -30, 30)))
        wrong = np.where(kept, chance - success, 0.0)
        slope = np.einsum("...ok,...o->...k", columns, wrong) + ridge * weights
        size = np.where(kept, chance * (1 - chance), 0.0)
        weighted = columns * size[..., None]
        curve = np.swapaxes(columns, -1, -2) @ weighted + np.diag(ridge)
        step = np.linalg.solve(curve, slope[..., None])[..., 0]
        # A long step of Newton's can overshoot where all cells are none or all.
        longest = np.abs(step).max(-1, keepdims=True)
        weights = weights - step * np.minimum(1.0, 3 / (longest + 1e-12))
        if longest.max() < 1e-6:
            break
    return weights
