"""The tables of the index, and what a sidecar puts into them."""

from __future__ import annotations

import functools
import json
import sqlite3
import struct
from dataclasses import dataclass

import xxhash

from cache.errors import DamageError
from cache.sidecar import Sidecar

__all__ = [
    "Described",
    "check",
    "check_definitions",
    "create",
    "describe",
    "insert",
    "lookup",
    "mark",
    "use_seal",
]

# Marks the file as an index of ours.
_APPLICATION = 0x4F627672
_VERSION = 3
_TABLES = """
create table spaces (
    id text primary key, described text not null, seal integer not null) without rowid;
create table shards (
    number integer primary key, id text not null unique, space text not null,
    content blob not null, bytes integer not null, rows integer not null, tokens integer not null,
    created real not null, used real not null, hits integer not null, seal integer not null);
create index shards_by_use on shards (used, bytes);
create index shards_by_space on shards (space);
create table sites (
    shard integer not null, site text not null, bytes integer not null,
    primary key (shard, site)) without rowid;
create table rows (
    key blob not null, shard integer not null, row integer not null,
    primary key (key, shard)) without rowid;
create index rows_by_shard on rows (shard);
create table leases (key blob primary key, holder text not null) without rowid;
create index leases_by_holder on leases (holder);
"""
# (table, column, what it names, by which column of that)
_LINKS = (
    ("sites", "shard", "shards", "number"),
    ("rows", "shard", "shards", "number"),
    ("shards", "space", "spaces", "id"),
)


@dataclass(frozen=True)
class Described:
    """What the index holds of a shard, besides its use.

    Attributes:
        shard: (id, space, content, bytes, rows, tokens, created)
        sites: (name, bytes) of each, by name.
        rows: (key, row) of each, in order.
    """

    shard: tuple[object, ...]
    sites: tuple[tuple[str, int], ...]
    rows: tuple[tuple[bytes, int], ...]


def create(db: sqlite3.Connection) -> None:
    """Make the tables in an empty file."""
    for statement in _TABLES.split(";"):
        db.execute(statement)
    mark(db)


def mark(db: sqlite3.Connection) -> None:
    """Say in the file's first bytes what it is."""
    db.execute(f"pragma application_id = {_APPLICATION}")
    db.execute(f"pragma user_version = {_VERSION}")


def describe(sidecar: Sidecar, size: int) -> Described:
    """What a sidecar says, with the bytes of both files."""
    space, tokens = sidecar.space, int(sidecar.lengths.sum())
    counts = (size, sidecar.n_rows, tokens, sidecar.created)
    sites = ((s.name, tokens * s.numbers * space.itemsize) for s in sidecar.sites)
    return Described(
        (sidecar.id, space.id, sidecar.content, *counts),
        tuple(sorted(sites)),
        tuple((key, row) for row, key in enumerate(sidecar.row_keys())),
    )


def insert(db: sqlite3.Connection, sidecar: Sidecar, size: int) -> None:
    """Enter a shard, unless it is known."""
    described = describe(sidecar, size)
    done = db.execute(
        "insert or ignore into shards (id, space, content, bytes, rows, tokens, created, used, "
        "hits, seal) values (?, ?, ?, ?, ?, ?, ?, ?, 0, ?)",
        (*described.shard, sidecar.created, use_seal(sidecar.id, sidecar.created, 0)),
    )
    if not done.rowcount:
        return
    text = json.dumps(sidecar.space.to_dict())
    db.execute(
        "insert or ignore into spaces values (?, ?, ?)",
        (sidecar.space.id, text, _seal(sidecar.space.id, text)),
    )
    number = done.lastrowid
    db.executemany(
        "insert into sites values (?, ?, ?)", [(number, *site) for site in described.sites]
    )
    db.executemany(
        "insert into rows values (?, ?, ?)", [(key, number, row) for key, row in described.rows]
    )


def lookup(db: sqlite3.Connection, shard: str) -> Described | None:
    """What the index says of a shard, if it knows it."""
    found = db.execute(
        "select number, id, space, content, bytes, rows, tokens, created from shards where id = ?",
        (shard,),
    ).fetchone()
    if found is None:
        return None
    sites = db.execute(
        "select site, bytes from sites where shard = ? order by site", found[:1]
    ).fetchall()
    rows = db.execute(
        "select key, row from rows where shard = ? order by row", found[:1]
    ).fetchall()
    return Described(tuple(found[1:]), tuple(sites), tuple(rows))


def _seal(*values: object) -> int:
    """A checksum for a column, of what cannot be found out from the sidecars."""
    packed = b"".join(
        struct.pack("<d", value) if isinstance(value, float) else f"{value}\0".encode()
        for value in values
    )
    return xxhash.xxh3_64_intdigest(packed) >> 1


def use_seal(shard: str, used: float, hits: int) -> int:
    """The seal of when and how often a shard was used."""
    return _seal(shard, used, hits)


def check(db: sqlite3.Connection) -> None:
    """Compare the file with itself: structure, definitions, links between tables, and seals.

    Raises:
        DamageError: something does not fit.
    """
    problems = [text for (text,) in db.execute("pragma integrity_check(1)")]
    if problems != ["ok"]:
        raise DamageError(f"the index is damaged ({problems[0]})")
    check_definitions(db)
    for table, key, of, column in _LINKS:
        strays = db.execute(
            f"select exists (select 1 from {table} where {key} not in (select {column} from {of}))"
        )
        if strays.fetchone() != (0,):
            raise DamageError(f"the index has {table} that belong to none of its {of}")
    for found, *values in db.execute("select seal, id, described from spaces"):
        if found != _seal(*values):
            raise DamageError("the index misnames a model")
    for found, *values in db.execute("select seal, id, used, hits from shards"):
        if found != use_seal(*values):
            raise DamageError(f"the index is wrong about the use of shard {values[0]}")


def check_definitions(db: sqlite3.Connection) -> None:
    """Raises a DamageError if this is no index of ours, or of another version."""
    if _definitions(db) != _right_definitions():
        raise DamageError("it is no index of this version")


def _definitions(db: sqlite3.Connection) -> list[tuple[object, ...]]:
    names = ("application_id", "user_version", "encoding", "auto_vacuum", "journal_mode")
    settings = [tuple(db.execute(f"pragma {name}").fetchone()) for name in names]
    if settings[-1] == ("memory",):  # which a file never has
        settings[-1] = ("delete",)
    tables = db.execute("select type, name, tbl_name, sql from sqlite_master order by name, type")
    return [*settings, *tables.fetchall()]


@functools.cache
def _right_definitions() -> list[tuple[object, ...]]:
    with sqlite3.connect(":memory:", isolation_level=None) as db:
        create(db)
        found = _definitions(db)
    db.close()
    return found
