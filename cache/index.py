"""The index of a store: which shard holds which row, who computes what, what was used when.

It is a convenience: the sidecars are the truth, and the index can be made anew from them at any
time. SQLite keeps it whole when a process dies.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cache.errors import DamageError, StorageError
from cache.sidecar import Sidecar
from cache.space import Space

__all__ = ["Entry", "Index", "Place", "Usage"]

T = TypeVar("T")

_WAIT = 60.0  # seconds that a process waits for another one's transaction
_AT_ONCE = 500  # parameters of one statement
_ROWS_AT_ONCE = 10_000
_VERSION = 2
_QUICK = 8 << 20
_TABLES = """
create table if not exists spaces (id text primary key, described text not null) without rowid;
create table if not exists shards (
    number integer primary key, id text not null unique, space text not null,
    content blob not null, bytes integer not null, rows integer not null, tokens integer not null,
    created real not null, used real not null, hits integer not null default 0);
create index if not exists shards_by_use on shards (used);
create table if not exists sites (
    shard integer not null, site text not null, bytes integer not null,
    primary key (shard, site)) without rowid;
create table if not exists rows (
    key blob not null, shard integer not null, row integer not null,
    primary key (key, shard)) without rowid;
create index if not exists rows_by_shard on rows (shard);
create table if not exists leases (key blob primary key, owner text not null) without rowid;
"""


@dataclass(frozen=True)
class Place:
    """Where a row stands."""

    shard: str
    row: int


@dataclass(frozen=True)
class Entry:
    """What the index knows of a shard."""

    shard: str
    bytes: int
    rows: int
    used: float


@dataclass(frozen=True)
class Usage:
    """What a store holds at one site of one space.

    Attributes:
        bytes: of the activations at this site.
        created, used: seconds since 1970: the oldest shard, and the last use.
        hits: how often one of the shards was read.
    """

    space: Space
    site: str
    bytes: int
    shards: int
    rows: int
    tokens: int
    created: float
    used: float
    hits: int


class Index:
    """The index in a file, or in memory (for a store that cannot be written)."""

    def __init__(self, path: Path | None) -> None:
        """Open the index, or make an empty one.

        Raises:
            DamageError: the file is not an index.
            StorageError: it cannot be opened.
        """
        self._path = path
        self._local = threading.local()
        self._shared: sqlite3.Connection | None = None
        self._lock = threading.RLock()
        if path is None:
            self._shared = sqlite3.connect(":memory:", check_same_thread=False)
        with self._transaction() as db:
            (version,) = db.execute("pragma user_version").fetchone()
            if version not in (0, _VERSION):
                raise DamageError(f"the index has version {version}")
            for statement in _TABLES.split(";"):
                db.execute(statement)
            db.execute(f"pragma user_version = {_VERSION}")

    def add(self, sidecars: Iterable[tuple[Sidecar, int]]) -> None:
        """Enter shards with the bytes of their files; those that are known are left alone."""
        with self._transaction() as db:
            for sidecar, size in sidecars:
                _add(db, sidecar, size)

    def forget(self, shards: Iterable[str]) -> None:
        with self._transaction() as db:
            for shard in shards:
                found = db.execute("select number from shards where id = ?", (shard,)).fetchone()
                for table, column in (("rows", "shard"), ("sites", "shard"), ("shards", "number")):
                    if found:
                        db.execute(f"delete from {table} where {column} = ?", found)

    def find(self, keys: Sequence[bytes], sites: Sequence[str]) -> dict[str, dict[bytes, Place]]:
        """For each site where the rows stand that are stored: the newest shard, if several."""
        out: dict[str, dict[bytes, Place]] = {site: {} for site in sites}
        wanted = set(sites)
        with self._reading() as db:
            sites_of: dict[int, list[str]] = {}
            for part in _parts(list(dict.fromkeys(keys))):
                marks = ",".join("?" * len(part))
                for key, number, row, shard in db.execute(
                    "select rows.key, rows.shard, rows.row, shards.id from rows "
                    "join shards on shards.number = rows.shard "
                    f"where rows.key in ({marks}) order by rows.shard",
                    part,
                ):
                    if number not in sites_of:
                        of_shard = db.execute("select site from sites where shard = ?", (number,))
                        sites_of[number] = [site for (site,) in of_shard if site in wanted]
                    for site in sites_of[number]:
                        out[site][key] = Place(shard, row)
        return out

    def claim(self, keys: Sequence[bytes], owner: str) -> list[bytes]:
        """Lease the rows that nobody else computes; returns those that were got."""
        got = []
        with self._transaction() as db:
            for key in keys:
                done = db.execute("insert or ignore into leases values (?, ?)", (key, owner))
                if done.rowcount:
                    got.append(key)
        return got

    def release(self, keys: Sequence[bytes]) -> None:
        with self._transaction() as db:
            db.executemany("delete from leases where key = ?", [(key,) for key in keys])

    def lessees(self, keys: Sequence[bytes]) -> set[str]:
        """Who holds leases on some of these rows."""
        with self._reading() as db:
            return {
                owner
                for part in _parts(list(keys))
                for (owner,) in db.execute(
                    f"select distinct owner from leases where key in ({','.join('?' * len(part))})",
                    part,
                )
            }

    def keep_leases_of(self, alive: Iterable[str]) -> None:
        """Drop the leases of everybody else."""
        living = set(alive)
        with self._transaction() as db:
            holders = [owner for (owner,) in db.execute("select distinct owner from leases")]
            for owner in holders:
                if owner not in living:
                    db.execute("delete from leases where owner = ?", (owner,))

    def note_use(self, times: Mapping[str, tuple[float, int]]) -> None:
        """Enter when shards were last used, and how often since the last time."""
        with self._transaction() as db:
            db.executemany(
                "update shards set used = max(used, ?), hits = hits + ? where id = ?",
                [(used, hits, shard) for shard, (used, hits) in times.items()],
            )

    def total(self) -> int:
        """Bytes of all shards."""
        with self._reading() as db:
            (size,) = db.execute("select coalesce(sum(bytes), 0) from shards").fetchone()
        return int(size)

    def oldest(self, limit: int) -> list[Entry]:
        """The shards whose last use is longest ago."""
        with self._reading() as db:
            found = db.execute(
                "select id, bytes, rows, used from shards order by used limit ?", (limit,)
            )
            return [Entry(*row) for row in found]

    def shards(self, space: str | None = None, site: str | None = None) -> list[str]:
        """Ids of the shards (of a space, at a site), the oldest first."""
        with self._reading() as db:
            found = db.execute(
                "select shards.id from shards where (?1 is null or space = ?1) and (?2 is null or "
                "exists (select 1 from sites where shard = number and site = ?2)) order by number",
                (space, site),
            )
            return [shard for (shard,) in found]

    def select(
        self, statement: str, parameters: Sequence[str | bytes | int] = ()
    ) -> Iterator[list[tuple[Any, ...]]]:
        """The rows that a SELECT finds, some thousand at a time, for questions of other modules."""
        with self._reading() as db:
            found = db.execute(statement, parameters)
            while part := found.fetchmany(_ROWS_AT_ONCE):
                yield part

    def spaces(self) -> list[Space]:
        with self._reading() as db:
            found = db.execute("select described from spaces order by id").fetchall()
        return [Space(**json.loads(described)) for (described,) in found]

    def usage(self) -> list[Usage]:
        """What is stored, by space and site."""
        with self._reading() as db:
            found = db.execute(
                "select spaces.described, sites.site, sum(sites.bytes), count(*), sum(rows), "
                "sum(tokens), min(created), max(used), sum(hits) from sites "
                "join shards on shards.number = sites.shard "
                "join spaces on spaces.id = shards.space "
                "group by spaces.id, sites.site"
            ).fetchall()
        return [Usage(Space(**json.loads(described)), *rest) for described, *rest in found]

    def contents(self) -> dict[str, tuple[object, ...]]:
        """Everything that follows from the sidecars, by shard.

        Returns:
            {shard: (space, content, bytes, rows, tokens, sites, keys)}
        """
        with self._reading() as db:
            sites: dict[int, list[str]] = {}
            for number, site in db.execute("select shard, site from sites order by shard, site"):
                sites.setdefault(number, []).append(site)
            keys: dict[int, list[bytes]] = {}
            for number, key in db.execute("select shard, key from rows order by shard, row"):
                keys.setdefault(number, []).append(key)
            return {
                shard: (*rest, tuple(sites.get(number, ())), tuple(keys.get(number, ())))
                for number, shard, *rest in db.execute(
                    "select number, id, space, content, bytes, rows, tokens from shards"
                )
            }

    def check(self, *, quick: bool = False) -> None:
        """Raises a DamageError if SQLite finds the file damaged.

        Args:
            quick: look at small files only; in larger ones SQLite notices what it comes across.
        """
        if quick and self._path is not None and self._path.stat().st_size > _QUICK:
            return
        with self._reading() as db:
            problems = [text for (text,) in db.execute("pragma integrity_check(1)")]
        if problems != ["ok"]:
            raise DamageError(f"the index is damaged ({problems[0]})")

    def close(self) -> None:
        """Close this thread's connection."""
        connection = getattr(self._local, "connection", None)
        if connection is not None and self._local.pid == os.getpid():
            connection.close()
        self._local = threading.local()

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._errors(), self._lock if self._shared else contextlib.nullcontext():
            yield self._connection()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._errors(), self._lock:
            db = self._connection()
            # Taken at once: a lock that is upgraded later could meet another's and never get on.
            db.execute("begin immediate")
            try:
                yield db
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    db.execute("rollback")
                raise
            db.execute("commit")

    def _connection(self) -> sqlite3.Connection:
        if self._shared is not None:
            self._shared.isolation_level = None
            return self._shared
        local = self._local
        assert self._path is not None
        inode = _inode(self._path)
        # A connection must not be used by a forked child, nor after the file was replaced.
        if getattr(local, "of", None) != (os.getpid(), inode) or inode is None:
            local.connection = sqlite3.connect(self._path, timeout=_WAIT, isolation_level=None)
            local.pid = os.getpid()
            local.of = (local.pid, _inode(self._path))
        connection: sqlite3.Connection = local.connection
        return connection

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            text = str(error)
            if "malformed" in text or "no such" in text:
                raise DamageError(f"the index is damaged ({text})") from error
            if "full" in text:
                text = "there is no space left on the disk; free some, or choose another folder"
            elif "readonly" in text:
                text = "it cannot be written; choose a folder that can be"
            raise StorageError(f"The index '{self._path}' cannot be used: {text}.") from error
        except (sqlite3.Error, ValueError, TypeError, OverflowError) as error:
            # What SQLite does not notice shows when the values are read.
            raise DamageError(f"the index is damaged ({error})") from error


def _add(db: sqlite3.Connection, sidecar: Sidecar, size: int) -> None:
    space = sidecar.space
    described = json.dumps(space.to_dict())
    db.execute("insert or ignore into spaces values (?, ?)", (space.id, described))
    tokens = int(sidecar.lengths.sum())
    done = db.execute(
        "insert or ignore into shards (id, space, content, bytes, rows, tokens, created, used) "
        "values (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            sidecar.id,
            space.id,
            sidecar.content,
            size,
            sidecar.n_rows,
            tokens,
            sidecar.created,
            sidecar.created,
        ),
    )
    if not done.rowcount:
        return
    number = done.lastrowid
    db.executemany(
        "insert into sites values (?, ?, ?)",
        [(number, s.name, tokens * s.numbers * space.itemsize) for s in sidecar.sites],
    )
    db.executemany(
        "insert or ignore into rows values (?, ?, ?)",
        [(key, number, row) for row, key in enumerate(sidecar.row_keys())],
    )


def _parts(values: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), _AT_ONCE):
        yield values[start : start + _AT_ONCE]


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None
