"""Activations of whole prompts: captured by running the model, or read from a store."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from cache.arguments import typed
from cache.space import DTYPES, Ids, SiteShape, Space, dtype_name
from cache.store import ActivationStore
from cache.witness import Witness
from interp import sites as site_names
from interp.batching import batches, fitting_threads, rows_that_fit
from interp.behaviour import Answers, rounding
from interp.between import check_between
from interp.errors import ModelError, PromptError, SiteError
from interp.forward import observe, recording_memory
from interp.identity import Seen
from interp.interventions import Intervention, Plan, plan
from interp.model import Model
from interp.sites import Site, shape_at
from interp.structure import hooks, walk
from interp.tokens import (
    Prompts,
    TokenBatch,
    blank,
    check_length,
    check_vocabulary,
    pad,
    tokenise,
)


@typed
def capture(
    model: Model,
    prompts: Prompts | str | TokenBatch,
    sites: str | Site | Iterable[str | Site],
    *,
    positions: Literal["all", "last"] = "all",
    interventions: Intervention | Sequence[Intervention] = (),
    store: ActivationStore | None = None,
    progress: Callable[[int, int], None] | None = None,
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
    if positions not in ("all", "last"):
        raise PromptError(f"Unknown positions '{positions}'; choose 'all' or 'last'.")
    if positions == "last" and any(site.name == "pattern" for site in wanted):
        raise PromptError("Attention patterns have two position axes; capture them with 'all'.")
    changes = plan(model, interventions, batch.lengths)
    store = store or ActivationStore.from_environment()
    if store is None or changes.edits or is_hooked(model):
        return _run(model, batch, wanted, positions == "last", progress, changes)
    run = [site for site in wanted if site.name == "pattern"]
    kept = [site for site in wanted if site.name != "pattern"]
    found = _run(model, batch, run, False, None) if run else {}
    if kept:
        found |= _read(store, model, batch, kept, positions == "last", progress)
    return {str(site): found[str(site)] for site in wanted}


class ModelSource:
    """A model as `cache.ActivationStore` sees it."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._answers: Answers | None = None

    def space(self, dtype: str | None = None) -> Space:
        """What its activations are of: weights as they are now, tokenizer, and BOS policy.

        Raises:
            ModelError: hooks are placed on the model, or it was changed otherwise, so that its
                activations are not its own.
        """
        model = self._model
        seen = model.look()
        _check_unchanged(model, seen)
        self._answers = seen.answers
        chosen = dtype_name(dtype or str(model.dtype).removeprefix("torch."))
        if chosen not in DTYPES:
            raise ModelError(f"Cannot store '{chosen}'; choose one of {', '.join(DTYPES)}.")
        processed = "+compatible" if model.bridge.compatibility_mode else ""
        bos = "bos" if model.prepends_bos else "no bos"
        return Space(
            f"{seen.fingerprint}{processed}",
            chosen,
            model.tokenizer_fingerprint,
            f"{bos}, padded on the right",
            model.name,
        )

    def witness(self) -> Witness:
        """The streams between blocks of a short fixed input, as they were last looked at."""
        if self._answers is None:
            self.space()
        assert self._answers is not None
        *streams, _ = self._answers
        first = streams[0]
        values = torch.cat([stream.to("cpu", torch.float32) for stream in streams])
        return Witness.of(values.numpy(), rounding(first.dtype, first.device, len(streams)))

    def rows(self, tokens: Any) -> Sequence[Ids]:
        """Texts, token ids [example, position] or rows of ids, as rows of ids."""
        if isinstance(tokens, Sequence) and tokens and isinstance(tokens[0], np.ndarray):
            for ids in tokens:
                check_vocabulary(self._model, [int(ids.min()), int(ids.max())], "rows")
                check_length(self._model, len(ids), "rows")
            return [np.asarray(ids, dtype=np.int32) for ids in tokens]
        batch = tokens if isinstance(tokens, TokenBatch) else tokenise(self._model, tokens)
        return [np.array(batch.row(number), dtype=np.int32) for number in range(len(batch))]

    def sites(self, sites: Any) -> Sequence[SiteShape]:
        """The sites, whole.

        Raises:
            SiteError: the model has no such site, or it cannot be stored.
        """
        out = []
        for site in site_names.some_named(self._model, sites):
            if site.name == "pattern":
                raise SiteError(
                    "Patterns take a number for each pair of tokens and are not stored; capture "
                    "them instead."
                )
            if site.head is not None:
                raise SiteError(
                    f"Sites are stored with all their heads; ask for '{site.name}.{site.layer}'."
                )
            out.append(SiteShape(str(site), shape_at(self._model, site.name)))
        return out

    def activations(
        self, rows: Sequence[Ids], sites: Sequence[SiteShape]
    ) -> Iterator[tuple[int, Mapping[str, Tensor]]]:
        """Run the rows in their order; see `cache.source.ActivationSource`."""
        model = self._model
        wanted = {Site.parse(site.name): site for site in sites}
        batch = pad([ids.tolist() for ids in rows], ("",) * len(rows))

        def run(start: int, stop: int) -> Mapping[str, Tensor]:
            lengths = batch.lengths[start:stop]
            found = observe(model, batch.ids[start:stop, : int(lengths.max())], wanted)
            for site, value in found.items():
                if tuple(value.shape[2:]) != wanted[site].width:
                    raise ModelError(
                        f"{model.name} computes '{site}' in the shape {tuple(value.shape[2:])} "
                        f"and not {wanted[site].width}, so it cannot be stored; capture it instead."
                    )
            return {str(site): _packed(value, lengths) for site, value in found.items()}

        size = rows_at_once(model, int(batch.lengths.max()), wanted)
        with fitting_threads(model):
            for start, stop, values in batches(len(rows), size, run):
                yield stop - start, values


def is_hooked(model: Model) -> bool:
    """Whether somebody has placed hooks: on hook points, on any module, or on all of PyTorch's.

    Those that TransformerLens needs for itself do not count.
    """
    with model.lock:
        return bool(hooks(walk(model.bridge)))


def _check_unchanged(model: Model, seen: Seen) -> None:
    if not seen.changes:
        return
    if any(change.hook for change in seen.changes):
        raise ModelError(
            f"Hooks are placed on {model.name}, so what it computes is not its own; remove "
            "them before using a store."
        )
    if model.bridge.training:
        raise ModelError(f"{model.name} is in training mode; call its bridge's eval() first.")
    raise ModelError(
        f"{model.name} is more than its weights and configuration say ({seen.changes[0].what}), so "
        "that a store cannot name its activations; undo that, or use no store."
    )


def _run(
    model: Model,
    batch: TokenBatch,
    sites: Sequence[Site],
    last: bool,
    progress: Callable[[int, int], None] | None,
    changes: Plan | None = None,
) -> dict[str, Tensor]:
    whole = {Site(site.name, site.layer) for site in sites}
    pieces: dict[str, list[Tensor]] = {str(site): [] for site in sites}
    if any(site.name == "resid_mid" for site in whole):
        check_between(model)  # before anything is changed

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
            axes = (-1, -2) if site.name == "pattern" else (1,)
            for axis in axes:
                blank(found[str(site)], batch.lengths, axis)
    return found


def _read(
    store: ActivationStore,
    model: Model,
    batch: TokenBatch,
    sites: Sequence[Site],
    last: bool,
    progress: Callable[[int, int], None] | None,
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
    return value.select(1 if site.name == "pattern" else -2, site.head)


def rows_at_once(model: Model, length: int, sites: Iterable[Site]) -> int:
    """How many prompts of `length` tokens to run together when `sites` are kept."""
    width = sum(site_names.width_at(model, site.name, length) for site in sites)
    streams = -(-width // model.d_model)
    return rows_that_fit(model, recording_memory(model, length, streams))


def _packed(value: Tensor, lengths: Tensor) -> Tensor:
    """[example, position, …] as [token, …], without padding."""
    if bool((lengths == value.shape[1]).all()):
        return value.flatten(0, 1)
    return torch.cat([row[: int(n)] for row, n in zip(value, lengths, strict=True)])
