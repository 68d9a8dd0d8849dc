"""The index of a store as its processes see it: found damaged or missing, it is made anew.

The sidecars are the truth. What the index could not be told, because the disk was full, it is told
later.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from cache.errors import DamageError, GoneError, StorageError
from cache.files import TEMPORARY_PREFIX, flush, is_real, remove, storage_errors
from cache.folder.listing import committed
from cache.folder.owners import Membership
from cache.index.database import COMPANIONS
from cache.index.queries import Index, Place
from cache.locks import PATIENCE, StoreLock, ThreadLock
from cache.shards.sidecar import Sidecar
from cache.shards.writer import DESCRIPTION, read_sidecar, shard_path

__all__ = ["Catalogue"]

P = ParamSpec("P")
T = TypeVar("T")

INDEX = "index.sqlite"
# How often the index is made anew before it is given up; somebody may be deleting it.
_ATTEMPTS = 5


class Catalogue:
    """What a store holds, by its index. One object serves all threads of a process."""

    def __init__(self, root: Path, membership: Membership, *, read_only: bool) -> None:
        self._root, self._read_only = root, read_only
        self._membership = membership
        self._lock = ThreadLock()
        self._store_lock = StoreLock(root)
        # What the index could not be told, for want of space.
        self._unentered: list[Sidecar] = []
        self._unforgotten: set[str] = set()
        self._index = self._open_index()

    def ask(self, work: Callable[Concatenate[Index, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a method of the index; where it turns out damaged, make it anew and try again."""
        for _ in range(_ATTEMPTS):
            index = self._index
            try:
                return work(index, *args, **kwargs)
            except DamageError as error:
                reason = str(error)
            self._warn(reason)
            self._replace(index, reason)
        raise StorageError(
            f"The index of '{self._root}' cannot be made anew ({reason}); remove "
            f"'{self._root / INDEX}', and open the store again."
        )

    def find(self, keys: Sequence[bytes], sites: Sequence[str]) -> dict[str, dict[bytes, Place]]:
        """For each site where the rows stand that are stored."""
        with contextlib.suppress(StorageError):
            self.settle()
        return self.ask(Index.find, keys, sites)

    def rebuild(self, reason: str) -> None:
        """Make the index anew from the sidecars."""
        self._replace(self._index, reason)

    def check(self) -> None:
        """Compare the index with itself, and with the sidecars.

        Raises:
            DamageError: it is damaged, or says something else.
        """
        index = self._index
        index.check()
        for sidecar, size in self._sidecars():
            if index.disagrees(sidecar, size):
                raise DamageError(f"the index is wrong about shard {sidecar.id}")

    def enter(self, sidecar: Sidecar) -> None:
        """Put a committed shard into the index.

        Raises:
            StorageError: the index cannot be written; it is tried again later.
        """
        with self._lock:
            self._unentered.append(sidecar)
        self.settle()

    def forget(self, shards: Iterable[str]) -> None:
        """Drop shards from the index, whose files are gone."""
        with self._lock:
            self._unforgotten.update(shards)
        with contextlib.suppress(StorageError):
            self.settle()

    @property
    def is_settled(self) -> bool:
        """Whether the index was told everything."""
        return not self._unentered and not self._unforgotten

    def settle(self) -> None:
        """Tell the index what it does not know yet."""
        with self._lock:
            if self._unentered:
                sized = ((sidecar, _size(self._root, sidecar)) for sidecar in self._unentered)
                found = [(sidecar, size) for sidecar, size in sized if size is not None]
                self.ask(Index.add, found)
                self._unentered.clear()
            if self._unforgotten:
                self.ask(Index.forget, self._unforgotten)
                self._unforgotten.clear()

    def close(self) -> None:
        """Tell what can be told, and close the file; it is opened again when it is used."""
        with contextlib.suppress(StorageError):
            self.settle()
        with self._lock:
            self._index.close()

    # -- helpers ------------------------------------------------------------------------------

    def _open_index(self) -> Index:
        """The index as it stands, or made from the sidecars if it is missing or cannot be used."""
        if self._read_only:
            # Nothing can be written, so what the sidecars say is kept in memory.
            return Index.make(None, self._sidecars())
        index = Index(self._root / INDEX, self._store_lock)
        try:
            index.check_quickly()
        except DamageError as error:
            if next(committed(self._root), None):
                self._warn(str(error))
            return self._make_index(index, str(error))
        return index

    def _warn(self, reason: str) -> None:
        warnings.warn(
            f"The index of '{self._root}' cannot be used ({reason}); it is made anew from the "
            "sidecars.",
            stacklevel=3,
        )

    def _replace(self, damaged: Index, reason: str) -> None:
        with self._lock:
            if damaged is self._index:
                self._index = self._make_index(damaged, reason)

    def _make_index(self, damaged: Index, reason: str) -> Index:
        if self._read_only:
            return Index.make(None, self._sidecars())
        path = self._root / INDEX
        fresh = self._root / f"{TEMPORARY_PREFIX}{self._membership.owner.token}-{INDEX}"
        damaged.close()
        with self._store_lock.exclusive(PATIENCE) as got:
            if not got:
                raise StorageError(
                    f"The index of '{self._root}' must be made anew ({reason}), but a process "
                    "holds it and does not go on; end that process, and try again."
                )
            # Another process may have done it while this one waited.
            if not is_real(path) or path.lstat().st_ino == damaged.inode:
                remove(fresh)
                Index.make(fresh, self._sidecars()).close()
                # The old one must not be used without its journal, nor the new one with it.
                for old in (INDEX, *(f"{INDEX}{end}" for end in COMPANIONS)):
                    remove(self._root / old)
                with storage_errors(path, "written"):
                    os.replace(fresh, path)
                    flush(self._root)
        return Index(path, self._store_lock)

    def _sidecars(self) -> Iterator[tuple[Sidecar, int]]:
        """All sidecars that can be read. Others are left for `verify` to find."""
        for shard in committed(self._root):
            with contextlib.suppress(GoneError, DamageError):
                sidecar = read_sidecar(self._root, shard)
                size = _size(self._root, sidecar)
                if size is not None:
                    yield sidecar, size


def _size(root: Path, sidecar: Sidecar) -> int | None:
    """Bytes of both files; None if the shard is gone."""
    path = shard_path(root, sidecar.id, DESCRIPTION)
    with storage_errors(path, "read"):
        try:
            return sidecar.layout.size + path.lstat().st_size
        except FileNotFoundError:
            return None
