"""A SQLite file that several processes use, and that may be damaged, deleted or replaced.

What the system refuses (a full disk, a missing permission) is a `StorageError`; whatever else
SQLite reports is taken for damage. A file may come from somebody else: before SQLite opens it, it
is made sure that it is a file of ours and no more than that.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cache.errors import DamageError, StorageError
from cache.files import open_regular
from cache.locks import PATIENCE, StoreLock, ThreadLock

__all__ = ["COMPANIONS", "Database"]

COMPANIONS = ("-journal", "-wal", "-shm")
"""What SQLite may put beside a file."""

_REFUSALS = {
    "full": "there is no space left on the disk; free some, or choose another folder",
    "readonly": "it cannot be written; choose a folder that can be",
    "locked": "another process holds it and does not go on; end that process, and try again",
    "disk I/O": "the disk reports an error; check the disk, or choose another one",
    "unable to open": "it cannot be opened; check its permissions and the limit on open files",
}


# What SQLite writes at the end of a journal that names another file, which it may then delete.
_JOURNAL_ENDS = bytes.fromhex("d9d505f920a163d7")
_LONGEST = 16 << 20  # bytes of a value


class _Connection(sqlite3.Connection):
    """Closes its cursors when told to, or with it: one that a traceback keeps would hold a lock."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._cursors: weakref.WeakSet[sqlite3.Cursor] = weakref.WeakSet()

    def execute(self, *args: Any) -> sqlite3.Cursor:
        cursor = super().execute(*args)
        self._cursors.add(cursor)
        return cursor

    def close_cursors(self) -> None:
        for cursor in list(self._cursors):
            cursor.close()

    def close(self) -> None:
        self.close_cursors()
        super().close()


class Database:
    """One connection for each process, which its threads use in turn."""

    def __init__(
        self,
        path: Path | None,
        lock: StoreLock | None,
        check: Callable[[sqlite3.Connection], None] | None = None,
    ) -> None:
        """Nothing is opened yet.

        Args:
            path: of the file, which must exist; in memory if None.
            lock: held, shared, during each use; None where nobody else knows the file.
            check: raises a DamageError if a file that was opened is none of ours.
        """
        self._path = path
        self._store_lock = lock
        self._check = check
        # No child must be forked while SQLite works: what it has locked stays so in the child.
        self._lock, self._apart = ThreadLock(), ThreadLock()
        self._connection: _Connection | None = None
        self._of: tuple[int, int] | None = None
        # A child must not close what it inherited: SQLite might undo what its parent is doing.
        self._inherited: list[_Connection] = []

    @property
    def inode(self) -> int | None:
        """Which file was used last; another process may have put a new one in its place."""
        return self._of[1] if self._of else None

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """
        Raises:
            DamageError, StorageError: see above.
        """
        with self._lock, self._errors(), self._shared(), self._closing_on_error():
            db = self._current()
            yield db
            # While no child can be forked, and not when a caller's variable goes.
            db.close_cursors()

    def pages(
        self, statement: str, parameters: Sequence[str | bytes | int], size: int
    ) -> Iterator[list[tuple[Any, ...]]]:
        """The rows that a SELECT finds, `size` at a time; raises what `reading` does.

        On a connection of its own, so that other threads need not wait.
        """
        if self._path is None:
            with self.reading() as db:
                found = db.execute(statement, parameters)
                while part := found.fetchmany(size):
                    yield part
            return
        with self._errors(), self._shared():
            _check_files(self._path)
            with self._apart:
                db = self._connect(self._path)
            try:
                with self._apart:
                    found = db.execute(statement, parameters)
                    part = found.fetchmany(size)
                while part:
                    yield part
                    with self._apart:
                        part = found.fetchmany(size)
            finally:
                with self._apart:
                    db.close()

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """As `reading`, as one transaction: wholly done, or not at all."""
        with self._lock, self._errors(), self._shared(), self._closing_on_error():
            db = self._current()
            # Taken at once: a lock that is upgraded later could meet another's and never get on.
            db.execute("begin immediate")
            yield db
            db.execute("commit")
            db.close_cursors()

    def close(self) -> None:
        """Close the file; what is in memory stays."""
        with self._lock:
            if self._connection is not None and self._of and self._of[0] == os.getpid():
                self._connection.close()
                self._connection = None

    @contextlib.contextmanager
    def _closing_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            # What was begun is undone, and the file closed, so that no lock stays.
            if self._connection is not None and self._connection.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("rollback")
            self.close()
            raise

    def _shared(self) -> contextlib.AbstractContextManager[None]:
        return self._store_lock.shared() if self._store_lock else contextlib.nullcontext()

    def _current(self) -> _Connection:
        # What is in memory a child may use: it has a copy of its own.
        now = (0, 0)
        if self._path is not None:
            try:
                now = (os.getpid(), self._path.lstat().st_ino)
            except FileNotFoundError:
                self._of = None
                raise DamageError("the index is missing") from None
        if self._of != now:
            if self._connection is not None and self._of and self._of[0] != now[0]:
                self._inherited.append(self._connection)
            # Which file it is must be known where it cannot be opened: it may have to go.
            self._connection, self._of = None, now
        if self._path is not None:
            # Each time: what stands beside it may be something else by now.
            _check_files(self._path)
        if self._connection is None:
            self._connection = self._connect(self._path)
        return self._connection

    def _connect(self, path: Path | None) -> _Connection:
        # "rw": a file that vanished must not come back empty.
        name = ":memory:" if path is None else f"file:{quote(str(path.absolute()))}?mode=rw"
        db = sqlite3.connect(
            name,
            timeout=PATIENCE,
            isolation_level=None,
            check_same_thread=False,
            factory=_Connection,
            uri=True,
        )
        try:
            db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST)
            # Nothing in a file is run, and its pages are looked at before they are used.
            db.execute("pragma trusted_schema = off")
            db.execute("pragma cell_size_check = on")
            if self._check is not None:
                self._check(db)
        except BaseException:
            db.close()
            raise
        return db

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            text = str(error)
            reason = next((why for word, why in _REFUSALS.items() if word in text), None)
            # SQLite also calls a file read-only whose first bytes say so, or that was replaced.
            misnamed = self._is_missing() or ("readonly" in text and self._writable())
            if reason is None or misnamed:
                raise DamageError(f"the index is damaged ({text})") from error
            raise StorageError(f"The index '{self._path}' cannot be used: {reason}.") from error
        except (sqlite3.Error, ValueError, TypeError, KeyError, OverflowError) as error:
            # What SQLite does not notice shows when the values are read.
            raise DamageError(f"the index is damaged ({error})") from error

    def _is_missing(self) -> bool:
        return self._path is not None and not os.path.lexists(self._path)

    def _writable(self) -> bool:
        path = self._path
        return path is not None and os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)


def _check_files(path: Path) -> None:
    """Raises a DamageError if SQLite must not open a file, or what stands beside it."""
    for end in ("", *COMPANIONS):
        try:
            mode = os.lstat(f"{path}{end}").st_mode
        except FileNotFoundError:
            continue
        if not stat.S_ISREG(mode):
            raise DamageError(f"'{path.name}{end}' is no regular file")
    journal = f"{path}{COMPANIONS[0]}"
    with contextlib.suppress(OSError), open(open_regular(journal), "rb") as file:
        size = file.seek(-len(_JOURNAL_ENDS), os.SEEK_END)
        # It begins in the same way, of which a killed process may have written no more.
        if size and file.read() == _JOURNAL_ENDS:
            raise DamageError("its journal names another file")
