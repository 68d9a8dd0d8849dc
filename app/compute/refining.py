"""A patching map that gets exact cell by cell, and how far its estimates could be trusted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from app.compute.checks import Check, patches
from app.compute.pairs import build
from experiments.explorer import Pair
from experiments.reporter import Progress

if TYPE_CHECKING:
    import xarray as xr

    from interp.model.model import Model


@dataclass(frozen=True)
class Refined:
    """Attributes:
    estimate: what every cell was estimated to do.
    result: the same, with exact values where `exact` says so.
    checks: what was checked at the layer of the largest cell, when all is done.
    """

    estimate: xr.Dataset
    result: xr.Dataset
    checks: tuple[Check, ...] = ()


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
    """The estimate, and if it is wanted ever more cells as they are when they are run."""
    from interp.patching import refine

    results = refine(model, build(model, [pair]), site, progress=progress)
    estimate = next(results)
    last = Refined(estimate, estimate)
    yield last
    if run:
        for result in results:
            yield (last := Refined(estimate, result))
    yield replace(last, checks=patches(model, pair, site, largest(last.result)))


def largest(result: xr.Dataset, example: int = 0) -> int:
    """The layer at which a patch moves one pair's metric most."""
    one = result.isel(example=example)
    moved = abs(one["patched"] - one["corrupt"]).fillna(0.0)
    by_layer = moved.max([dim for dim in moved.dims if dim != "layer"])
    return int(by_layer["layer"].values[int(by_layer.values.argmax())])


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
