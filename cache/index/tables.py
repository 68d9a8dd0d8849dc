"""The tables of the index, and what a sidecar puts into them."""

from __future__ import annotations

import functools
import json
import sqlite3
import struct
from dataclasses import dataclass
from typing import cast

import xxhash

from cache.errors import DamageError
from cache.keys.space import KEY, Space
from cache.shards.sidecar import Sidecar, is_shard, read_space

__all__ = [
    "Described",
    "as_count",
    "as_key",
    "as_shard",
    "as_space",
    "as_text",
    "as_time",
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


def as_shard(value: object) -> str:
    """A value that was read, if it is the id of a shard: as a part of a path it leads nowhere else.

    Raises:
        DamageError: it is not, as for those below.
    """
    if not (isinstance(value, str) and is_shard(value)):
        raise DamageError("the index is damaged (a shard has no name)")
    return value


def as_count(value: object) -> int:
    """A value that was read, if it is a number of things or a place among them."""
    if type(value) is not int or value < 0:
        raise DamageError("the index is damaged (a number is no number)")
    return value


def as_time(value: object) -> float:
    """A value that was read, if it is seconds since 1970."""
    if type(value) not in (float, int):
        raise DamageError("the index is damaged (a time is no time)")
    return cast("float", value)


def as_text(value: object) -> str:
    """A value that was read, if it is a text."""
    if not isinstance(value, str):
        raise DamageError("the index is damaged (a text is no text)")
    return value


def as_key(value: object) -> bytes:
    """A value that was read, if it is the key of a row."""
    if not isinstance(value, bytes) or len(value) != KEY:
        raise DamageError("the index is damaged (a key is no key)")
    return value


def as_space(described: object) -> Space:
    """A space from the text that describes it."""
    try:
        return read_space(json.loads(as_text(described)))
    except (ValueError, RecursionError) as error:
        raise DamageError("the index misnames a model") from error


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
    # First, since SQLite may work out what is defined in a file when it looks at it.
    check_definitions(db)
    problems = [text for (text,) in db.execute("pragma integrity_check(1)")]
    if problems != ["ok"]:
        raise DamageError(f"the index is damaged ({problems[0]})")
    for table, columns in _types().items():
        wrong = " or ".join(f"typeof({name}) != '{kind}'" for name, kind in columns.items())
        if db.execute(f"select exists (select 1 from {table} where {wrong})").fetchone() != (0,):
            raise DamageError(f"the index has {table} of the wrong type")
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
def _types() -> dict[str, dict[str, str]]:
    """The type of each column, {table: {column: type}}; SQLite itself takes any."""
    with sqlite3.connect(":memory:", isolation_level=None) as db:
        create(db)
        names = [
            name for (name,) in db.execute("select name from sqlite_master where type='table'")
        ]
        found = {
            name: {
                column[1]: column[2].lower() for column in db.execute(f"pragma table_info({name})")
            }
            for name in names
        }
    db.close()
    return found


@functools.cache
def _right_definitions() -> list[tuple[object, ...]]:
    with sqlite3.connect(":memory:", isolation_level=None) as db:
        create(db)
        found = _definitions(db)
    db.close()
    return found
