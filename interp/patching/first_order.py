"""Attribution patching (Nanda 2023; Syed et al. 2023): all cells of a sweep from one gradient.

The effect of replacing an activation is estimated to first order: the difference of the two runs'
activations times the gradient of the metric in the run that is changed. The gradient is carried
down block by block, each block being run once more for it, so that only one block's graph is in
memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor
from typing_extensions import Unpack

from cache.arguments import typed
from interp.errors import SiteError
from interp.forward.access import changing
from interp.forward.passes import Recording, record, recording_memory, resume
from interp.kinds import site_kind
from interp.metrics import Metric
from interp.model.memory import batches, rows_that_fit
from interp.model.model import Model
from interp.patching.cells import Cells, Grid
from interp.patching.request import Options, Request
from interp.patching.results import label
from interp.patching.runner import Scores
from interp.patching.table import Mask
from interp.patching.values import RUNS, TwoRuns
from interp.progress import Progress
from interp.prompts.pairs import PromptPairs, Run
from interp.sites import Site, width_at


@typed
def estimate(
    model: Model,
    pairs: PromptPairs,
    site: str,
    metric: Metric | str = "logit_diff",
    *,
    progress: Progress | None = None,
    **options: Unpack[Options],
) -> xr.Dataset:
    """What `sweep` would find, to first order, for all cells at the cost of a few forward passes.

    `patched` is the metric of the unpatched run plus the estimated change. It is exact where the
    metric depends linearly on the activation, and worst where attention or a norm saturates (early
    residual streams, whole tokens): compare with `agreement` on some cells before trusting it on
    all.

    Arguments that are not listed are those of `sweep`.

    Args:
        **options: what is replaced, and with what: see `Options`.

    Returns:
        What `sweep` does.

    Raises:
        SiteError, PromptError, MetricError: as for `sweep`. `rank` has no gradient.
    """
    request = Request.of(model, pairs, site, metric, options)
    patched, unpatched = first_order(model, request, progress)
    return label(model, request, patched, unpatched, instrument="attribution patching, first order")


def first_order(
    model: Model, request: Request, progress: Progress | None = None
) -> tuple[Grid, dict[Run, Scores]]:
    """The estimate of all cells, and the metric of the two runs as they are [example]."""
    if request.metric.name == "rank":
        raise SiteError("A rank has no gradient; estimate another metric, or sweep.")
    n_pairs, all_runs, cells = len(request.pairs), request.all_runs(model), request.cells
    change = np.zeros(cells.every.shape, dtype=np.float32)
    unpatched: dict[Run, Scores] = {
        run: np.zeros(n_pairs, np.float32) for run in RUNS[request.direction]
    }
    for number, runs in enumerate(all_runs):

        def work(start: int, stop: int, runs: TwoRuns = runs) -> None:
            mine = cells.of_examples(range(start, stop))
            changed, other, gradient = _both_runs(request, runs, start, stop, unpatched)
            for layer, found in _downwards(model, cells, changed, gradient):
                moved = _moved(cells, runs, start, layer, found, changed, other)
                change[mine, cells.layers.index(layer)] += moved

        for _, stop, _ in batches(n_pairs, _pairs_that_fit(cells, runs), work):
            if progress:
                progress(number * n_pairs + stop, len(all_runs) * n_pairs)
    patched = unpatched[RUNS[request.direction][0]][cells.example][:, None] + change
    return cells.grid(patched), unpatched


def _both_runs(
    request: Request,
    runs: TwoRuns,
    start: int,
    stop: int,
    unpatched: dict[Run, Scores],
) -> tuple[Recording, Recording, Float[Tensor, "example position d_model"]]:
    """Both runs, and the metric's gradient by the final stream of the one that is changed.

    Adds what the two runs score to `unpatched`.
    """
    model, examples = runs.model, torch.arange(start, stop)
    last = Site("resid_post", model.n_layers - 1)
    sites = {last, *(Site(request.cells.site, layer) for layer in request.cells.layers)}
    streams = {Site("resid_pre", layer) for layer in range(model.n_layers)}
    base, source = (reading.ids[start:stop] for reading in runs.readings)
    changed = record(model, base, sites | streams)
    other = record(model, source, sites if runs.constants is None else {last})
    value, gradient = runs.base.gradient(changed[last], examples)
    run, other_run = RUNS[request.direction]
    unpatched[run][start:stop] += value.cpu().numpy()
    unpatched[other_run][start:stop] += runs.source.value(other[last], examples).cpu().numpy()
    return changed, other, gradient


def _pairs_that_fit(cells: Cells, runs: TwoRuns) -> int:
    model, length = runs.model, runs.length
    width = 2 * len(cells.layers) * width_at(model, cells.site, length)
    streams = -(-width // model.d_model) + model.n_layers + 2
    # A graph holds several times what a plain pass does.
    return rows_that_fit(model, 2 * recording_memory(model, length, streams))


def _downwards(
    model: Model, cells: Cells, changed: Recording, gradient: Tensor
) -> Iterator[tuple[int, Tensor]]:
    """(layer, gradient by the site's activation), from the top block down."""
    site, layers = cells.site, cells.layers
    kind = site_kind(site)
    rows = torch.arange(changed.batch, device=model.device)
    for layer in range(model.n_layers - 1, min(layers) - 1, -1):
        if kind.part == "after" and layer in layers:
            yield layer, gradient
        stream = changed[Site("resid_pre", layer)].requires_grad_()
        seen: list[Tensor] = []
        inside = kind.inside and layer in layers

        def keep(value: Tensor, seen: list[Tensor] = seen) -> Tensor:
            # Handed back, so that what follows is computed from the very tensor that is kept: by
            # head it is a view that would otherwise lead nowhere.
            seen.append(value)
            return value

        seat = Site(kind.gradient_at or site, layer)
        with changing(model, [(seat, keep)] if inside else []):
            out = resume(model, changed, stream, rows, start=layer, stop=layer + 1, grad=True)
        found = torch.autograd.grad(out, [stream, *seen], gradient)
        gradient = found[0]
        if layer in layers and kind.part != "after":
            yield layer, found[1] if inside else gradient


def _moved(
    cells: Cells,
    runs: TwoRuns,
    start: int,
    layer: int,
    gradient: Tensor,
    changed: Recording,
    other: Recording,
) -> npt.NDArray[np.float32]:
    """The estimated change of the metric by each cell of the recorded examples [cell]."""
    site = Site(cells.site, layer)
    examples = np.arange(start, start + changed.batch)
    places, device = runs.places, gradient.device
    here, there = (
        torch.from_numpy(slots[examples]).clamp(min=0).to(device)
        for slots in (places.destination, places.origin)
    )
    present = places.attended(examples) if site.kind.pairwise else places.present(examples)
    at_here, at_there = (_at(slots, site, gradient.shape[1]) for slots in (here, there))
    difference = runs.values(site, other, start)[at_there] - changed[site].detach()[at_here]
    moved = (difference * gradient[at_here]).float()
    if site.kind.pairwise:
        moved = moved.movedim(1, -1)  # [example, destination, source, head]
    else:
        moved = moved if site.kind.unit == "neuron" else moved.sum(-1)
        moved = moved.reshape(*here.shape, 1, -1)  # [example, slot, 1, head or neuron]
    there_is = torch.from_numpy(present).to(device)
    moved = moved * there_is.reshape(*there_is.shape, *(1,) * (4 - there_is.ndim))
    moved = _summed(moved, 1, cells.places.members)
    if cells.sources is not None:
        moved = _summed(moved, 2, cells.sources.members)
    every = np.ones((1, moved.shape[3]), dtype=np.bool_)
    moved = _summed(moved, 3, every if cells.units is None else cells.units.members)
    mine = np.isin(cells.example, examples)
    index = (cells.example[mine] - start, cells.place[mine], cells.source[mine], cells.unit[mine])
    return np.asarray(moved.cpu().numpy()[index])


def _at(slots: Tensor, site: Site, n_heads: int) -> tuple[Tensor, ...]:
    """An index of activations of `site` at these slots [example, slot]."""
    example = torch.arange(len(slots), device=slots.device)
    if not site.kind.pairwise:
        return example[:, None], slots
    head = torch.arange(n_heads, device=slots.device)
    destination, source = slots[:, None, :, None], slots[:, None, None, :]
    return example[:, None, None, None], head[None, :, None, None], destination, source


def _summed(values: Tensor, axis: int, members: Mask) -> Tensor:
    """Sums over the members of each choice along an axis."""
    weights = torch.from_numpy(members).to(values)
    return (values.movedim(axis, -1) @ weights.T).movedim(-1, axis)
