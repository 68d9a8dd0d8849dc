"""Estimates that are a difference of activations times a derivative of the metric.

Sources: attribution patching, Nanda 2023, Syed et al. 2023; integrated gradients, Sundararajan et
al. 2017; AtP* with its fixes, Kramár et al. 2024; RelP, Jafari et al. 2025.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from interp.forward.access import Change, changing
from interp.forward.passes import resume
from interp.kinds import SiteKind, site_kind
from interp.model.model import Model
from interp.patching.estimates.attended import by_attention
from interp.patching.estimates.both import Both, Moved
from interp.patching.estimates.gradients import BlockRule, Descent, as_it_is
from interp.sites import Site


def first_order(both: Both, rule: BlockRule = as_it_is) -> Moved:
    """Difference times gradient."""
    out = _empty(both)
    for number, layer, gradient in _gradients(both, rule, (None,)):
        out[:, number] = both.moved(layer, gradient[0])
    return out


def integrated(both: Both, steps: int) -> Moved:
    """Difference times the mean gradient on the way.

    All cells of a layer go together from what they are to what is put in, and the gradient is
    taken in the middle of each of the `steps`.
    """
    out = _empty(both)
    for number, layer in enumerate(both.cells.layers):
        out[:, number] = both.moved(layer, _mean_gradient(both, layer, steps))
    return out


def atp_star(both: Both) -> Moved:
    """First order with the two fixes of AtP*: softmax computed anew, and GradDrop.

    Queries and keys are put in, and the attention's outputs computed from them; what these moved
    is taken to first order. The size of each estimate is the mean of the sizes that it has when
    the gradient passes beside one block after the other, so that two paths which cancel show; its
    sign is that of the whole gradient.
    """
    model, cells = both.runs.model, both.cells
    dropped = (None, *range(model.n_layers)) if model.n_layers > 1 else (None,)
    exact = site_kind(cells.site).makes_pattern
    out = _empty(both)
    for number, layer, gradient in _gradients(both, as_it_is, dropped, "z" if exact else None):
        if exact:
            variants = by_attention(both, layer, gradient)
        else:
            variants = np.stack([both.moved(layer, one) for one in gradient])
        whole, parts = variants[0], variants[1:]
        if not len(parts):
            out[:, number] = whole
            continue
        # What lies inside of a block has no effect but through it, and so none where it is dropped.
        passing = len(parts) - site_kind(cells.site).inside
        out[:, number] = np.sign(whole) * np.abs(parts).sum(0) / passing
    return out


def _empty(both: Both) -> Moved:
    return np.zeros((int(both.mine.sum()), len(both.cells.layers)), dtype=np.float32)


def _gradients(
    both: Both, rule: BlockRule, dropped: Sequence[int | None], name: str | None = None
) -> Iterator[tuple[int, int, Tensor]]:
    """(index of the layer, layer, gradients [variant, example, …]) by the site, or another one."""
    model, layers = both.runs.model, both.cells.layers
    site = name or both.cells.site
    kind = site_kind(site)
    start = min(layers) + (kind.part == "after")
    inside = dict.fromkeys(layers, (site,)) if kind.inside else {}
    if kind.part == "after" and layers[-1] == model.n_layers - 1:
        yield len(layers) - 1, layers[-1], torch.stack([both.gradient] * len(dropped))
    descent = Descent(both.changed, both.streams(), both.rows, start, inside, rule, dropped)
    for layer, by_stream, by_site in descent.run(model, both.gradient):
        at = layer - (kind.part == "after")
        if at in layers:
            yield layers.index(at), at, by_site.get(site, by_stream)


def _mean_gradient(both: Both, layer: int, steps: int) -> Tensor:
    """The mean gradient by the site of one layer [example, …]."""
    runs, model = both.runs, both.runs.model
    site = Site(both.cells.site, layer)
    kind, n = site.kind, both.changed.batch
    share = ((torch.arange(steps, device=model.device) + 0.5) / steps).to(model.dtype)
    rows = both.rows.repeat_interleave(steps)
    way = both.whole_difference(layer)[rows]
    way = way * share.repeat(n).reshape(-1, *(1,) * (way.ndim - 1))

    def move(value: Tensor) -> Tensor:
        return value + way

    start = layer + (kind.part == "after")
    below = Site("resid_pre", start) if start < model.n_layers else Site("resid_post", layer)
    stream = both.changed[below][rows]
    hidden = stream if kind.inside else stream + way
    seat = [(_seat(kind, site), move)] if kind.inside else []
    streams: dict[int, Tensor] = {}
    for block in range(start, model.n_layers):
        streams[block] = hidden
        with changing(model, seat if block == layer else []):
            hidden = resume(model, both.changed, hidden, rows, start=block, stop=block + 1)
    _, gradient = runs.base.gradient(hidden, rows.cpu() + both.start)
    found = gradient
    inside = {layer: (site.name,)} if kind.inside else {}
    descent = Descent(both.changed, streams, rows, start, inside, _on_the_way(layer, seat))
    for _, by_stream, by_site in descent.run(model, gradient):
        found = by_site.get(site.name, by_stream)[0]
    return found.reshape(n, steps, *found.shape[1:]).mean(1)


def _seat(kind: SiteKind, site: Site) -> Site:
    """Where the site is moved: what is added to a stream inside of a block moves it alike."""
    return Site(kind.gradient_at or site.name, site.layer)


def _on_the_way(layer: int, seat: Sequence[tuple[Site, Change]]) -> BlockRule:
    """The derivatives of a block in which the site has been moved."""

    @contextlib.contextmanager
    def rule(_model: Model, block: int) -> Iterator[Sequence[tuple[Site, Change]]]:
        yield seat if block == layer else ()

    return rule
