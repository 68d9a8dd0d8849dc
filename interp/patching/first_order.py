"""Attribution patching (Nanda 2023; Syed et al. 2023): all cells of a sweep from one gradient.

The effect of replacing an activation is estimated to first order: the difference of the two runs'
activations times the gradient of the metric in the run that is changed. The gradient is carried
down block by block, each block being run once more for it, so that only one block's graph is in
memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from interp import sites as site_names
from interp.batching import batches, rows_that_fit
from interp.errors import SiteError
from interp.forward import Recording, hooked, readout, record, recording_memory, resume
from interp.metrics import Metric, Term, get_metric
from interp.model import Model
from interp.patching.cells import By, Cells, check_by, check_layers, lay_out
from interp.patching.results import label
from interp.patching.walk import RUNS, Direction
from interp.prompts import PromptPairs, Reading, Run
from interp.sites import Site

Progress = Callable[[int, int], None]
Terms = Sequence[tuple[Term, Tensor]]


def estimate(
    model: Model,
    pairs: PromptPairs,
    site: str,
    metric: Metric | str = "logit_diff",
    *,
    by: By | Sequence[By] | None = None,
    direction: Direction = "denoising",
    layers: Sequence[int] | None = None,
    positions: Sequence[int | str] | None = None,
    heads: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """What `sweep` would find, to first order, for all cells at the cost of a few forward passes.

    Takes and returns what `sweep` does; `patched` is the metric of the unpatched run plus the
    estimated change. It is exact where the metric depends linearly on the activation, and worst
    where attention or a norm saturates (early residual streams, whole tokens): compare with
    `agreement` on some cells before trusting it on all.

    Raises:
        SiteError, PromptError, MetricError: as for `sweep`. `rank` has no gradient.
    """
    axes = check_by(site, by)
    chosen = check_layers(model, site, layers)
    metric = get_metric(metric)
    if metric.name == "rank":
        raise SiteError("A rank has no gradient; estimate another metric, or sweep.")
    if direction not in RUNS:
        raise SiteError(f"Unknown direction '{direction}'; choose 'denoising' or 'noising'.")
    cells = lay_out(model, pairs.alignment, site, axes, len(pairs), positions, heads)
    change = np.zeros((len(cells), len(chosen)), dtype=np.float32)
    unpatched: dict[Run, npt.NDArray[np.float32]] = {
        run: np.zeros(len(pairs), np.float32) for run in ("clean", "corrupt")
    }
    width = int(max(pairs.clean.lengths.max(), pairs.corrupt.lengths.max()))
    size = rows_that_fit(model, 3 * recording_memory(model, width, model.n_layers + 1))
    for number, read in enumerate(metric.reads):
        terms = [(term, metric.targets(pairs, term)) for term in metric.terms_of(read)]
        base, source = (pairs.reading(run, read) for run in RUNS[direction])

        def work(
            start: int,
            stop: int,
            base: Reading = base,
            source: Reading = source,
            terms: Terms = terms,
        ) -> None:
            part = slice(start, stop)
            mine = (cells.example >= start) & (cells.example < stop)
            sites = [Site(site, layer) for layer in chosen]
            streams = [Site("resid_pre", i) for i in range(model.n_layers)]
            last = Site("resid_post", model.n_layers - 1)
            changed = record(model, base.ids[part], {*streams, *sites, last})
            other = record(model, source.ids[part], {*sites, last})
            gradient, value = _of_metric(model, changed[last], base, part, terms)
            _, other_value = _of_metric(model, other[last], source, part, terms)
            unpatched[RUNS[direction][0]][part] += value
            unpatched[RUNS[direction][1]][part] += other_value
            for layer, found in _downwards(model, changed, gradient, site, chosen):
                moved = _moved(pairs, direction, part, found, changed, other, Site(site, layer))
                change[mine, chosen.index(layer)] += _gather(cells, moved, start)[mine]

        for _, stop, _ in batches(len(pairs), size, work):
            if progress:
                progress(number * len(pairs) + stop, len(metric.reads) * len(pairs))
    patched = unpatched[RUNS[direction][0]][cells.example][:, None] + change
    grid = cells.to_grid(patched, len(pairs))
    result = label(model, pairs, site, metric, direction, cells, chosen, grid, unpatched)
    return result.assign_attrs(instrument="attribution patching, first order", source="other")


def agreement(estimated: xr.Dataset, exact: xr.Dataset) -> xr.Dataset:
    """How far an estimate can be trusted, layer by layer.

    Returns:
        correlation(layer) of the estimated with the exact change over all examples and cells, and
        sign_flips(layer), the share of cells whose change has the wrong sign (cells that hardly
        move, by less than a hundredth of the largest exact change, do not count).
    """
    rows = []
    base = "corrupt" if exact.attrs["direction"] == "denoising" else "clean"
    moved = [(d["patched"] - d[base]).transpose("layer", ...).values for d in (estimated, exact)]
    least = 0.01 * float(np.nanmax(np.abs(moved[1])))
    for guess, truth in zip(*moved, strict=True):
        present = np.isfinite(guess) & np.isfinite(truth)
        a, b = guess[present], truth[present]
        large = np.abs(b) > least
        varied = a.size > 1 and np.ptp(a) > 0 and np.ptp(b) > 0
        correlation = float(np.corrcoef(a, b)[0, 1]) if varied else np.nan
        flips = float(np.mean(np.sign(a[large]) != np.sign(b[large]))) if large.any() else np.nan
        rows.append((correlation, flips))
    return xr.Dataset(
        {
            "correlation": ("layer", [row[0] for row in rows]),
            "sign_flips": ("layer", [row[1] for row in rows]),
        },
        coords={"layer": exact["layer"].values},
    )


def _of_metric(
    model: Model, final: Tensor, reading: Reading, part: slice, terms: Terms
) -> tuple[Float[Tensor, "example position d_model"], npt.NDArray[np.float32]]:
    """The gradient of the terms by the final residual stream, and their values [example]."""
    final = final.detach().requires_grad_()
    n_reads = max(targets.shape[1] for _, targets in terms)
    positions = reading.positions[part, :n_reads].to(model.device)
    read = final.gather(1, positions[..., None].expand(-1, -1, final.shape[-1]))
    logits = readout(model, read, grad=True)
    with torch.enable_grad():
        value = sum(
            (t.weight * t.score(logits, targets[part].to(model.device)) for t, targets in terms),
            start=torch.zeros(len(final), device=model.device),
        )
        (gradient,) = torch.autograd.grad(value.sum(), final)
    return gradient, value.detach().float().cpu().numpy()


def _downwards(
    model: Model, changed: Recording, gradient: Tensor, site: str, layers: Sequence[int]
) -> Iterator[tuple[int, Tensor]]:
    """(layer, gradient by the site's activation), from the top block down."""
    rows = torch.arange(changed.batch, device=model.device)
    for layer in range(model.n_layers - 1, min(layers) - 1, -1):
        if site == "resid_post" and layer in layers:
            yield layer, gradient
        stream = changed[Site("resid_pre", layer)].requires_grad_()
        seen: list[Tensor] = []
        inside = site not in ("resid_pre", "resid_post") and layer in layers
        hooks = []

        def keep(value: Tensor, seen: list[Tensor] = seen) -> Tensor:
            # Handed back, so that what follows is computed from the very tensor that is kept: by
            # head it is a view that would otherwise lead nowhere.
            seen.append(value)
            return value

        if inside:
            hooks.append((site_names.hook_point(model, Site(site, layer)), keep))
        with model.lock, hooked(hooks):
            out = resume(model, changed, stream, rows, start=layer, stop=layer + 1, grad=True)
        found = torch.autograd.grad(out, [stream, *seen], gradient)
        gradient = found[0]
        if layer in layers and site != "resid_post":
            yield layer, found[1] if inside else gradient


def _moved(
    pairs: PromptPairs,
    direction: Direction,
    part: slice,
    gradient: Tensor,
    changed: Recording,
    other: Recording,
    site: Site,
) -> npt.NDArray[np.float32]:
    """Estimated change of the metric by slot [example, slot] or [example, slot, head]."""
    slots = {"clean": pairs.alignment.clean[part], "corrupt": pairs.alignment.corrupt[part]}
    base, source = (torch.from_numpy(slots[run]).to(gradient.device) for run in RUNS[direction])
    example = torch.arange(len(base), device=gradient.device)[:, None]
    here, there = base.clamp(min=0), source.clamp(min=0)
    difference = other[site][example, there] - changed[site].detach()[example, here]
    moved = (difference * gradient[example, here]).sum(-1).float()
    absent = (base < 0).reshape(*base.shape, *(1,) * (moved.ndim - 2))
    return np.asarray(moved.masked_fill(absent, 0.0).cpu().numpy())


def _gather(cells: Cells, moved: npt.NDArray[np.float32], start: int) -> npt.NDArray[np.float32]:
    """The change of each cell [cell]: the sum over the slots and heads that it replaces."""
    out = np.zeros(len(cells), dtype=np.float32)
    by_group = np.stack([moved[:, list(group)].sum(1) for group in cells.groups], axis=1)
    mine = (cells.example >= start) & (cells.example < start + len(moved))
    example, group = cells.example[mine] - start, cells.group[mine]
    if cells.heads is None:
        whole = by_group if by_group.ndim == 2 else by_group.sum(-1)
        out[mine] = whole[example, group]
    else:
        out[mine] = by_group[example, group, np.asarray(cells.heads)[cells.head[mine]]]
    return out
