"""A model as a store of activations sees it: what names them, and what computes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cache.folder.witness import Witness
from cache.keys.space import DTYPES, Ids, SiteShape, Space, dtype_name
from interp import sites as site_names
from interp.errors import ModelError, SiteError
from interp.forward.passes import observe, recording_memory
from interp.model.identity.behaviour import Answers, rounding
from interp.model.identity.identity import Seen
from interp.model.identity.structure import hooks, walk
from interp.model.memory import batches, fitting_threads, rows_that_fit
from interp.model.model import Model
from interp.prompts.tokens import (
    TokenBatch,
    check_length,
    check_vocabulary,
    pad,
    tokenise,
)
from interp.sites import Site, shape_at


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
            if not site.kind.storable:
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
        """Run the rows in their order; see `cache.keys.source.ActivationSource`."""
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


def rows_at_once(model: Model, length: int, sites: Iterable[Site]) -> int:
    """How many prompts of `length` tokens to run together when `sites` are kept."""
    width = sum(site_names.width_at(model, site.name, length) for site in sites)
    streams = -(-width // model.d_model)
    return rows_that_fit(model, recording_memory(model, length, streams))


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


def _packed(value: Tensor, lengths: Tensor) -> Tensor:
    """[example, position, …] as [token, …], without padding."""
    if bool((lengths == value.shape[1]).all()):
        return value.flatten(0, 1)
    return torch.cat([row[: int(n)] for row, n in zip(value, lengths, strict=True)])
