"""Which stored tokens a user's words mean: of which model, at which sites, given as what."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cache.errors import StorageError
from cache.folder.folder import Folder
from cache.folder.witness import Witnesses
from cache.index.queries import Index
from cache.index.tables import as_text
from cache.keys.source import ActivationSource, HasActivations, source_of
from cache.keys.space import DTYPES, Space
from cache.training.dataset import Form
from cache.training.make_plan import make_plan
from cache.training.plan import Plan, Positions, Row

__all__ = ["Chooser", "Named"]

Named = HasActivations | ActivationSource | Space | str
"""What activations are of: a model, one of the store's spaces, or a model's name."""


@dataclass(frozen=True)
class Chooser:
    """Finds what is stored; it computes nothing."""

    folder: Folder
    witnesses: Witnesses

    def choose(
        self,
        model: Named,
        sites: str | Sequence[str],
        keys: Sequence[bytes] | None,
        where: Callable[[Row], bool] | None,
        positions: int | slice | None,
        dtype: torch.dtype | str | None,
        info: bool,
    ) -> tuple[Plan, Form]:
        """The tokens, and what they are given as; see `ActivationStore.dataset`."""
        space = self._space(model)
        stored = self.folder.catalogue.ask(_sites, space)
        wanted = [sites] if isinstance(sites, str) else list(sites)
        names = {name for one in wanted for name in stored if _is_or_begins(name, one)}
        unknown = [one for one in wanted if not any(_is_or_begins(name, one) for name in stored)]
        if unknown or not names:
            raise StorageError(
                f"'{self.folder.root}' has {space.label or 'this model'} at {', '.join(stored)}, "
                f"not at '{', '.join(unknown)}'; choose among these, or harvest it."
            )
        chosen = Positions.of(positions)
        plan = make_plan(self.folder, space, sorted(names, key=_natural), chosen, keys, where)
        alone = sites if isinstance(sites, str) and sites in stored else None
        return plan, Form(alone, _dtype(dtype), info)

    def keys(self, model: Named, tokens: Any) -> list[bytes]:
        """The keys of prompts; see `ActivationStore.keys`."""
        space = self._space(model)
        if not isinstance(model, Space | str):
            return space.keys(source_of(model).rows(tokens))
        return space.keys([np.asarray(ids, dtype=np.int32) for ids in tokens])

    def note_use(self, plan: Plan) -> None:
        """Tell the index that the shards of a plan are used now."""
        uses = {plan.shard(shard): (time.time(), 1) for shard in plan.used.tolist()}
        self.folder.catalogue.ask(Index.note_use, uses)

    def _space(self, model: Named) -> Space:
        """The one stored space that `model` names."""
        stored = self.folder.catalogue.ask(_spaces)
        if isinstance(model, Space):
            found, name = [space for space in stored if space == model], model.label
        elif isinstance(model, str):
            found, name = [space for space in stored if space.label == model], model
        else:
            source = source_of(model)
            own = source.space()
            found, name = [space for space in stored if _same_model(space, own)], own.label
            for space in found:
                self.witnesses.admit(source, space)
        if not found:
            names = ", ".join(sorted({space.label for space in stored})) or "nothing yet"
            raise StorageError(
                f"'{self.folder.root}' holds no activations of '{name}' (it holds {names}); "
                "harvest some, or choose another store."
            )
        if len(found) > 1:
            kinds = ", ".join(f"{space.dtype} with {space.policy}" for space in found)
            raise StorageError(
                f"'{self.folder.root}' holds '{name}' in several ways ({kinds}); give one of the "
                "store's `spaces()`."
            )
        return found[0]


def _same_model(one: Space, other: Space) -> bool:
    """Whether they differ in precision at most."""
    names = ("model", "tokenizer", "policy")
    return all(getattr(one, name) == getattr(other, name) for name in names)


def _spaces(index: Index) -> list[Space]:
    """The spaces of which something is stored still."""
    found = index.select("select distinct space from shards")
    ids = {as_text(space) for part in found for (space,) in part}
    return [space for space in index.spaces() if space.id in ids]


def _sites(index: Index, space: Space) -> list[str]:
    found = index.select(
        "select distinct site from sites where shard in (select number from shards "
        "where space = ?)",
        [space.id],
    )
    return sorted((as_text(site) for part in found for (site,) in part), key=_natural)


def _is_or_begins(site: str, written: str) -> bool:
    return site == written or site.startswith(f"{written}.")


def _natural(site: str) -> list[tuple[str, int]]:
    """Layers as numbers: "resid_post.10" after "resid_post.9"."""
    return [(text, int(number or 0)) for text, number in re.findall(r"(\D+)(\d*)", site)]


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    if not isinstance(dtype, str):
        return dtype
    if dtype not in DTYPES:
        raise StorageError(f"'{dtype}' is no precision; choose {', '.join(DTYPES)}.")
    return DTYPES[dtype]
