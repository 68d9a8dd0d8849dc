"""Where a store's rows stand: what the index knows of a space's shards, as arrays.

Written for many shards and rows: nothing here holds an object for each of them, and the rows of a
store whose shards have them all once are counted by SQLite alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cache.errors import DamageError
from cache.index.queries import Index
from cache.index.tables import as_count, as_key, as_shard
from cache.keys.space import Space
from cache.training.plan import Numbers

__all__ = ["Places", "Shards", "find_places", "find_shards"]

_KEYS_AT_ONCE = 500
_OF_SPACE = (
    "select number from shards where space = ? and exists "
    "(select 1 from sites where shard = number and site in ({sites}))"
)


@dataclass(frozen=True, eq=False)
class Shards:
    """The shards that have some of the sites, in the order of the plan."""

    numbers: Numbers
    ids: npt.NDArray[np.bytes_]
    contents: npt.NDArray[np.void]
    rows: Numbers
    tokens: Numbers
    holds: npt.NDArray[np.bool_]

    def at(self, numbers: Numbers) -> Numbers:
        """Where shards stand here that the index knows by these numbers; -1 for new ones."""
        order = np.argsort(self.numbers)
        found = np.searchsorted(self.numbers, numbers, sorter=order)
        place = order[np.minimum(found, len(order) - 1)]
        return np.where(self.numbers[place] == numbers, place, -1)


@dataclass(frozen=True, eq=False)
class Places:
    """Rows in shards; those of one key stand together, the first shard of the plan first.

    Attributes:
        keys: of the rows [place].
        shard: in the order of the plan [place].
        row: of the shard [place].
        begins: where another key begins, and the end.
    """

    keys: npt.NDArray[np.void]
    shard: Numbers
    row: Numbers
    begins: Numbers


def find_shards(index: Index, space: Space, sites: Sequence[str]) -> Shards:
    """The shards of a space that have some of `sites`."""
    of_space = _OF_SPACE.format(sites=",".join("?" * len(sites)))
    entries: list[npt.NDArray[np.void]] = []
    kind = np.dtype(
        [("number", "<i8"), ("id", "S23"), ("content", "V16"), ("rows", "<i8"), ("tokens", "<i8")]
    )
    for part in index.select(
        f"select number, id, content, rows, tokens from shards where number in ({of_space})",
        [space.id, *sites],
    ):
        entries.append(np.array([_entry(*entry) for entry in part], dtype=kind))
    found = np.concatenate([np.empty(0, dtype=kind), *entries])
    found.sort(order="number")
    holds = np.zeros((len(found), len(sites)), dtype=np.bool_)
    place = {site: number for number, site in enumerate(sites)}
    for part in index.select(
        f"select shard, site from sites where shard in ({of_space})", [space.id, *sites]
    ):
        wanted = [(as_count(number), place[site]) for number, site in part if site in place]
        if wanted and len(found):
            number, site = np.array(wanted).T
            at = np.minimum(np.searchsorted(found["number"], number), len(found) - 1)
            known = found["number"][at] == number
            holds[at[known], site[known]] = True
    content = np.ascontiguousarray(found["content"]).view(">u8").reshape(-1, 2)
    order = np.lexsort((found["id"], *holds.T, content[:, 1], content[:, 0], -holds.sum(axis=1)))
    found, holds = found[order], holds[order]
    return Shards(
        found["number"], found["id"], found["content"], found["rows"], found["tokens"], holds
    )


def _entry(
    number: object, shard: object, content: object, rows: object, tokens: object
) -> tuple[int, bytes, bytes, int, int]:
    n_rows, n_tokens = as_count(rows), as_count(tokens)
    # A row has a token at least. How many there can be at most, the largest shard's file tells.
    if n_rows > n_tokens:
        raise DamageError("the index is damaged (there are more rows than tokens)")
    return as_count(number), as_shard(shard).encode(), as_key(content), n_rows, n_tokens


def find_places(
    index: Index, shards: Shards, space: Space, sites: Sequence[str], keys: Sequence[bytes] | None
) -> Places:
    """Where `keys` stand (each named once), or all rows that stand in several shards or in parts.

    What is left out if `keys` are: the rows that one shard alone has, at all sites.
    """
    if keys is not None:
        return _gathered(shards, _rows_of(index, keys))
    names = [space.id, *sites]
    # The plus keeps SQLite from using another index, after which it would have to sort.
    of_space = f"+shard in ({_OF_SPACE.format(sites=','.join('?' * len(sites)))})"
    listed = f"select key, shard, row from rows where {of_space}"
    if not shards.holds.all():
        return _gathered(shards, index.select(f"{listed} order by key", names))
    several = f"select key from rows where {of_space} group by key having count(*) > 1"
    return _gathered(
        shards, index.select(f"{listed} and key in ({several}) order by key", [*names, *names])
    )


def _rows_of(index: Index, keys: Sequence[bytes]) -> Iterator[list[tuple[bytes, int, int]]]:
    for begin in range(0, len(keys), _KEYS_AT_ONCE):
        part = keys[begin : begin + _KEYS_AT_ONCE]
        marks = ",".join("?" * len(part))
        yield from index.select(
            f"select key, shard, row from rows where key in ({marks}) order by key", part
        )


def _gathered(shards: Shards, found: Iterator[list[tuple[bytes, int, int]]]) -> Places:
    keys, standing, rows = [b""], [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
    for part in found:
        keys.append(b"".join(as_key(key) for key, _, _ in part))
        numbers = np.array([(as_count(n), as_count(row)) for _, n, row in part], dtype=np.int64)
        standing.append(shards.at(numbers[:, 0]))
        rows.append(numbers[:, 1])
    shard, row = np.concatenate(standing), np.concatenate(rows)
    words = np.frombuffer(b"".join(keys), dtype="<u8").reshape(-1, 2)
    # Shards of other sites do not count, nor those that came since the first look.
    words, shard, row = words[shard >= 0], shard[shard >= 0], row[shard >= 0]
    fresh = np.ones(len(words), dtype=np.bool_)
    fresh[1:] = (words[1:] != words[:-1]).any(axis=1)
    order = np.lexsort((shard, np.cumsum(fresh)))
    begins = np.append(np.flatnonzero(fresh), len(fresh))
    return Places(words[order].view("V16")[:, 0], shard[order], row[order], begins)
