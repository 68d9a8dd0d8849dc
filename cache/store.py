"""The activation store: activations of any model, computed once and kept on disk."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cache.arguments import typed
from cache.errors import StorageError
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
from cache.keys.source import ActivationSource, HasActivations
from cache.keys.space import Ids, SiteShape, Space
from cache.reads import Reads, padded
from cache.sizes import parse_size
from cache.training.training import Training

__all__ = ["ENVIRONMENT", "ActivationStore"]

ENVIRONMENT = "OBVERSE_CACHE"
"""The environment variable that names the store which is used when none is given."""

_SHARD = 256 << 20


@typed
class ActivationStore(Training):
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
        self._folder = Folder(self.path, read_only=self.read_only)
        self._room = Room(
            self._folder,
            None if budget is None else parse_size(budget),
            0 if floor == 0 else None if floor is None else parse_size(floor),
        )
        self._shard_size = parse_size(shard_size)
        self._reads = Reads(self._folder, self._room, self._shard_size)
        self._witnesses = Witnesses(self._folder)

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

    @property
    def folder(self) -> Folder:
        """The files, for what stands above the store."""
        return self._folder

    @property
    def room(self) -> Room:
        """The limits, likewise."""
        return self._room

    @property
    def shard_size(self) -> int:
        """About how large one file is, in bytes."""
        return self._shard_size

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
        wanted = self._wanted(model, tokens, sites, dtype, keep=True)
        lengths = [len(ids) for ids in wanted.rows]
        return self._reads.read(*wanted, progress, lambda pieces: padded(pieces, lengths))

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
        wanted = self._wanted(model, tokens, sites, dtype, keep=True)
        return self._reads.read(
            *wanted,
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
        _, rows, shapes, space = self._wanted(model, tokens, sites, dtype, keep=False)
        keys = space.keys(rows)
        found = self._folder.catalogue.find(keys, [site.name for site in shapes])
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

    def _wanted(
        self,
        model: HasActivations | ActivationSource,
        tokens: Any,
        sites: Any,
        dtype: str | None,
        *,
        keep: bool,
    ) -> _Wanted:
        wanted = _wanted(model, tokens, sites, dtype)
        self.admit(wanted.source, wanted.space, keep=keep)
        return wanted

    # -- keeping house ------------------------------------------------------------------------

    def check_writable(self) -> None:
        """Raises a StorageError if something is to be stored and the store can only be read."""
        self._folder.check_writable()

    def usage(self) -> list[Usage]:
        """What is stored, by model and site."""
        self._reads.note(now=True)
        return self._folder.catalogue.ask(Index.usage)

    def size(self) -> int:
        """Bytes that the store takes."""
        return self._folder.catalogue.ask(Index.total)

    def spaces(self) -> list[Space]:
        """What the stored activations are of."""
        return self._folder.catalogue.ask(Index.spaces)

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
            return verification.verify(self._folder, None, progress)
        source = _source(model)
        for space in self.spaces():
            if source.space(space.dtype) == space:
                self.admit(source, space, keep=False)
        report = verification.verify(self._folder, source, progress)
        return verification.repair(self._folder, self._room, source, report, self._shard_size)

    def gc(self) -> list[str]:
        """Remove what nobody needs: leftovers of killed processes, and what was set aside.

        Returns a line for each thing that was done; what exceeds the budget is evicted too.
        """
        self._folder.check_writable("nothing can be removed from it")
        done = self._folder.reconcile()
        done += verification.empty_quarantine(self._folder)
        done += self._witnesses.tidy()
        before = set(committed(self.path))
        self._room.make(0)
        evicted = len(before - set(committed(self.path)))
        return [*done, *([f"{evicted} shards were evicted"] if evicted else [])]

    def remove(self, space: Space, sites: Sequence[str] | None = None) -> int:
        """Remove what is stored of a space, or at some of its sites; returns the bytes freed."""
        before = self.size()
        verification.drop(self._folder, self._room, space, sites)
        if not self._folder.catalogue.ask(Index.shards, space.id):
            self._witnesses.forget(space)
        return before - self.size()

    def close(self) -> None:
        """Note what was used, and leave. The store can be used again; it is then entered anew."""
        self._reads.note(now=True)
        self._folder.close()


_OPENED: dict[tuple[str, int], ActivationStore] = {}


class _Wanted(NamedTuple):
    """What a call asks for, in the store's terms."""

    source: ActivationSource
    rows: Sequence[Ids]
    sites: Sequence[SiteShape]
    space: Space


def _source(model: HasActivations | ActivationSource) -> ActivationSource:
    if hasattr(model, "activation_source"):
        return model.activation_source()
    return model


def _wanted(
    model: HasActivations | ActivationSource, tokens: Any, sites: Any, dtype: str | None
) -> _Wanted:
    source = _source(model)
    rows = source.rows(tokens)
    if not all(map(len, rows)) or not rows:
        raise StorageError("There are no prompts, or one without tokens; leave empty ones out.")
    # A site may be named twice, on its own and as one of all layers.
    shapes = list({site.name: site for site in source.sites(sites)}.values())
    if not shapes:
        raise StorageError("No sites are asked for; name one, such as 'resid_post'.")
    return _Wanted(source, rows, shapes, source.space(dtype))
