"""Activations of whole prompts: captured by running the model, or read from a store."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from cache.arguments import typed
from cache.store import ActivationStore
from interp import sites as site_names
from interp.errors import PromptError
from interp.forward.interventions import Intervention, Plan, plan
from interp.forward.passes import observe
from interp.forward.source import is_hooked, rows_at_once
from interp.model.memory import batches
from interp.model.model import Model
from interp.progress import Progress
from interp.prompts.tokens import (
    Prompts,
    TokenBatch,
    blank,
    tokenise,
)
from interp.sites import Site


@typed
def capture(
    model: Model,
    prompts: Prompts | str | TokenBatch,
    sites: str | Site | Iterable[str | Site],
    *,
    positions: Literal["all", "last"] = "all",
    interventions: Intervention | Sequence[Intervention] = (),
    store: ActivationStore | None = None,
    progress: Progress | None = None,
) -> dict[str, Tensor]:
    """Activations of the prompts; the model runs only as far as the deepest site.

    Args:
        model: the model.
        prompts: texts, or token ids [example, position].
        sites: "resid_post" for every layer, "resid_post.3" for one, or `Site`s.
        positions: "last" keeps only each prompt's last token.
        interventions: changes made meanwhile; what is captured at a changed site is the changed
            activation.
        store: read from here what is there, and keep here what is not; the store that the
            environment variable OBVERSE_CACHE names if left out, or none. Patterns are never
            stored, nor anything while hooks are placed on the model or interventions made. A model
            that was changed otherwise than in its weights is refused with a store.
        progress: called with (prompts done, prompts in all).

    Returns:
        {"resid_post.3": [example, position, d_model], "z.0": [example, position, head, d_head],
        "pattern.0": [example, head, destination, source], …}; with positions="last" the position
        axis is gone. Beyond a shorter prompt's end stands NaN, from a store as from a run. A site
        with a head ("z.3.h5") has no head axis. What was run is on the model's device, what was
        stored on the CPU, memory-mapped where possible.

    Raises:
        SiteError: the model has no such site, layer or head.
        PromptError: a prompt is empty or too long, or `positions` is unknown.
        DirectionError: an intervention does not fit its site.
        ModelError: there is a store, and code or settings of the model were changed.
        StorageError: the store cannot be used, or was filled by other code.
    """
    batch = prompts if isinstance(prompts, TokenBatch) else tokenise(model, prompts)
    wanted = site_names.some_named(model, sites)
    pairs = [site for site in wanted if site.kind.pairwise]
    if positions == "last" and pairs:
        raise PromptError(
            f"{pairs[0].kind.plural} have two position axes; capture them with 'all'."
        )
    changes = plan(model, interventions, batch.lengths)
    store = store or ActivationStore.from_environment()
    if store is None or changes.edits or is_hooked(model):
        return _run(model, batch, wanted, positions == "last", progress, changes)
    run = [site for site in wanted if not site.kind.storable]
    kept = [site for site in wanted if site.kind.storable]
    found = _run(model, batch, run, False, None) if run else {}
    if kept:
        found |= _read(store, model, batch, kept, positions == "last", progress)
    return {str(site): found[str(site)] for site in wanted}


def _run(
    model: Model,
    batch: TokenBatch,
    sites: Sequence[Site],
    last: bool,
    progress: Progress | None,
    changes: Plan | None = None,
) -> dict[str, Tensor]:
    whole = {Site(site.name, site.layer) for site in sites}
    pieces: dict[str, list[Tensor]] = {str(site): [] for site in sites}

    def run(start: int, stop: int) -> Mapping[Site, Tensor]:
        with changes.placed(torch.arange(start, stop)) if changes else contextlib.nullcontext():
            return observe(model, batch.ids[start:stop], whole)

    size = rows_at_once(model, batch.ids.shape[1], whole)
    for start, stop, activations in batches(len(batch), size, run):
        for site in sites:
            value = _of_head(activations[Site(site.name, site.layer)], site)
            if last:
                ends = (batch.lengths[start:stop] - 1).to(value.device)
                value = value[torch.arange(stop - start, device=value.device), ends]
            pieces[str(site)].append(value.contiguous())
        if progress:
            progress(stop, len(batch))
    found = {name: torch.cat(parts) for name, parts in pieces.items()}
    if not last:
        for site in sites:
            for axis in site.token_axes:
                blank(found[str(site)], batch.lengths, axis)
    return found


def _read(
    store: ActivationStore,
    model: Model,
    batch: TokenBatch,
    sites: Sequence[Site],
    last: bool,
    progress: Progress | None,
) -> dict[str, Tensor]:
    whole = list(dict.fromkeys(f"{site.name}.{site.layer}" for site in sites))
    if last:
        rows = store.rows(model, batch, whole, progress=progress)
        found = {name: torch.stack([row[-1] for row in of_site]) for name, of_site in rows.items()}
    else:
        found = store.get(model, batch, whole, progress=progress)
    return {str(site): _of_head(found[f"{site.name}.{site.layer}"], site) for site in sites}


def _of_head(value: Tensor, site: Site) -> Tensor:
    if site.head is None:
        return value
    return value.select(site.kind.head_axis, site.head)
