"""Read tokens by their numbers in a plan: many at once, shard by shard, or a single one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from cache.shards.layout import TOKENS
from cache.shards.reader import ShardReader
from cache.training.block import Block, TokenInfo
from cache.training.plan import Numbers, Plan, Row, reading

__all__ = ["TokenReader"]

V = TypeVar("V")

# Files that are open at once, and shards whose tables of rows are in memory.
_OPEN = 64


class TokenReader:
    """Reads a plan's tokens, and where they stand if `info`. Each process needs its own."""

    def __init__(self, plan: Plan, *, info: bool = False) -> None:
        self.plan = plan
        self._info = info
        self._readers = _Recent[ShardReader](_OPEN)
        self._tables = _Recent[_RowTable](_OPEN)

    def empty(self, n_tokens: int) -> Block:
        """Memory to read into."""
        return Block.empty(self.plan, n_tokens, self._info)

    def read(self, tokens: Numbers, out: Block) -> None:
        """Read tokens whose numbers do not descend.

        Raises:
            DamageError: what they stand in is damaged.
            GoneError: it was evicted meanwhile.
        """
        of_shard = np.searchsorted(self.plan.bounds, tokens, "right") - 1
        shards, begins = np.unique(of_shard, return_index=True)
        cuts = np.append(begins, len(tokens)).tolist()
        for shard, begin, end in zip(shards.tolist(), cuts[:-1], cuts[1:], strict=True):
            of_this = tokens[begin:end] - self.plan.bounds[shard]
            self._table(shard).read(of_this, out.part(begin, end))

    def read_one(self, token: int) -> Block:
        """One token, without an axis for it; raises what `read` does."""
        shard = int(self.plan.bounds.searchsorted(token, "right")) - 1
        return self._table(shard).read_one(token - int(self.plan.bounds[shard]), self._info)

    def rows(self) -> Iterator[Row]:
        """The rows that are used, in the order of their tokens."""
        for shard in self.plan.used.tolist():
            yield from self._table(shard).described()

    def _table(self, shard: int) -> _RowTable:
        return self._tables.get(shard, lambda: _RowTable(self.plan, shard, self._reader))

    def _reader(self, shard: int) -> ShardReader:
        def opened() -> ShardReader:
            # What was evicted meanwhile takes room on the disk for as long as it is open.
            self._readers.drop(lambda reader: reader.evicted)
            self._tables.drop(lambda table: table.evicted)
            return self.plan.reader(shard)

        return self._readers.get(shard, opened)


class _RowTable:
    """The rows of one shard that are used. Tokens are numbered from its first one on."""

    def __init__(self, plan: Plan, shard: int, reader: Callable[[int], ShardReader]) -> None:
        """
        Args:
            reader: opens the plan's shards.

        Raises:
            DamageError: the shard is damaged, or not what the index says.
            GoneError: it was evicted meanwhile.
        """
        self._plan = plan
        own = reader(shard)
        sidecar = own.sidecar
        self._rows = plan.chosen.get(shard, np.arange(sidecar.n_rows))
        first = int(plan.first_row[shard])
        self._numbers = plan.numbers.get(shard, np.arange(first, first + len(self._rows)))
        self._first, counts = plan.positions.ranges(sidecar.lengths[self._rows])
        # How many tokens come before those of each row, and in all.
        self._before = np.concatenate([[0], np.cumsum(counts)])
        if len(self._rows) != plan.rows[shard] or self._before[-1] != plan.tokens[shard]:
            raise plan.index_error(shard)
        self._own = _OpenShard(own, sidecar.offsets[self._rows])
        self._sites = _sites_read(plan, shard, own)
        self._elsewhere = {
            site.name: self._others(shard, number, reader)
            for number, site in enumerate(plan.sites)
            if site.name not in self._sites
        }

    @property
    def evicted(self) -> bool:
        """Whether one of its files has no name any more."""
        others = (other for _, found in self._elsewhere.values() for other in found)
        return any(shard.reader.evicted for shard in (self._own, *others))

    def described(self) -> Iterator[Row]:
        reader = self._own.reader
        used = np.diff(self._before) > 0
        for number, row in zip(
            self._numbers[used].tolist(), self._rows[used].tolist(), strict=True
        ):
            with reading(self._plan.root, reader.sidecar.id):
                ids = reader.ids(row)
            yield Row(number, reader.sidecar.key(row), ids)

    def read(self, tokens: Numbers, out: Block) -> None:
        """Read tokens that do not descend."""
        row = np.searchsorted(self._before, tokens, "right") - 1
        position = self._first[row] + self._plan.positions.step * (tokens - self._before[row])
        for site in self._sites:
            self._own.take(self._plan, site, row, position, out.values[site])
        for site, (of_row, shards) in self._elsewhere.items():
            of_token = of_row[row]
            for number in np.unique(of_token).tolist():
                here = np.flatnonzero(of_token == number)
                part = torch.empty_like(out.values[site][: len(here)])
                shards[number].take(self._plan, site, row[here], position[here], part)
                out.values[site][torch.from_numpy(here)] = part
        if out.info is None:
            return
        ids = torch.empty(len(tokens), dtype=torch.int32)
        self._own.take(self._plan, TOKENS, row, position, ids)
        out.info.row.copy_(torch.from_numpy(self._numbers[row]))
        out.info.position.copy_(torch.from_numpy(position))
        out.info.token.copy_(ids)

    def read_one(self, token: int, info: bool) -> Block:
        """One token, without an axis for it."""
        row = int(self._before.searchsorted(token, "right")) - 1
        step = self._plan.positions.step
        position = int(self._first[row]) + step * (token - int(self._before[row]))
        values = {}
        for site in self._plan.sites:
            shard = self._own
            if site.name in self._elsewhere:
                of_row, shards = self._elsewhere[site.name]
                shard = shards[int(of_row[row])]
            values[site.name] = shard.vector(self._plan, site.name, row, position)
        if not info:
            return Block(values, None)
        token_id = self._own.vector(self._plan, TOKENS, row, position).item()
        where: list[Any] = [int(self._numbers[row]), position, token_id]
        return Block(values, TokenInfo(*where))

    def _others(
        self, shard: int, site: int, reader: Callable[[int], ShardReader]
    ) -> tuple[Numbers, list[_OpenShard]]:
        """For a site that this shard lacks: which other has each row [row], and the others."""
        others = self._plan.others
        begin, end = np.searchsorted(others["shard"], [shard, shard + 1])
        found = others[begin:end]
        found = found[self._plan.holds[found["other"], site]]
        # Of several the first in the order of the plan.
        rows, at = np.unique(found["row"], return_index=True)
        place = np.minimum(np.searchsorted(rows, self._rows), len(rows) - 1)
        if not len(rows) or (rows[place] != self._rows).any():
            raise self._plan.index_error(shard)
        found = found[at[place]]
        numbers, of_row = np.unique(found["other"], return_inverse=True)
        opened = []
        keys = np.frombuffer(self._own.reader.sidecar.keys, dtype="V16")[self._rows]
        for number, other in enumerate(numbers.tolist()):
            there = reader(other)
            _sites_read(self._plan, other, there)
            # What this one has not gets no place in it, and is not looked for.
            mine = of_row == number
            row = np.where(mine, found["other_row"], 0)
            of_other = np.frombuffer(there.sidecar.keys, dtype="V16")
            if row.max() >= len(of_other) or (of_other[row] != keys)[mine].any():
                raise self._plan.index_error(other)
            opened.append(_OpenShard(there, there.sidecar.offsets[row]))
        return of_row, opened


class _OpenShard(NamedTuple):
    """A shard, and where a table's rows begin in it, in tokens [row]."""

    reader: ShardReader
    begins: Numbers

    def take(self, plan: Plan, site: str, row: Numbers, position: Numbers, out: Tensor) -> None:
        with reading(plan.root, self.reader.sidecar.id):
            self.reader.take(site, self.begins[row] + position, out)

    def vector(self, plan: Plan, site: str, row: int, position: int) -> Tensor:
        with reading(plan.root, self.reader.sidecar.id):
            return self.reader.vector(site, int(self.begins[row]) + position)


def _sites_read(plan: Plan, shard: int, reader: ShardReader) -> list[str]:
    """The sites that are read from a shard; it must have them as the plan says."""
    found = {site.name: site for site in reader.sidecar.sites}
    wanted = [site for site, held in zip(plan.sites, plan.holds[shard], strict=True) if held]
    if any(found.get(site.name) != site for site in wanted):
        raise plan.index_error(shard)
    return [site.name for site in wanted]


class _Recent(Generic[V]):
    """The values that were used last, by number."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: OrderedDict[int, V] = OrderedDict()

    def get(self, number: int, make: Callable[[], V]) -> V:
        value = self._values.pop(number, None)
        if value is None:
            value = make()
        self._values[number] = value
        while len(self._values) > self._most:
            self._values.popitem(last=False)
        return value

    def drop(self, superfluous: Callable[[V], bool]) -> None:
        for number in [number for number, value in self._values.items() if superfluous(value)]:
            self._values.pop(number, None)
