"""The folder of a store: its shards, their index, and the order in which files come and go.

What makes it safe to be killed at any moment: data are renamed into place before their sidecar,
the sidecar goes first when a shard is removed, and the index may lag behind both.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from cache.errors import DamageError, StorageError
from cache.files import TEMPORARY_PREFIX, make_folder, remove, storage_errors
from cache.index import Index
from cache.owners import Owner, Owners
from cache.reader import ShardReader
from cache.shard import DATA, DESCRIPTION, ShardWriter, read_sidecar, shard_path
from cache.sidecar import Sidecar
from cache.space import Ids, SiteShape, Space

__all__ = ["Folder"]

P = ParamSpec("P")
T = TypeVar("T")

INDEX = "index.sqlite"
QUARANTINE = "quarantine"
_TRASH = "trash"
_LOCK = "rebuild.lock"
_OPEN_READERS = 128
_TOKEN = re.compile(r"[0-9a-f]{16}")


class Folder:
    """Files of a store. One object serves all threads of a process."""

    def __init__(self, root: Path, *, read_only: bool) -> None:
        self.root = root
        self.read_only = read_only
        self._owners = Owners(root / "owners")
        self._owner: Owner | None = None
        self._lock = threading.RLock()
        self._readers: OrderedDict[str, ShardReader] = OrderedDict()
        self._index = self._open_index()
        if not read_only:
            self.tidy()

    # -- the index ----------------------------------------------------------------------------

    def indexed(
        self, work: Callable[Concatenate[Index, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Call a method of the index; where it turns out damaged, make it anew and try again."""
        index = self._index
        try:
            return work(index, *args, **kwargs)
        except DamageError:
            self.rebuild(index)
            return work(self._index, *args, **kwargs)

    def rebuild(self, damaged: Index) -> None:
        """Make the index anew from the sidecars, unless it is not the damaged one any more."""
        with self._lock:
            if damaged is self._index:
                self._index = self._make_index()

    def rebuild_index(self) -> None:
        """Make the index anew from the sidecars."""
        self.rebuild(self._index)

    def check_index(self) -> None:
        """Compare the index with the sidecars.

        Raises:
            DamageError: it is damaged, or says something else.
        """
        self._index.check()
        known = self._index.contents()
        for sidecar, size in self._committed():
            names = tuple(sorted(site.name for site in sidecar.sites))
            tokens = int(sidecar.lengths.sum())
            described = (sidecar.space.id, sidecar.content, size, sidecar.n_rows, tokens)
            right = (*described, names, tuple(sidecar.row_keys()))
            if sidecar.id in known and known[sidecar.id] != right:
                raise DamageError("the index does not say what the sidecars say")

    def reconcile(self) -> list[str]:
        """Put in order what killed writers left; returns a line for each thing that was done.

        Shards that were committed and not indexed are entered, entries without a shard dropped,
        data without a sidecar and partial files removed, unless their writer lives.
        """
        done: list[str] = []
        dead = self._owners.dead()
        alive = self._owners.alive()
        indexed = set(self.indexed(Index.shards))
        committed = set(self.committed())
        for shard in sorted(committed - indexed):
            try:
                self.adopt(shard)
                done.append(f"shard {shard} was committed but not in the index; it is now")
            except DamageError as error:
                self.quarantine(shard)
                done.append(f"shard {shard} was set aside: {error}")
        gone = [
            shard
            for shard in sorted(indexed - committed)
            if not shard_path(self.root, shard, DESCRIPTION).exists()
        ]
        if gone:
            self.indexed(Index.forget, gone)
            done.append(f"{len(gone)} entries of the index had no shard and were dropped")
        for path in self._leftovers(alive):
            remove(path)
            done.append(f"'{path.name}' was left by a killed process and is removed")
        self.indexed(Index.keep_leases_of, alive)
        for path in dead:
            remove(path)
        return done

    def tidy(self) -> None:
        """`reconcile`, if writers were killed."""
        if self._owners.dead():
            self.reconcile()

    def release_dead(self) -> None:
        """Drop the leases of writers that do not live any more."""
        alive = self._owners.alive()
        self.indexed(Index.keep_leases_of, alive)

    # -- shards -------------------------------------------------------------------------------

    @property
    def owner(self) -> Owner:
        """This process as a writer, entered when first needed."""
        with self._lock:
            if self._owner is None or self._owner.pid != os.getpid():
                self._owner = Owner(self.root / "owners")
                # At the end of the process, if nobody closes the store before.
                self._leave = weakref.finalize(self, Owner.leave, self._owner, clean=True)
            return self._owner

    def writer(self, space: Space, sites: Sequence[SiteShape], rows: Sequence[Ids]) -> ShardWriter:
        """A writer of a new shard; `enter` what it commits."""
        return ShardWriter(self.root, self.owner.new_shard(), space, sites, rows)

    def enter(self, sidecar: Sidecar) -> None:
        """Put a committed shard into the index."""
        size = _size(self.root, sidecar)
        self.indexed(Index.add, [(sidecar, size)])

    def adopt(self, shard: str) -> Sidecar:
        """Put a shard into the index that another process has committed.

        Raises:
            StorageError: there is no such shard.
            DamageError: its sidecar is damaged, or the file has another size.
        """
        sidecar = read_sidecar(self.root, shard)
        ShardReader(self.root, sidecar)
        self.enter(sidecar)
        return sidecar

    def reader(self, shard: str) -> ShardReader:
        """A reader of a shard, from among those that are open.

        Raises:
            StorageError: the shard is gone.
            DamageError: it is damaged.
        """
        with self._lock:
            if shard in self._readers:
                self._readers.move_to_end(shard)
                return self._readers[shard]
        reader = ShardReader(self.root, read_sidecar(self.root, shard))
        with self._lock:
            # Readers of shards that others evicted keep room on the disk.
            for other in [s for s, open_ in self._readers.items() if open_.evicted]:
                del self._readers[other]
            self._readers[shard] = reader
            while len(self._readers) > _OPEN_READERS:
                self._readers.popitem(last=False)
        return reader

    def remove(self, shards: Iterable[str]) -> None:
        """Remove shards. Maps of them that were given out stay valid."""
        shards = list(shards)
        self.indexed(Index.forget, shards)
        for shard in shards:
            for path in self._set_aside(shard, _TRASH):
                remove(path)

    def quarantine(self, shard: str) -> list[Path]:
        """Move a damaged shard out of the way; returns where its files are now."""
        self.indexed(Index.forget, [shard])
        return self._set_aside(shard, QUARANTINE)

    def committed(self) -> Iterator[str]:
        """Ids of the shards that have a sidecar."""
        for name in self._names():
            shard, dot, suffix = name.partition(".")
            if dot + suffix == DESCRIPTION and shard:
                yield shard

    def close(self) -> None:
        """Leave the store in order."""
        with self._lock:
            self._readers.clear()
            self._index.close()
            if self._owner is not None:
                self._leave.detach()
                self._owner.leave(clean=True)
                self._owner = None

    # -- helpers ------------------------------------------------------------------------------

    def _open_index(self) -> Index:
        """The index as it stands, or made from the sidecars if it is missing or cannot be used."""
        path = self.root / INDEX
        if not self.read_only and path.exists():
            with contextlib.suppress(DamageError):
                index = Index(path)
                index.check(quick=True)
                return index
        return self._make_index()

    def _make_index(self) -> Index:
        if self.read_only:
            # Nothing can be written, so what the sidecars say is kept in memory.
            index = Index(None)
            index.add(self._committed())
            return index
        path = self.root / INDEX
        with self._exclusively():
            fresh = self.root / f"{TEMPORARY_PREFIX}{self.owner.token}-{INDEX}"
            remove(fresh)
            index = Index(fresh)
            index.add(self._committed())
            index.close()
            # A journal of the old index must not be played back into the new one.
            remove(path.with_name(f"{INDEX}-journal"))
            with storage_errors(path, "written"):
                os.replace(fresh, path)
        return Index(path)

    def _committed(self) -> Iterator[tuple[Sidecar, int]]:
        """All sidecars that can be read. Others are left for `verify` to find."""
        for shard in self.committed():
            with contextlib.suppress(StorageError):
                sidecar = read_sidecar(self.root, shard)
                yield sidecar, _size(self.root, sidecar)

    def _names(self) -> Iterator[str]:
        folder = self.root / "shards"
        with storage_errors(folder, "read"):
            if folder.is_dir():
                for part in sorted(os.listdir(folder)):
                    if (folder / part).is_dir():
                        yield from os.listdir(folder / part)

    def _leftovers(self, alive: set[str]) -> list[Path]:
        """Partial files, data without a sidecar, and trash, of writers that do not live."""
        found = [
            path for path in self.root.glob(f"{TEMPORARY_PREFIX}*") if _writer(path) not in alive
        ]
        found += list((self.root / _TRASH).glob("*"))
        committed = set(self.committed())
        for path in (self.root / "shards").glob("*/*"):
            shard = path.name.removeprefix(TEMPORARY_PREFIX).partition(".")[0]
            partial = path.name.startswith(TEMPORARY_PREFIX)
            orphan = path.name.endswith(DATA) and shard not in committed
            # The sidecar may have come since the folders were listed.
            if (partial or orphan) and _writer(path) not in alive:
                if orphan and shard_path(self.root, shard, DESCRIPTION).exists():
                    continue
                found.append(path)
        return found

    def _set_aside(self, shard: str, folder: str) -> list[Path]:
        with self._lock:
            self._readers.pop(shard, None)
        make_folder(self.root / folder)
        moved = []
        # The sidecar first: without it the rest counts as nothing.
        for suffix in (DESCRIPTION, DATA):
            path = shard_path(self.root, shard, suffix)
            target = self.root / folder / path.name
            with storage_errors(path, "moved"), contextlib.suppress(FileNotFoundError):
                os.replace(path, target)
                moved.append(target)
        return moved

    @contextlib.contextmanager
    def _exclusively(self) -> Iterator[None]:
        path = self.root / _LOCK
        with storage_errors(path, "locked"):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                yield
            finally:
                os.close(descriptor)


def _size(root: Path, sidecar: Sidecar) -> int:
    """Bytes of both files."""
    path = shard_path(root, sidecar.id, DESCRIPTION)
    with storage_errors(path, "read"):
        return sidecar.layout.size + path.stat().st_size


def _writer(path: Path) -> str:
    """The token of the writer whose file this is; "" if its name does not tell."""
    match = _TOKEN.match(path.name.removeprefix(TEMPORARY_PREFIX))
    return match[0] if match else ""
