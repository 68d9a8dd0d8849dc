"""What a store offers to training: its tokens as a PyTorch dataset, by number or as a stream."""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch

from cache.arguments import typed
from cache.errors import StorageError
from cache.folder.folder import Folder
from cache.index.queries import Index
from cache.index.tables import as_text
from cache.keys.source import ActivationSource, HasActivations
from cache.keys.space import DTYPES, Space
from cache.sizes import parse_size
from cache.training.dataset import Form, TokenDataset
from cache.training.plan import Plan, Row
from cache.training.planning import make_plan
from cache.training.positions import Positions
from cache.training.stream import Settings, TokenStream

__all__ = ["Training"]

Named = HasActivations | ActivationSource | Space | str
"""What activations are of: a model, one of the store's spaces, or a model's name."""


@typed
class Training:
    """Datasets over what is stored. They read only: what is missing is not computed."""

    @property
    def folder(self) -> Folder:
        raise NotImplementedError

    def admit(self, source: ActivationSource, space: Space, *, keep: bool) -> None:
        raise NotImplementedError

    def dataset(
        self,
        model: Named,
        sites: str | Sequence[str],
        *,
        keys: Sequence[bytes] | None = None,
        where: Callable[[Row], bool] | None = None,
        positions: int | slice | None = None,
        dtype: torch.dtype | str | None = None,
        info: bool = False,
    ) -> TokenDataset:
        """Stored tokens by number (map-style): see `TokenDataset`.

        The tokens are those of all rows that are stored at all of the sites; a row that stands in
        several shards counts once. What is stored later is not seen by a dataset that is open.

        Args:
            model: whose activations: the model, one of `spaces()`, or its name; the model itself
                need not be loaded.
            sites: one site such as "resid_post.3" for tensors; several, or a family such as
                "resid_post" (those layers that are stored) for {site: tensor}.
            keys: only these rows, which `keys` finds; their numbers are their places in this list.
            where: only rows for which this is true; called once for each row with its number, key
                and token ids. A key is as good as random: `lambda row: row.key[0] < 230` keeps
                nine tenths, the same ones on every machine.
            positions: of each row only these: a slice such as slice(1, None), which leaves out
                the first (BOS, whose norm dwarfs the others'), or one position such as -1.
            dtype: to cast activations to; they stay as stored if left out.
            info: whether tokens come with where they stand, as (activation, `TokenInfo`).

        Raises:
            StorageError: nothing such is stored, some of `keys` are not, or `model` is stored in
                several precisions.
            DamageError: what had to be looked at is damaged.
        """
        plan, form = self._planned(model, sites, keys, where, positions, dtype, info)
        return TokenDataset(plan, form)

    def stream(
        self,
        model: Named,
        sites: str | Sequence[str],
        *,
        batch_size: int,
        shuffle: bool = True,
        seed: int = 0,
        pool: int | str = "1GB",
        drop_last: bool = False,
        keys: Sequence[bytes] | None = None,
        where: Callable[[Row], bool] | None = None,
        positions: int | slice | None = None,
        dtype: torch.dtype | str | None = None,
        info: bool = False,
    ) -> TokenStream:
        """Stored tokens in batches (iterable): see `TokenStream`, and `dataset` for the rest.

        Args:
            shuffle: over the whole store, anew each epoch; else in the order of `dataset`.
            seed: of the shuffle. The same seed gives the same batches on every machine, for copies
                of a store, and for stores whose shards hold the same rows.
            pool: memory for what is shuffled together, in bytes or as "4GB"; with several workers
                they share it.
            drop_last: whether to leave out a last, smaller batch.

        Raises:
            StorageError: also if the pool is too small, or the batches too large.
        """
        plan, form = self._planned(model, sites, keys, where, positions, dtype, info)
        return TokenStream(
            plan,
            form,
            Settings(seed, shuffle, parse_size(pool)),
            batch_size=batch_size,
            drop_last=drop_last,
            note_use=functools.partial(_note_use, self.folder, plan),
        )

    def keys(self, model: Named, tokens: Any) -> list[bytes]:
        """The keys of prompts, by which `dataset` and `stream` choose rows.

        Args:
            tokens: texts, or token ids [example, position]; ids only where `model` is no model.
        """
        space = self._space(model)
        source = _source(model)
        if source is not None:
            return space.keys(source.rows(tokens))
        return space.keys([np.asarray(ids, dtype=np.int32) for ids in tokens])

    def _planned(
        self,
        model: Named,
        sites: str | Sequence[str],
        keys: Sequence[bytes] | None,
        where: Callable[[Row], bool] | None,
        positions: int | slice | None,
        dtype: torch.dtype | str | None,
        info: bool,
    ) -> tuple[Plan, Form]:
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

    def _space(self, model: Named) -> Space:
        """The one stored space that `model` names."""
        stored = self.folder.catalogue.ask(_spaces)
        source = _source(model)
        if isinstance(model, Space):
            found, name = [space for space in stored if space == model], model.label
        elif source is None:
            found, name = [space for space in stored if space.label == model], str(model)
        else:
            own = source.space()
            found, name = [space for space in stored if _same_model(space, own)], own.label
            for space in found:
                self.admit(source, space, keep=False)
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


def _source(model: Named) -> ActivationSource | None:
    if isinstance(model, Space | str):
        return None
    return model.activation_source() if hasattr(model, "activation_source") else model


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


def _note_use(folder: Folder, plan: Plan) -> None:
    now = time.time()
    shards: Iterable[int] = plan.used.tolist()
    folder.catalogue.ask(Index.note_use, {plan.shard(shard): (now, 1) for shard in shards})
