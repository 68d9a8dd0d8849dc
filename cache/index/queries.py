"""The index of a store: which shard holds which row, who computes what, what was used when.

It is a convenience: the sidecars are the truth, and the index can be made anew from them at any
time. SQLite keeps it whole when a process dies.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cache.files import open_regular, storage_errors
from cache.index import tables
from cache.index.database import Database
from cache.keys.space import Space
from cache.locks import StoreLock
from cache.shards.sidecar import Sidecar

__all__ = ["QUICK", "ROWS_AT_ONCE", "Entry", "Index", "Place", "Usage"]

T = TypeVar("T")

_AT_ONCE = 500  # parameters of one statement
ROWS_AT_ONCE = 10_000
"""Rows that `Index.select` gives at once."""
QUICK = 8 << 20
"""Bytes of an index that is compared with itself whenever a store is opened."""
_EXTENT = ("count", "size")


@dataclass(frozen=True)
class Place:
    """Where a row stands."""

    shard: str
    row: int


@dataclass(frozen=True)
class Entry:
    """A shard, and the bytes of its files."""

    shard: str
    bytes: int


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
    """The index in a file, or in memory (for a store that cannot be written).

    Every method raises a DamageError if the file turns out not to be what was written, and a
    StorageError if the system refuses.
    """

    def __init__(self, path: Path | None, lock: StoreLock | None) -> None:
        """Open the index.

        Args:
            lock: of the store; None where nobody else knows the file.
        """
        self._path = path
        # A file that nobody else knows is still empty.
        self._database = Database(path, lock, tables.check_definitions if lock else None)

    @classmethod
    def make(cls, path: Path | None, sidecars: Iterable[tuple[Sidecar, int]]) -> Index:
        """A new index, which nobody else knows yet; an empty file at `path`, or none, becomes it.

        Args:
            sidecars: shards with the bytes of their files.
        """
        if path is not None:
            with storage_errors(path, "written"):
                os.close(open_regular(path, os.O_WRONLY | os.O_CREAT))
        index = cls(path, None)
        with index._database.writing() as db:
            tables.create(db)
            for sidecar, size in sidecars:
                tables.insert(db, sidecar, size)
        return index

    @property
    def inode(self) -> int | None:
        """Which file was used last."""
        return self._database.inode

    # -- rows ---------------------------------------------------------------------------------

    def find(self, keys: Sequence[bytes], sites: Sequence[str]) -> dict[str, dict[bytes, Place]]:
        """For each site where the rows stand that are stored: the newest shard, if several."""
        out: dict[str, dict[bytes, Place]] = {site: {} for site in sites}
        wanted = set(sites)
        with self._database.reading() as db:
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
                    if sites_of[number]:
                        place = Place(tables.as_shard(shard), tables.as_count(row))
                    for site in sites_of[number]:
                        out[site][key] = place
        return out

    def claim(self, keys: Sequence[bytes], holder: str) -> list[bytes]:
        """Lease the rows that nobody else computes; returns those that were got."""
        got = []
        with self._database.writing() as db:
            for key in keys:
                done = db.execute("insert or ignore into leases values (?, ?)", (key, holder))
                if done.rowcount:
                    got.append(key)
        return got

    def release(self, holders: Iterable[str]) -> None:
        """Drop all leases of these holders."""
        with self._database.writing() as db:
            db.executemany("delete from leases where holder = ?", [(name,) for name in holders])

    def holders(self) -> set[str]:
        """Who holds leases."""
        with self._database.reading() as db:
            found = db.execute("select distinct holder from leases")
            return {tables.as_text(holder) for (holder,) in found}

    # -- shards -------------------------------------------------------------------------------

    def add(self, sidecars: Iterable[tuple[Sidecar, int]]) -> None:
        """Enter shards with the bytes of their files; those that are known are left alone."""
        with self._database.writing() as db:
            for sidecar, size in sidecars:
                tables.insert(db, sidecar, size)

    def forget(self, shards: Iterable[str]) -> None:
        with self._database.writing() as db:
            for shard in shards:
                found = db.execute("select number from shards where id = ?", (shard,)).fetchone()
                for table, column in (("rows", "shard"), ("sites", "shard"), ("shards", "number")):
                    if found:
                        db.execute(f"delete from {table} where {column} = ?", found)
            db.execute(
                "delete from spaces where not exists (select 1 from shards where space = spaces.id)"
            )

    def note_use(self, times: Mapping[str, tuple[float, int]]) -> None:
        """Enter when shards were last used, and how often since the last time."""
        with self._database.writing() as db:
            for shard, (time, more) in times.items():
                known = db.execute(
                    "select used, hits from shards where id = ?", (shard,)
                ).fetchone()
                if known:
                    used, hits = max(known[0], time), known[1] + more
                    db.execute(
                        "update shards set used = ?, hits = ?, seal = ? where id = ?",
                        (used, hits, tables.use_seal(shard, used, hits), shard),
                    )

    def total(self) -> int:
        """Bytes of all shards."""
        with self._database.reading() as db:
            (size,) = db.execute("select coalesce(sum(bytes), 0) from shards").fetchone()
        return tables.as_count(size)

    def bytes_of(self, shards: Iterable[str]) -> int:
        """Bytes of these shards, of those that there are."""
        size = 0
        with self._database.reading() as db:
            for part in _parts(list(shards)):
                marks = ",".join("?" * len(part))
                (more,) = db.execute(
                    f"select coalesce(sum(bytes), 0) from shards where id in ({marks})", part
                ).fetchone()
                size += tables.as_count(more)
        return size

    def oldest(self, limit: int) -> list[Entry]:
        """The shards whose last use is longest ago."""
        with self._database.reading() as db:
            found = db.execute(
                "select id, bytes from shards order by used, number limit ?", (limit,)
            )
            return [Entry(tables.as_shard(shard), tables.as_count(size)) for shard, size in found]

    def shards(self, space: str | None = None) -> list[str]:
        """Ids of the shards (of a space), the oldest first."""
        with self._database.reading() as db:
            found = db.execute(
                "select id from shards where ?1 is null or space = ?1 order by number", (space,)
            )
            return [tables.as_shard(shard) for (shard,) in found]

    def select(
        self, statement: str, parameters: Sequence[str | bytes | int] = ()
    ) -> Iterator[list[tuple[Any, ...]]]:
        """The rows that a SELECT finds, some thousand at a time, for questions of other modules."""
        yield from self._database.pages(statement, parameters, ROWS_AT_ONCE)

    def spaces(self) -> list[Space]:
        with self._database.reading() as db:
            found = db.execute("select described from spaces order by id").fetchall()
            return [tables.as_space(described) for (described,) in found]

    def usage(self) -> list[Usage]:
        """What is stored, by space and site."""
        with self._database.reading() as db:
            found = db.execute(
                "select spaces.described, sites.site, sum(sites.bytes), count(*), sum(rows), "
                "sum(tokens), min(created), max(used), sum(hits) from sites "
                "join shards on shards.number = sites.shard "
                "join spaces on spaces.id = shards.space "
                "group by spaces.id, sites.site"
            ).fetchall()
        return [
            Usage(
                space=tables.as_space(described),
                site=tables.as_text(site),
                bytes=tables.as_count(size),
                shards=shards,
                rows=tables.as_count(rows),
                tokens=tables.as_count(tokens),
                created=tables.as_time(created),
                used=tables.as_time(used),
                hits=tables.as_count(hits),
            )
            for described, site, size, shards, rows, tokens, created, used, hits in found
        ]

    # -- checks -------------------------------------------------------------------------------

    def describe(self, shard: str) -> tuple[Space, tables.Described] | None:
        """What the index says of a shard, if it knows it."""
        with self._database.reading() as db:
            described = tables.lookup(db, shard)
            if described is None:
                return None
            (text,) = db.execute(
                "select described from spaces where id = ?", described.shard[1:2]
            ).fetchone()
            return tables.as_space(text), described

    def disagrees(self, sidecar: Sidecar, size: int) -> bool:
        """Whether it knows a shard, and says something else of it than the sidecar."""
        with self._database.reading() as db:
            return tables.lookup(db, sidecar.id) not in (None, tables.describe(sidecar, size))

    def check(self) -> None:
        """Compare the file with itself."""
        with self._database.reading() as db:
            tables.check(db)

    def check_quickly(self) -> None:
        """As `check` where the file is small; in a larger one SQLite sees what it comes across."""
        with self._database.reading() as db:
            ((pages,), (size,)) = (db.execute(f"pragma page_{of}").fetchone() for of in _EXTENT)
            if pages * size <= QUICK:
                tables.check(db)
            else:
                tables.check_definitions(db)

    def refresh(self) -> None:
        """Write something, upon which SQLite removes what a killed process left of its journal."""
        with self._database.writing() as db:
            tables.mark(db)

    def close(self) -> None:
        """Close the file; it is opened again when it is used."""
        self._database.close()


def _parts(values: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), _AT_ONCE):
        yield values[start : start + _AT_ONCE]
