"""The folder of a store: its shards, their index, and the order in which files come and go.

What makes it safe to be killed at any moment: a writer leaves its name before anything else; data
are renamed into place before their sidecar; the sidecar goes first when a shard is removed; and
the index may lag behind both.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from cache.errors import DamageError, GoneError, StorageError
from cache.files import TEMPORARY_PREFIX, make_folder, real_folder, remove, storage_errors
from cache.folder import listing
from cache.folder.catalogue import Catalogue
from cache.folder.owners import Membership, Owner, Owners
from cache.index.queries import Index
from cache.keys.space import Ids, SiteShape, Space
from cache.locks import PATIENCE, StoreLock, ThreadLock
from cache.shards.reader import ShardReader
from cache.shards.sidecar import Sidecar
from cache.shards.writer import DATA, DESCRIPTION, ShardWriter, read_sidecar, shard_path

__all__ = ["QUARANTINE", "Folder"]

QUARANTINE = "quarantine"
_OPEN_READERS = 128


class Folder:
    """Files of a store, and their index. One object serves all threads of a process.

    Attributes:
        root: where it is.
        read_only: whether it can only be read.
        catalogue: what it holds, by its index.
    """

    def __init__(self, root: Path, *, read_only: bool) -> None:
        self.root, self.read_only = root, read_only
        self._lock = ThreadLock()
        self._store_lock = StoreLock(root)
        self._owners = Owners(root / "owners")
        self._membership = Membership(root / "owners")
        self.catalogue = Catalogue(root, self._membership, read_only=read_only)
        self._leases = itertools.count()
        self._readers: OrderedDict[str, ShardReader] = OrderedDict()
        if not read_only:
            self.tidy()

    @property
    def owner(self) -> Owner:
        """This process as a writer, entered when first needed."""
        return self._membership.owner

    def check_writable(self, but: str = "it lacks some of what is asked for") -> None:
        """Raises a StorageError if something is to be changed and the store can only be read."""
        if self.read_only:
            raise StorageError(
                f"'{self.root}' is read-only, and {but}; choose a store that can be written."
            )

    # -- putting in order -----------------------------------------------------------------------

    def tidy(self) -> None:
        """`reconcile`, if writers were killed, and if it can be done now."""
        if self._owners.dead():
            with contextlib.suppress(StorageError):
                self.reconcile(patience=1.0)

    def reconcile(self, patience: float = PATIENCE) -> list[str]:
        """Put in order what killed writers left; returns a line for each thing that was done.

        Shards that were committed and not indexed are entered, entries without a shard dropped,
        data without a sidecar and partial files removed, unless their writer lives.

        Args:
            patience: how long to wait, in seconds, while others commit; then nothing is done.
        """
        dead = self._owners.dead()
        found = [*listing.partials(self.root), *listing.orphans(self.root)]
        done: list[str] = []
        with self._store_lock.exclusive(patience) as got:
            if not got:
                return ["nothing was put in order: a process holds the store and does not go on"]
            # Asked after the files were listed, so that a new writer's are not taken for these.
            alive = self._owners.alive()
            for path in found:
                if self._is_left(path, alive):
                    remove(path)
                    done.append(f"'{path.name}' was left over and is removed")
        done += self._align()
        self.release_dead()
        with contextlib.suppress(StorageError):
            self.catalogue.ask(Index.refresh)
        for path in dead:
            remove(path)
        return done

    def release_dead(self) -> None:
        """Drop the leases of writers that do not live any more."""
        holders = self.catalogue.ask(Index.holders)
        if holders:
            alive = self._owners.alive()
            dead = [holder for holder in holders if holder.partition(".")[0] not in alive]
            self.catalogue.ask(Index.release, dead)

    @contextlib.contextmanager
    def lease(self, keys: Sequence[bytes]) -> Iterator[list[bytes]]:
        """Be the only one to compute some rows.

        Yields:
            those of `keys` that nobody else computes; nobody else will, until the block ends.
        """
        holder = f"{self.owner.token}.{next(self._leases)}"
        try:
            yield self.catalogue.ask(Index.claim, keys, holder)
        finally:
            try:
                self.catalogue.ask(Index.release, [holder])
            except StorageError:
                # Others would wait for as long as this process lives.
                self._membership.leave(clean=False)

    # -- shards -------------------------------------------------------------------------------

    def writer(self, space: Space, sites: Sequence[SiteShape], rows: Sequence[Ids]) -> ShardWriter:
        """A writer of a new shard; `enter` what it commits."""
        owner = self.owner
        writer = ShardWriter(self.root, owner.new_shard(), space, sites, rows)
        owner.began(writer)
        return writer

    def adopt(self, shard: str) -> Sidecar:
        """Put a shard into the index that another process has committed and left.

        Raises:
            GoneError: there is no such shard.
            DamageError: its sidecar is damaged, or the file has another size.
        """
        sidecar = read_sidecar(self.root, shard)
        ShardReader(self.root, sidecar)
        self.catalogue.enter(sidecar)
        self._owners.discharge(shard.partition("-")[0])
        return sidecar

    def reader(self, shard: str) -> ShardReader:
        """A reader of a shard, from among those that are open.

        Raises:
            GoneError: the shard is gone.
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
        # All names before the first file: a folder that is a link is refused before anything goes.
        paths = [path for shard in shards for path in self._files(shard)]
        self._announce()
        try:
            for path in paths:
                remove(path)
        finally:
            self.catalogue.forget(shards)

    def quarantine(self, shard: str) -> None:
        """Move a damaged shard out of the way."""
        self._announce()
        place = real_folder(self.root, QUARANTINE)
        make_folder(place)
        for path in self._files(shard):
            with storage_errors(path, "moved"), contextlib.suppress(FileNotFoundError):
                os.replace(path, place / path.name)
        self.catalogue.forget([shard])

    def close(self) -> None:
        """Leave the store in order."""
        with self._lock:
            self._readers.clear()
        self.catalogue.close()
        self._membership.leave(clean=self.catalogue.is_settled)

    # -- helpers ------------------------------------------------------------------------------

    def _align(self) -> list[str]:
        """Let the index hold what is committed, and nothing else."""
        done = []
        self.catalogue.settle()
        committed = set(listing.committed(self.root))
        indexed = set(self.catalogue.ask(Index.shards))
        alive = self._owners.alive()
        for shard in sorted(committed - indexed):
            try:
                self.adopt(shard)
                # Another writer that lives may just not have come to it.
                token = shard.partition("-")[0]
                if token not in alive or self._membership.is_own(token):
                    done.append(f"shard {shard} was committed but not in the index; it is now")
            except GoneError:
                continue
            except DamageError as error:
                self.quarantine(shard)
                done.append(f"shard {shard}: {error}; it is set aside")
        gone = [s for s in sorted(indexed - committed) if not listing.is_committed(self.root, s)]
        if gone:
            self.catalogue.ask(Index.forget, gone)
        return [*done, *(f"shard {shard} has no sidecar; its rows are lost" for shard in gone)]

    def _is_left(self, path: Path, alive: set[str]) -> bool:
        """Whether nobody needs a file any more; asked while nobody can commit."""
        if path.name.startswith(TEMPORARY_PREFIX):
            return listing.writer_of(path) not in alive and os.path.lexists(path)
        return os.path.lexists(path) and not os.path.lexists(path.with_suffix(DESCRIPTION))

    def _announce(self) -> None:
        """Leave a name before files are removed, so that somebody goes on if this process dies."""
        # A full disk must not keep anybody from removing files.
        with contextlib.suppress(StorageError):
            _ = self.owner

    def _files(self, shard: str) -> list[Path]:
        """The files of a shard that goes, the sidecar first: without it the rest is nothing."""
        with self._lock:
            self._readers.pop(shard, None)
        return [shard_path(self.root, shard, suffix) for suffix in (DESCRIPTION, DATA)]
