"""A patching map that gets exact cell by cell, and how far its estimates could be trusted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from experiments.reporter import Progress

if TYPE_CHECKING:
    import xarray as xr

    from interp.model.model import Model
    from interp.prompts.pairs import PromptPairs


@dataclass(frozen=True)
class Refined:
    """Attributes:
    estimate: what every cell was estimated to do.
    result: the same, with exact values where `exact` says so.
    """

    estimate: xr.Dataset
    result: xr.Dataset


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
    pairs: PromptPairs,
    site: str,
    run: bool,
    progress: Progress,
) -> Iterator[Refined]:
    """The estimate, and if it is wanted ever more cells as they are when they are run."""
    from interp.patching import refine

    results = refine(model, pairs, site, progress=progress)
    estimate = next(results)
    yield Refined(estimate, estimate)
    if run:
        yield from (Refined(estimate, result) for result in results)


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
