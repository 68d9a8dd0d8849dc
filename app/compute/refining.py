"""A patching map that gets exact cell by cell, and how far its estimates could be trusted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from app.compute.checks import Check, patches
from app.compute.pairs import build
from experiments.explorer import Pair
from experiments.reporter import Progress

if TYPE_CHECKING:
    import xarray as xr

    from interp.model.model import Model
    from interp.prompts.pairs import PromptPairs


LARGE = 5e8
"""Parameters times tokens of a prompt, from which on the usual estimate takes seconds: one by
gradients alone, two runs and the way back through one of them, is shown before it."""


@dataclass(frozen=True)
class Refined:
    """Attributes:
    estimate: what every cell was estimated to do.
    result: the same, with exact values where `exact` says so.
    checks: what was checked at the layer of the largest cell, when all is done.
    first: whether a better estimate of all cells is to come.
    """

    estimate: xr.Dataset
    result: xr.Dataset
    checks: tuple[Check, ...] = ()
    first: bool = False


@dataclass(frozen=True)
class Trust:
    """How far estimates agree with the cells that were run.

    Attributes:
        n_cells: cells that were run.
        correlation: over these cells and all pairs; NaN where there are too few.
        sign_flips: share of cells whose estimate has the wrong sign, of those that move at all.
    """

    n_cells: int
    correlation: float
    sign_flips: float


def refined(
    model: Model,
    pair: Pair,
    site: str,
    run: bool,
    progress: Progress,
) -> Iterator[Refined]:
    """The estimate, of a large model a rough one before it, and if it is wanted ever more cells as
    they are when they are run."""
    from interp.patching import refine

    made = build(model, [pair])
    if model.n_parameters * made.clean.ids.shape[1] > LARGE:
        rough = _by_gradients(model, made, site)
        yield Refined(rough, rough, first=True)
    results = refine(model, made, site, progress=progress)
    estimate = next(results)
    last = Refined(estimate, estimate)
    yield last
    if run:
        for result in results:
            yield (last := Refined(estimate, result))
    yield replace(last, checks=patches(model, pair, site, largest(last.result)))


def _by_gradients(model: Model, pairs: PromptPairs, site: str) -> xr.Dataset:
    """Attribution patching of all cells, of which none is run."""
    from interp.patching import estimate

    found = estimate(model, pairs, site, method="gradient", check=0)
    cells = found["patched"].isel(example=0)
    return found.assign(exact=(cells.dims, np.zeros(cells.shape, np.bool_)))


def largest(result: xr.Dataset, example: int = 0) -> int:
    """The layer at which a patch moves one pair's metric most."""
    one = result.isel(example=example)
    moved = abs(one["patched"] - one["corrupt"]).fillna(0.0)
    by_layer = moved.max([dim for dim in moved.dims if dim != "layer"])
    return int(by_layer["layer"].values[int(by_layer.values.argmax())])


def was_run(result: xr.Dataset) -> bool:
    """Whether every cell of a map was run; in one that is refined some may be estimates yet."""
    if "exact" not in result:
        return True
    guessed = ~result["exact"] & result["patched"].notnull().any("example")
    return not bool(guessed.any())


def trust(one: Refined) -> Trust | None:
    """Estimates against what was run so far; None where nothing was."""
    from interp.patching import agreement

    exact = one.result["exact"]
    if not exact.any():
        return None
    run = one.result.assign(patched=one.result["patched"].where(exact))
    found = agreement(_flat(one.estimate), _flat(run))
    n = int((exact & one.result["patched"].notnull().any("example")).sum())
    return Trust(n, float(found["correlation"][0]), float(found["sign_flips"][0]))


def _flat(result: xr.Dataset) -> xr.Dataset:
    """All cells as if of one layer: few of them lie in each while a map is refined."""
    import xarray as xr

    patched = result["patched"].transpose("example", ...)
    values = patched.values.reshape(patched.sizes["example"], 1, -1)
    runs = {run: ("example", result[run].values) for run in ("clean", "corrupt")}
    return xr.Dataset(
        {"patched": (("example", "layer", "cell"), values), **runs},
        coords={"layer": [0]},
        attrs=result.attrs,
    )
