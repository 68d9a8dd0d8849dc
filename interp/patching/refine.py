"""An estimate of all cells, and the truth for those that matter most, as it comes in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import xarray as xr

from cache.arguments import typed
from interp.errors import SiteError
from interp.metrics import Metric
from interp.model.model import Model
from interp.patching.cells import By, Cells
from interp.patching.first_order import first_order
from interp.patching.groups import Neurons
from interp.patching.request import Request
from interp.patching.results import label
from interp.patching.runner import Runner, add_up
from interp.patching.table import Indices, Mask
from interp.patching.values import RUNS, Direction, Progress, Source
from interp.prompts.pairs import PromptPairs
from interp.prompts.tokens import Prompts

# Partial results come at most so many times: each is a copy of the whole result.
_STEPS = 12


@typed
def refine(
    model: Model,
    pairs: PromptPairs,
    site: str,
    metric: Metric | str = "logit_diff",
    *,
    only: int | None = None,
    by: By | Sequence[By] | None = None,
    direction: Direction | None = None,
    source: Source = "other",
    reference: Prompts | None = None,
    layers: Sequence[int] | None = None,
    positions: Sequence[int | str] | None = None,
    heads: Sequence[int] | None = None,
    neurons: Neurons | None = None,
    attended: Sequence[int | str] | None = None,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Iterator[xr.Dataset]:
    """Estimate all cells, then run those with the largest estimated effect, largest first.

    Arguments that are not listed are those of `sweep`; the metric must have a gradient.

    Args:
        only: how many places (layer × the axes of `by`) to run, each for all pairs; all if left
            out.
        progress: called with (places run, places to run).

    Yields:
        What `sweep` returns, with exact(layer, …): whether these cells were run, or are only
        estimated to first order. The first result is the estimate alone; in each further one more
        cells are exact, those with the largest mean |estimated change| over the pairs first.

    Raises:
        SiteError, PromptError, MetricError: as for `sweep` and `estimate`, before the first result.
    """
    request = Request.of(
        model,
        pairs,
        site,
        metric,
        by=by,
        direction=direction,
        source=source,
        reference=reference,
        layers=layers,
        positions=positions,
        heads=heads,
        neurons=neurons,
        attended=attended,
    )
    return refined(request, only, batch_size, progress)


def refined(
    request: Request, only: int | None, batch_size: int | None, progress: Progress | None
) -> Iterator[xr.Dataset]:
    """As `refine`, of a request that was checked."""
    _check(request, only)
    return _refined(request, only, batch_size, progress)


def ranked(request: Request, only: int | None) -> tuple[xr.Dataset, Indices]:
    """The estimate, and the places with the largest estimated effect, largest first.

    Returns:
        What `estimate` does, and indices into the flattened [layer, *axes], at most `only`.
    """
    _check(request, only)
    estimated, cells = first_order(request, None), request.cells
    base = estimated[RUNS[request.direction][0]].values
    patched = estimated["patched"].values  # [example, layer, *axes]
    change = np.abs(patched - base.reshape(-1, *(1,) * (patched.ndim - 1)))
    every = np.ones((len(cells), len(request.layers)), dtype=np.bool_)
    there = cells_at(cells, every, len(request.pairs))
    # Places that no pair has come last, and are never run; those whose estimate failed come first.
    mean = np.where(there, np.where(np.isnan(change), np.inf, change), 0.0).sum(0)
    mean /= np.maximum(there.sum(0), 1)
    order = np.argsort(-np.where(there.any(0), mean, -1.0), axis=None, kind="stable")
    return estimated, order[: int(there.any(0).sum())][:only]


def _check(request: Request, only: int | None) -> None:
    if only is not None and only < 0:
        raise SiteError(f"{only} cells cannot be run; give a number from 0 on, or leave it out.")
    if request.metric.name == "rank":
        raise SiteError("A rank has no gradient to choose cells by; sweep all, or another metric.")


def _refined(
    request: Request, only: int | None, batch_size: int | None, progress: Progress | None
) -> Iterator[xr.Dataset]:
    estimated, order = ranked(request, only)
    cells, patched = request.cells, estimated["patched"].values  # [example, layer, *axes]
    exact = np.zeros(patched.shape[1:], dtype=np.bool_)
    yield with_exact(estimated, exact)
    if not len(order):
        return
    wanted = cells.table(request.site, request.layers, chosen_at(cells, exact.shape, order))
    runners = [Runner(runs, wanted[0]) for runs in request.all_runs(batch_size)]
    done = 0
    for part in np.array_split(order, min(_STEPS, len(order))):
        chosen = chosen_at(cells, exact.shape, part)
        changes, cell, layer = cells.table(request.site, request.layers, chosen)

        def report(n: int, of: int, before: int = done, count: int = len(part)) -> None:
            if progress:
                progress(before + n * count // of, len(order))

        scores, unpatched = add_up(runners, changes, report)
        table = np.zeros(chosen.shape, dtype=np.float32)
        table[cell, layer] = scores
        found = cells.to_grid(table, len(request.pairs))
        patched = np.where(cells_at(cells, chosen, len(request.pairs)), found, patched)
        exact.flat[part] = True
        done += len(part)
        yield with_exact(label(request, patched, unpatched), exact)


def chosen_at(cells: Cells, shape: tuple[int, ...], places: Indices) -> Mask:
    """Which cells stand at these places of a grid [layer, *axes], as [cell, layer]."""
    grid = np.zeros((shape[0], int(np.prod(shape[1:]))), dtype=np.bool_)
    grid.flat[places] = True
    return np.asarray(grid[:, cells.column].T)


def cells_at(cells: Cells, chosen: Mask, n_examples: int) -> Mask:
    """Where these cells [cell, layer] stand in a result [example, layer, *axes]."""
    return np.asarray(cells.to_grid(chosen.astype(np.float32), n_examples) == 1)


def with_exact(result: xr.Dataset, exact: Mask) -> xr.Dataset:
    """A sweep with a note of which places [layer, *axes] were run, the others being estimated."""
    axes = result["patched"].dims[1:]
    named = result.assign(exact=(axes, exact.copy()))
    return named.assign_attrs(instrument="activation patching, estimated and exact")
