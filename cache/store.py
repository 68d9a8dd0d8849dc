"""The activation store: activations of any model, computed once and kept on disk."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from cache.arguments import Seed, typed
from cache.files import expanded
from cache.folder import verify as verification
from cache.folder.budget import Room
from cache.folder.fill import Progress, lacking
from cache.folder.folder import Folder
from cache.folder.listing import committed
from cache.folder.marker import open_folder
from cache.folder.verify import Report
from cache.folder.witness import Witnesses
from cache.index.queries import Index, Usage
from cache.keys.source import ActivationSource, HasActivations, Request, source_of
from cache.keys.space import Space
from cache.reads import Reads, padded
from cache.sizes import parse_size
from cache.training.choose import Chooser, Named
from cache.training.dataset import TokenDataset
from cache.training.plan import Row
from cache.training.stream import Settings, TokenStream

__all__ = ["ENVIRONMENT", "ActivationStore"]

ENVIRONMENT = "OBVERSE_CACHE"
"""The environment variable that names the store which is used when none is given."""

_SHARD = 256 << 20


@typed
class ActivationStore:
    """Activations on disk: `get` returns what is stored, and computes and keeps what is not.

    Each activation is named by what decides it: the model's weights and configuration, the site,
    the precision, the tokenizer, and the token ids of its prompt; not by the batch, the padding or
    the data set. Several processes may use a store at once: a row that one of them computes, the
    others wait for. Every MiB is compared with its checksum before its first use, and when its
    file was changed since; what is damaged is set aside and computed again. Files are safetensors
    with a JSON sidecar each.

    Attributes:
        path: the store's folder.
        read_only: whether it can only be read.
        folder: its files, for what stands above the store.
        room: its limits, likewise.
    """

    def __init__(
        self,
        path: Path | str,
        budget: int | str | None = None,
        *,
        floor: int | str | None = None,
        shard_size: int | str = _SHARD,
    ) -> None:
        """Open a store, or make one.

        Args:
            path: its folder; a new or empty one becomes a store.
            budget: what it may take, in bytes or as "200GB"; beyond that the shards whose last use
                is longest ago are evicted. As much as the disk allows if left out.
            floor: what stays free on the disk in any case; 1 GiB, or a twentieth of a smaller
                disk, if left out.
            shard_size: about how large one file is.

        Raises:
            StorageError: the folder holds something else, or cannot be read.
        """
        self.path = expanded(path)
        self.read_only = open_folder(self.path)
        self.folder = Folder(self.path, read_only=self.read_only)
        self.room = Room(
            self.folder,
            None if budget is None else parse_size(budget),
            0 if floor == 0 else None if floor is None else parse_size(floor),
            parse_size(shard_size),
        )
        self._reads = Reads(self.room)
        self._witnesses = Witnesses(self.folder)
        self._chooser = Chooser(self.folder, self._witnesses)

    @classmethod
    def from_environment(cls) -> ActivationStore | None:
        """The store that OBVERSE_CACHE names, if it names one; opened once for each process."""
        path = os.environ.get(ENVIRONMENT)
        if not path:
            return None
        key = (path, os.getpid())
        if key not in _OPENED:
            _OPENED[key] = cls(path)
        return _OPENED[key]

    def __enter__(self) -> ActivationStore:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"ActivationStore({str(self.path)!r})"

    # -- reading ------------------------------------------------------------------------------

    def get(
        self,
        model: HasActivations | ActivationSource,
        tokens: Any,
        sites: Any,
        *,
        dtype: str | None = None,
        progress: Progress | None = None,
    ) -> dict[str, Tensor]:
        """Activations of the prompts, read where they are stored and computed where not.

        Args:
            model: the model; it is run only for rows that are missing.
            tokens: texts, or token ids [example, position].
            sites: "resid_post" for every layer, "resid_post.3" for one, several of these.
            dtype: to store them as "float32", "float16" or "bfloat16"; the model's own if left out.
            progress: called with (rows done, rows in all) while missing ones are computed.

        Returns:
            {"resid_post.3": [example, position, *width]}, as `interp.capture` does. Where the rows
            have one length and stand together on the disk, which they do if they were stored
            together, the tensor is memory-mapped and takes no memory; else it is gathered, and NaN
            beyond a row's length. Edits change neither the store nor what others read.

        Raises:
            StorageError: the store cannot be written, or the rows do not fit into it.
            ObverseError: what the model refuses.
        """
        wanted = self._request(model, tokens, sites, dtype, keep=True)
        lengths = [len(ids) for ids in wanted.rows]
        return self._reads.read(wanted, progress, lambda pieces: padded(pieces, lengths))

    def rows(
        self,
        model: HasActivations | ActivationSource,
        tokens: Any,
        sites: Any,
        *,
        dtype: str | None = None,
        progress: Progress | None = None,
    ) -> dict[str, list[Tensor]]:
        """As `get`, but a tensor [position, *width] for each prompt: always memory-mapped."""
        wanted = self._request(model, tokens, sites, dtype, keep=True)
        return self._reads.read(
            wanted,
            progress,
            lambda pieces: [row for tensor, each in pieces for row in torch.split(tensor, each)],
        )

    def missing(
        self,
        model: HasActivations | ActivationSource,
        tokens: Any,
        sites: Any,
        *,
        dtype: str | None = None,
    ) -> int:
        """How many of the prompts lack some of the sites."""
        wanted = self._request(model, tokens, sites, dtype, keep=False)
        keys = wanted.space.keys(wanted.rows)
        found = self.folder.catalogue.find(keys, [site.name for site in wanted.sites])
        absent = lacking(keys, found)
        return sum(key in absent for key in keys)

    def admit(self, source: ActivationSource, space: Space, *, keep: bool) -> None:
        """Compare a model with what a space was filled by (see `cache.folder.witness`).

        Args:
            keep: whether to keep its answers as the space's witness, if there is none.

        Raises:
            StorageError: it computes something else.
        """
        self._witnesses.admit(source, space, keep=keep)

    # -- training -----------------------------------------------------------------------------

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
        plan, form = self._chooser.choose(model, sites, keys, where, positions, dtype, info)
        return TokenDataset(plan, form)

    def stream(
        self,
        model: Named,
        sites: str | Sequence[str],
        *,
        batch_size: int,
        shuffle: bool = True,
        seed: Seed = 0,
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
        plan, form = self._chooser.choose(model, sites, keys, where, positions, dtype, info)
        return TokenStream(
            plan,
            form,
            Settings(seed, shuffle, parse_size(pool)),
            batch_size=batch_size,
            drop_last=drop_last,
            note_use=functools.partial(self._chooser.note_use, plan),
        )

    def keys(self, model: Named, tokens: Any) -> list[bytes]:
        """The keys of prompts, by which `dataset` and `stream` choose rows.

        Args:
            tokens: texts, or token ids [example, position]; ids only where `model` is no model.
        """
        return self._chooser.keys(model, tokens)

    # -- keeping house ------------------------------------------------------------------------

    def check_writable(self) -> None:
        """Raises a StorageError if something is to be stored and the store can only be read."""
        self.folder.check_writable()

    def usage(self) -> list[Usage]:
        """What is stored, by model and site."""
        self._reads.note(now=True)
        return self.folder.catalogue.ask(Index.usage)

    def size(self) -> int:
        """Bytes that the store takes."""
        return self.folder.catalogue.ask(Index.total)

    def spaces(self) -> list[Space]:
        """What the stored activations are of."""
        return self.folder.catalogue.ask(Index.spaces)

    def verify(
        self,
        model: HasActivations | ActivationSource | None = None,
        progress: Progress | None = None,
    ) -> Report:
        """Compare everything with its checksums; set aside what is damaged.

        Args:
            model: computes the damaged rows of its own again, where their token ids are intact.
            progress: called with (bytes done, bytes in all).
        """
        if model is None:
            return verification.verify(self.folder, None, progress)
        source = source_of(model)
        for space in self.spaces():
            if source.space(space.dtype) == space:
                self.admit(source, space, keep=False)
        report = verification.verify(self.folder, source, progress)
        return verification.repair(self.room, source, report)

    def gc(self) -> list[str]:
        """Remove what nobody needs: leftovers of killed processes, and what was set aside.

        Returns a line for each thing that was done; what exceeds the budget is evicted too.
        """
        self.folder.check_writable("nothing can be removed from it")
        done = self.folder.reconcile()
        done += verification.empty_quarantine(self.folder)
        done += self._witnesses.tidy()
        before = set(committed(self.path))
        self.room.make(0)
        evicted = len(before - set(committed(self.path)))
        return [*done, *([f"{evicted} shards were evicted"] if evicted else [])]

    def remove(self, space: Space, sites: Sequence[str] | None = None) -> int:
        """Remove what is stored of a space, or at some of its sites; returns the bytes freed."""
        before = self.size()
        verification.drop(self.room, space, sites)
        if not self.folder.catalogue.ask(Index.shards, space.id):
            self._witnesses.forget(space)
        return before - self.size()

    def close(self) -> None:
        """Note what was used, and leave. The store can be used again; it is then entered anew."""
        self._reads.note(now=True)
        self.folder.close()

    def _request(
        self,
        model: HasActivations | ActivationSource,
        tokens: Any,
        sites: Any,
        dtype: str | None,
        *,
        keep: bool,
    ) -> Request:
        request = Request.of(model, tokens, sites, dtype)
        self.admit(request.source, request.space, keep=keep)
        return request


_OPENED: dict[tuple[str, int], ActivationStore] = {}
