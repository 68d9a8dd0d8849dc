"""Locks between the threads of a process, and between the processes of a store."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from cache.errors import StorageError
from cache.files import open_regular, storage_errors

__all__ = ["PATIENCE", "StoreLock", "ThreadLock"]

PATIENCE = 60.0
"""Seconds that a process waits for what another one holds for a moment."""
_BETWEEN_TRIES = 0.01


class ThreadLock:
    """A re-entrant lock which a forked child finds free, whichever thread held it before.

    A fork waits until it is free, so that what it guards is never copied half changed.
    """

    _counter = itertools.count()
    _all: ClassVar[weakref.WeakSet[ThreadLock]] = weakref.WeakSet()
    _held: ClassVar[list[ThreadLock]] = []

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._number = next(self._counter)
        self._all.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    @classmethod
    def before_fork(cls) -> None:
        # In the order in which they were made: a folder's before its index's, as threads do.
        for lock in sorted(cls._all, key=lambda lock: lock._number):
            lock.__enter__()
            cls._held.append(lock)

    @classmethod
    def after_fork(cls) -> None:
        while cls._held:
            cls._held.pop().__exit__()


os.register_at_fork(
    before=ThreadLock.before_fork,
    after_in_parent=ThreadLock.after_fork,
    after_in_child=ThreadLock.after_fork,
)


class StoreLock:
    """The lock of a store's folder, held for moments only.

    Shared by whoever uses the index or gives files their names; exclusive for whoever makes the
    index anew or removes what dead writers left. The system frees it when a process dies.
    """

    def __init__(self, root: Path) -> None:
        """The lock of the store in the folder `root`."""
        self._path = root / "store.lock"

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Hold it together with others.

        Raises:
            StorageError: somebody holds it alone and does not go on, or the folder does not allow
                locks.
        """
        # Opened for reading, so that a store which can only be read can be.
        with self._open(os.O_RDONLY) as descriptor:
            if not self._acquire(descriptor, fcntl.LOCK_SH, PATIENCE):
                raise StorageError(
                    f"'{self._path}' is held by a process that does not go on; end that process, "
                    "and try again."
                )
            yield

    @contextlib.contextmanager
    def exclusive(self, patience: float) -> Iterator[bool]:
        """Hold it alone; yields whether it was got within `patience` seconds.

        Raises:
            StorageError: the folder does not allow locks.
        """
        with self._open(os.O_RDWR) as descriptor:
            yield self._acquire(descriptor, fcntl.LOCK_EX, patience)

    def _acquire(self, descriptor: int, mode: int, patience: float) -> bool:
        until = time.monotonic() + patience
        while True:
            with storage_errors(self._path, "locked"), contextlib.suppress(BlockingIOError):
                fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
                return True
            if time.monotonic() > until:
                return False
            time.sleep(_BETWEEN_TRIES)

    @contextlib.contextmanager
    def _open(self, mode: int) -> Iterator[int]:
        with storage_errors(self._path, "locked"):
            descriptor = open_regular(self._path, mode | os.O_CREAT)
        try:
            yield descriptor
        finally:
            # Said outright: a child that was forked meanwhile has a copy of the descriptor.
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)
