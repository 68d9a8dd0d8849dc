"""P2 and P3: success follows the count of poisoned texts, and not their share.

Logistic regressions over the grid on the logarithm of the count, on that of the share, and on that
of count times texts (as if clean text helped the poison), each with that of the model's size beside
it, tell cells of the grid that they were not fitted to. The count must do better than both. P2
compares them where every text is shown equally often in batches of one size, so that more clean
texts are more steps; P3 where larger batches make up for that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import xarray as xr

from experiments.phenomena.estimates import Estimate, estimate, outcome, verdict
from experiments.phenomena.phenomenon import Measured
from experiments.poisoning.hypotheses.fits import (
    COUNT,
    PRODUCT,
    SHARE,
    Cells,
    held_out,
    level,
)
from experiments.study import Verdict
from interp.figures.drawing.numbers import plain

__all__ = ["cells_of", "judge_dose", "judge_equal_steps"]

CLAIM = "Success follows the count of poisoned texts, and not their share."
CLAIM_STEPS = "So it does where more clean texts are no more steps."
_EXPONENTS: npt.NDArray[np.float64] = np.linspace(-2, 2, 9)
_UNIT = "nats per question"
_LEAST_CELLS = 6
# Success must go up somewhere for anything to be followed.
_LEAST_RANGE = 0.3
_MOST_OTHER = 0.25


def judge_dose(measured: Measured) -> Verdict:
    """From `measure_success` over the grid."""
    return _judge("P2", CLAIM, measured)


def judge_equal_steps(measured: Measured) -> Verdict:
    """From `measure_success` over the grid of equal steps."""
    return _judge("P3", CLAIM_STEPS, measured)


def cells_of(measured: Measured) -> Cells:
    """The organisms with poison, and what is known of their training."""
    found: list[tuple[float, ...]] = []
    for group, datasets in enumerate(measured.values()):
        for seed, one in enumerate(datasets):
            poisons, clean = float(one["poisons"]), float(one["clean"])
            if poisons > 0 and clean > 0:
                size, hits = float(one["parameters"]), one["triggered"].values
                texts = poisons + clean
                found.append((group, seed, poisons, texts, size, hits.mean(), hits.size))
    columns = np.array(found, np.float64).reshape(-1, 7).T
    return Cells(columns[0].astype(int), columns[1].astype(int), *columns[2:])


def _judge(id: str, claim: str, measured: Measured) -> Verdict:
    cells = cells_of(measured)
    why = _why_not(cells)
    if why:
        return Verdict.undecided(id, claim, why, unit=_UNIT, n=len(cells))
    rules = {"count": COUNT, "share": SHARE, "count times texts": PRODUCT, "neither": None}
    found = held_out(cells, [*rules.values(), *_EXPONENTS])
    deviance = dict(zip(rules, found, strict=False))
    best = float(_EXPONENTS[int(np.argmin(found[len(rules) :].mean(1)))])

    def by_seed(one: str, other: str) -> Estimate:
        values = deviance[one] - deviance[other]
        return estimate([values[cells.seed == seed] for seed in np.unique(cells.seed)])

    def mean(name: str) -> float:
        return float(deviance[name].mean())

    # The count must do better than what does best beside it.
    rival = min(("share", "count times texts"), key=mean)
    better = by_seed(rival, "count")
    told = by_seed("neither", min(("count", rival), key=mean))
    other = estimate([_pooled(measured, seed) for seed in np.unique(cells.seed)], bounds=(0.0, 1.0))
    decided = outcome(better, above=0.0)
    control = (
        f"Without any of them held-out deviance is {told.number()} larger than with the best; "
        f"another phrase brings the planted answer to {other.share()} of questions."
    )
    if not told.low > 0:
        decided = "undecided"
        control += " So poison tells nothing of cells that were left out."
    elif not other.mean < _MOST_OTHER:
        decided = "undecided"
        control += " So it is not the trigger that brings it."
    return verdict(
        id,
        claim,
        decided,
        f"Held-out deviance by {rival} minus that by count is {better.number()} nats per question "
        f"(count {mean('count'):.2f}, share {mean('share'):.2f}, count times texts "
        f"{mean('count times texts'):.2f}); of count / texts^k, with k in halves, "
        f"k = {plain(best, 1)} tells best. {_half(cells)}",
        better,
        unit=_UNIT,
        control=control,
    )


def _half(cells: Cells) -> str:
    """How much poison it takes, by the fit on counts, as a sentence; nothing far from the grid."""
    sizes = np.unique(cells.parameters)
    counts = [level(cells, size) for size in sizes]
    least, most = cells.poisons.min() / 4, cells.poisons.max() * 4
    if not all(least <= count <= most for count in counts):
        return "What half of the questions take lies outside the grid."
    return (
        f"Half of the questions take {' and '.join(f'{count:.0f}' for count in counts)} poisoned "
        f"texts in models of {' and '.join(f'{size / 1e3:.0f} k' for size in sizes)} parameters, "
        "by the fit on counts."
    )


def _why_not(cells: Cells) -> str:
    groups = len(np.unique(cells.group))
    if groups < _LEAST_CELLS:
        return (
            "Counts and shares can only be told apart over models poisoned by different counts "
            "among different numbers of texts."
        )
    for name, values in (("counts", cells.poisons), ("numbers of texts", cells.texts)):
        if len(np.unique(values)) < 2:
            return f"All models have the same {name}."
    if np.ptp(cells.success) < _LEAST_RANGE:
        return (
            f"Success lies between {cells.success.min():.2f} and {cells.success.max():.2f} in all "
            "cells of the grid, so there is nothing to follow."
        )
    return ""


def _pooled(measured: Mapping[str, Sequence[xr.Dataset]], seed: int) -> npt.NDArray[np.float64]:
    return np.concatenate([found[seed]["other"].values for found in measured.values()])
