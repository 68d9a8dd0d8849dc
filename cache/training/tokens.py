"""Read tokens by their numbers in a plan: many at once, shard by shard, or a single one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import numpy as np

from cache.shards.reader import ShardReader
from cache.training.block import Block
from cache.training.opening import open_shard
from cache.training.plan import Numbers, Plan, Row
from cache.training.rows import RowTable

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
        self._tables = _Recent[RowTable](_OPEN)

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

    def _table(self, shard: int) -> RowTable:
        return self._tables.get(shard, lambda: RowTable(self.plan, shard, self._reader))

    def _reader(self, shard: int) -> ShardReader:
        def opened() -> ShardReader:
            # What was evicted meanwhile takes room on the disk for as long as it is open.
            self._readers.drop(lambda reader: reader.evicted)
            self._tables.drop(lambda table: table.evicted)
            return open_shard(self.plan, shard)

        return self._readers.get(shard, opened)


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
