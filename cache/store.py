"""The activation store: activations of any model, computed once and kept on disk."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from cache import verify as verification
from cache.errors import DamageError, StorageError
from cache.files import TEMPORARY_PREFIX, make_folder, read_bytes, storage_errors, write_atomic
from cache.fill import Progress, fill, lacking
from cache.folder import Folder
from cache.index import Index, Place, Usage
from cache.layout import bytes_per_token
from cache.room import Room
from cache.sizes import parse_size
from cache.source import ActivationSource, HasActivations
from cache.space import Ids, SiteShape, Space
from cache.verify import Report

__all__ = ["ENVIRONMENT", "ActivationStore"]

ENVIRONMENT = "OBVERSE_CACHE"
"""The environment variable that names the store which is used when none is given."""

_STORE = "store.json"
_FORMAT = b'{"format": "obverse-activations", "version": 1}\n'
_SHARD = 256 << 20
_SECONDS_BETWEEN_NOTES = 5.0
# How often a row may vanish between being found and being read, because others need the room.
_ATTEMPTS = 5


class ActivationStore:
    """Activations on disk: `get` returns what is stored, and computes and keeps what is not.

    Each activation is named by what decides it: the model's weights and configuration, the site,
    the precision, the tokenizer, and the token ids of its prompt; not by the batch, the padding or
    the data set. Several processes may use a store at once: a row that one of them computes, the
    others wait for. Every MiB is compared with its checksum before its first use; what is damaged
    is set aside and computed again. Files are safetensors with a JSON sidecar each.

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
        self.path = Path(path).expanduser()
        self.read_only = _open_folder(self.path)
        self._folder = Folder(self.path, read_only=self.read_only)
        self._room = Room(
            self._folder,
            None if budget is None else parse_size(budget),
            0 if floor == 0 else None if floor is None else parse_size(floor),
        )
        self._shard_size = parse_size(shard_size)
        self._uses: dict[str, tuple[float, int]] = {}
        self._noted = time.monotonic()
        self._lock = threading.Lock()

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
            together, the tensor is memory-mapped and takes no memory; else it is gathered, and 0
            beyond a row's length. Edits change neither the store nor what others read.

        Raises:
            StorageError: the store cannot be written, or the rows do not fit into it.
            ObverseError: what the model refuses.
        """
        rows, shapes, space = _wanted(model, tokens, sites, dtype)
        found = self._read(model, rows, shapes, space, progress)
        return {name: _padded(pieces, [len(ids) for ids in rows]) for name, pieces in found.items()}

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
        rows, shapes, space = _wanted(model, tokens, sites, dtype)
        found = self._read(model, rows, shapes, space, progress)
        return {
            name: [row for tensor, lengths in pieces for row in torch.split(tensor, lengths)]
            for name, pieces in found.items()
        }

    def missing(
        self,
        model: HasActivations | ActivationSource,
        tokens: Any,
        sites: Any,
        *,
        dtype: str | None = None,
    ) -> int:
        """How many of the prompts lack some of the sites."""
        rows, shapes, space = _wanted(model, tokens, sites, dtype)
        keys = space.keys(rows)
        found = self._folder.indexed(Index.find, keys, [site.name for site in shapes])
        absent = lacking(keys, found)
        return sum(key in absent for key in keys)

    def _read(
        self,
        model: HasActivations | ActivationSource,
        rows: Sequence[Ids],
        sites: Sequence[SiteShape],
        space: Space,
        progress: Progress | None,
    ) -> dict[str, list[tuple[Tensor, list[int]]]]:
        """For each site the rows' tensors, those that stand together in one, and their lengths."""
        keys = space.keys(rows)
        names = [site.name for site in sites]
        unique = dict(zip(keys, rows, strict=True))
        for _ in range(_ATTEMPTS):
            found = self._folder.indexed(Index.find, list(unique), names)
            absent = lacking(list(unique), found)
            if absent:
                self._compute(model, space, unique, sites, absent, progress)
                continue
            try:
                out = {name: self._pieces(name, keys, found[name]) for name in names}
            except _GoneError:
                continue
            self._note_uses()
            return out
        raise StorageError(
            f"'{self.path}' is too small for what is used at once: rows are evicted before they "
            "are read; raise its budget, or ask for fewer rows."
        )

    def _compute(
        self,
        model: HasActivations | ActivationSource,
        space: Space,
        rows: dict[bytes, Ids],
        sites: Sequence[SiteShape],
        absent: dict[bytes, tuple[str, ...]],
        progress: Progress | None,
    ) -> None:
        self.check_writable()
        # What is evicted for it depends on what was used last.
        self._note_uses(now=True)
        n_tokens = sum(len(ids) for ids in rows.values())
        size = n_tokens * bytes_per_token(sites, space.itemsize)
        self._room.check(size, f"{n_tokens:,} tokens at {len(sites)} sites")
        made = fill(
            self._folder,
            self._room,
            _source(model),
            space,
            rows,
            sites,
            shard_size=self._shard_size,
            progress=progress,
        )
        self._room.make(0, made)

    def _pieces(
        self, site: str, keys: Sequence[bytes], places: dict[bytes, Place]
    ) -> list[tuple[Tensor, list[int]]]:
        """The rows at `site` in the order of `keys`; neighbours in a shard come as one tensor."""
        out = []
        start = 0
        while start < len(keys):
            first = places[keys[start]]
            stop = start + 1
            while stop < len(keys) and places[keys[stop]] == Place(
                first.shard, first.row + stop - start
            ):
                stop += 1
            out.append(self._piece(site, first, keys[start:stop]))
            start = stop
        return out

    def _piece(self, site: str, first: Place, keys: Sequence[bytes]) -> tuple[Tensor, list[int]]:
        beyond = first.row + len(keys)
        try:
            reader = self._folder.reader(first.shard)
            sidecar = reader.sidecar
            if site not in sidecar.layout.fields or not all(
                first.row + number < sidecar.n_rows and sidecar.key(first.row + number) == key
                for number, key in enumerate(keys)
            ):
                self._folder.rebuild_index()
                raise _GoneError
            tensor = reader.tensor(site, first.row, beyond)
        except DamageError as error:
            verification.set_aside(self._folder, first.shard, str(error))
            raise _GoneError from error
        except StorageError as error:
            # Evicted by somebody else since it was found.
            self._folder.indexed(Index.forget, [first.shard])
            raise _GoneError from error
        with self._lock:
            _, hits = self._uses.get(first.shard, (0.0, 0))
            self._uses[first.shard] = (time.time(), hits + 1)
        return tensor, [int(n) for n in sidecar.lengths[first.row : beyond]]

    # -- keeping house ------------------------------------------------------------------------

    def check_writable(self) -> None:
        """Raises a StorageError if something is to be stored and the store can only be read."""
        if self.read_only:
            raise StorageError(
                f"'{self.path}' is read-only and lacks some of what is asked for; choose a store "
                "that can be written."
            )

    def usage(self) -> list[Usage]:
        """What is stored, by model and site."""
        self._note_uses(now=True)
        return self._folder.indexed(Index.usage)

    def size(self) -> int:
        """Bytes that the store takes."""
        return self._folder.indexed(Index.total)

    def spaces(self) -> list[Space]:
        """What the stored activations are of."""
        return self._folder.indexed(Index.spaces)

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
        report = verification.verify(self._folder, progress)
        if model is not None:
            report = verification.repair(
                self._folder, self._room, _source(model), report, self._shard_size
            )
        return report

    def gc(self) -> list[str]:
        """Remove what nobody needs: leftovers of killed processes, and what was set aside.

        Returns a line for each thing that was done; what exceeds the budget is evicted too.
        """
        done = self._folder.reconcile()
        done += verification.empty_quarantine(self._folder)
        before = set(self._folder.committed())
        self._room.make(0)
        evicted = len(before - set(self._folder.committed()))
        return [*done, *([f"{evicted} shards were evicted"] if evicted else [])]

    def remove(self, space: Space, sites: Sequence[str] | None = None) -> int:
        """Remove what is stored of a space, or at some of its sites; returns the bytes freed."""
        before = self.size()
        verification.drop(self._folder, self._room, space, sites)
        return before - self.size()

    def close(self) -> None:
        """Note what was used, and leave. The store can be used again; it is then entered anew."""
        self._note_uses(now=True)
        self._folder.close()

    def _note_uses(self, *, now: bool = False) -> None:
        with self._lock:
            due = now or time.monotonic() - self._noted > _SECONDS_BETWEEN_NOTES
            if not due or not self._uses:
                return
            uses, self._uses = self._uses, {}
            self._noted = time.monotonic()
        self._folder.indexed(Index.note_use, uses)


class _GoneError(Exception):
    """A row is not where the index said; look again."""


_OPENED: dict[tuple[str, int], ActivationStore] = {}


def _source(model: HasActivations | ActivationSource) -> ActivationSource:
    if hasattr(model, "activation_source"):
        return model.activation_source()
    return model


def _wanted(
    model: HasActivations | ActivationSource, tokens: Any, sites: Any, dtype: str | None
) -> tuple[Sequence[Ids], Sequence[SiteShape], Space]:
    source = _source(model)
    return source.rows(tokens), source.sites(sites), source.space(dtype)


def _padded(pieces: list[tuple[Tensor, list[int]]], lengths: list[int]) -> Tensor:
    """Rows as one tensor [example, position, *width]; a view where they lie together."""
    first, of_first = pieces[0]
    if len(pieces) == 1 and len(set(of_first)) == 1:
        return first.reshape(len(of_first), of_first[0], *first.shape[1:])
    out = torch.zeros(len(lengths), max(lengths), *first.shape[1:], dtype=first.dtype)
    rows = (row for tensor, of_piece in pieces for row in torch.split(tensor, of_piece))
    for number, row in enumerate(rows):
        out[number, : len(row)] = row
    return out


def _open_folder(path: Path) -> bool:
    """Make sure that `path` is a store; returns whether it can only be read."""
    make_folder(path)
    marker = path / _STORE
    with storage_errors(path, "read"):
        names = os.listdir(path)
    writable = os.access(path, os.W_OK)
    if _STORE not in names:
        others = sorted(name for name in names if not name.startswith(TEMPORARY_PREFIX))
        if others:
            raise StorageError(
                f"'{path}' holds other files ('{others[0]}') and no store; choose an empty or new "
                "folder."
            )
        try:
            write_atomic(marker, _FORMAT, temporary=f"{TEMPORARY_PREFIX}{_STORE}")
        except StorageError:
            # Somebody else may have made it at the same moment.
            if not marker.exists():
                raise
    elif read_bytes(marker) != _FORMAT:
        if b'"obverse-activations"' in read_bytes(marker):
            raise StorageError(
                f"'{path}' was made by another version of Obverse; use that, or a new folder."
            )
        if not writable or not (path / "shards").is_dir():
            raise StorageError(f"'{marker}' does not describe a store; choose another folder.")
        # Shards have checksums of their own, so that a damaged marker loses nothing.
        write_atomic(marker, _FORMAT, temporary=f"{TEMPORARY_PREFIX}{_STORE}")
    return not writable
