"""Read tokens by their numbers in a plan: many at once, shard by shard, or a single one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from cache.layout import TOKENS
from cache.opening import index_error, open_shard, opening
from cache.plan import Numbers, Plan, Row
from cache.reader import ShardReader

__all__ = ["TokenInfo", "TokenReader"]

V = TypeVar("V")

# Files that are open at once, and shards whose tables of rows are in memory.
_OPEN = 64


class TokenInfo(NamedTuple):
    """Where tokens stand.

    Attributes:
        row: the numbers of their rows [token].
        position: in their rows, from 0 [token].
        token: their ids [token].
    """

    row: Tensor
    position: Tensor
    token: Tensor

    @classmethod
    def empty(cls, n_tokens: int) -> TokenInfo:
        return cls(*torch.empty(3, n_tokens, dtype=torch.int64))

    def part(self, chosen: slice | Tensor) -> TokenInfo:
        return TokenInfo(*(values[chosen] for values in self))


class TokenReader:
    """Reads a plan's tokens, and where they stand if `info`. Each process needs its own."""

    def __init__(self, plan: Plan, *, info: bool = False) -> None:
        self.plan = plan
        self._info = info
        self._readers = _Recent[ShardReader](_OPEN)
        self._tables = _Recent[_Table](_OPEN)

    def read(self, tokens: Numbers) -> tuple[dict[str, Tensor], TokenInfo | None]:
        """The activations {site: [token, *width]} of tokens whose numbers do not descend.

        Raises:
            DamageError: what they stand in is damaged.
            GoneError: it was evicted meanwhile.
        """
        plan = self.plan
        dtype = plan.space.torch_dtype
        values = {s.name: torch.empty(len(tokens), *s.width, dtype=dtype) for s in plan.sites}
        info = TokenInfo.empty(len(tokens)) if self._info else None
        of_shard = np.searchsorted(plan.bounds, tokens, "right") - 1
        shards, begins = np.unique(of_shard, return_index=True)
        cuts = np.append(begins, len(tokens)).tolist()
        for shard, begin, end in zip(shards.tolist(), cuts[:-1], cuts[1:], strict=True):
            self._table(shard).read(
                tokens[begin:end] - plan.bounds[shard],
                {site: tensor[begin:end] for site, tensor in values.items()},
                info and info.part(slice(begin, end)),
            )
        return values, info

    def read_one(self, token: int) -> tuple[dict[str, Tensor], TokenInfo | None]:
        """The activations {site: [*width]} of one token; raises what `read` does."""
        shard = int(self.plan.bounds.searchsorted(token, "right")) - 1
        return self._table(shard).read_one(token - int(self.plan.bounds[shard]), self._info)

    def rows(self) -> Iterator[Row]:
        """The rows that are used, in the order of their tokens."""
        for shard in self.plan.used.tolist():
            yield from self._table(shard).described()

    def _table(self, shard: int) -> _Table:
        return self._tables.get(shard, lambda: _Table(self.plan, shard, self._reader))

    def _reader(self, shard: int) -> ShardReader:
        def opened() -> ShardReader:
            # What was evicted meanwhile takes room on the disk for as long as it is open.
            self._readers.drop(lambda reader: reader.evicted)
            self._tables.drop(lambda table: table.evicted)
            return open_shard(self.plan, shard)

        return self._readers.get(shard, opened)


class _Table:
    """Where the tokens of one shard stand, in it and in the shards that have its other sites."""

    def __init__(self, plan: Plan, shard: int, reader: Callable[[int], ShardReader]) -> None:
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
            raise index_error(plan, shard)
        self._own = _Source(own, sidecar.offsets[self._rows])
        self._sites = _held(plan, shard, own)
        self._elsewhere = {
            site.name: self._others(shard, number, reader)
            for number, site in enumerate(plan.sites)
            if site.name not in self._sites
        }

    @property
    def evicted(self) -> bool:
        """Whether one of its files has no name any more."""
        others = (source for _, found in self._elsewhere.values() for source in found)
        return any(source.reader.evicted for source in (self._own, *others))

    def described(self) -> Iterator[Row]:
        reader = self._own.reader
        used = np.diff(self._before) > 0
        for number, row in zip(
            self._numbers[used].tolist(), self._rows[used].tolist(), strict=True
        ):
            with opening(self._plan.root, reader.sidecar.id):
                ids = reader.ids(row)
            yield Row(number, reader.sidecar.key(row), ids)

    def read(self, tokens: Numbers, values: Mapping[str, Tensor], info: TokenInfo | None) -> None:
        """Read tokens of this shard, which do not descend, into `values` and `info`."""
        row = np.searchsorted(self._before, tokens, "right") - 1
        position = self._first[row] + self._plan.positions.step * (tokens - self._before[row])
        for site in self._sites:
            self._own.take(self._plan, site, row, position, values[site])
        for site, (of_row, sources) in self._elsewhere.items():
            of_token = of_row[row]
            for number in np.unique(of_token).tolist():
                here = np.flatnonzero(of_token == number)
                part = torch.empty_like(values[site][: len(here)])
                sources[number].take(self._plan, site, row[here], position[here], part)
                values[site][torch.from_numpy(here)] = part
        if info is None:
            return
        ids = torch.empty(len(tokens), dtype=torch.int32)
        self._own.take(self._plan, TOKENS, row, position, ids)
        info.row.copy_(torch.from_numpy(self._numbers[row]))
        info.position.copy_(torch.from_numpy(position))
        info.token.copy_(ids)

    def read_one(self, token: int, with_info: bool) -> tuple[dict[str, Tensor], TokenInfo | None]:
        row = int(self._before.searchsorted(token, "right")) - 1
        step = self._plan.positions.step
        position = int(self._first[row]) + step * (token - int(self._before[row]))
        values = {}
        for site in self._plan.sites:
            source = self._own
            if site.name in self._elsewhere:
                of_row, sources = self._elsewhere[site.name]
                source = sources[int(of_row[row])]
            values[site.name] = source.vector(self._plan, site.name, row, position)
        if not with_info:
            return values, None
        token_id = self._own.vector(self._plan, TOKENS, row, position)
        info = TokenInfo(torch.tensor(self._numbers[row]), torch.tensor(position), token_id.long())
        return values, info

    def _others(
        self, shard: int, site: int, reader: Callable[[int], ShardReader]
    ) -> tuple[Numbers, list[_Source]]:
        """For a site that this shard lacks: which source has each row [row], and the sources."""
        others = self._plan.others
        begin, end = np.searchsorted(others["shard"], [shard, shard + 1])
        found = others[begin:end]
        found = found[self._plan.holds[found["other"], site]]
        # Of several the first in the order of the plan.
        rows, at = np.unique(found["row"], return_index=True)
        place = np.minimum(np.searchsorted(rows, self._rows), len(rows) - 1)
        if not len(rows) or (rows[place] != self._rows).any():
            raise index_error(self._plan, shard)
        found = found[at[place]]
        shards, of_row = np.unique(found["other"], return_inverse=True)
        sources = []
        keys = np.frombuffer(self._own.reader.sidecar.keys, dtype="V16")[self._rows]
        for number, other in enumerate(shards.tolist()):
            source = reader(other)
            _held(self._plan, other, source)
            # What this one has not gets no place in it, and is not looked for.
            mine = of_row == number
            row = np.where(mine, found["other_row"], 0)
            of_other = np.frombuffer(source.sidecar.keys, dtype="V16")
            if row.max() >= len(of_other) or (of_other[row] != keys)[mine].any():
                raise index_error(self._plan, other)
            sources.append(_Source(source, source.sidecar.offsets[row]))
        return of_row, sources


class _Source(NamedTuple):
    """A shard, and where a table's rows begin in it, in tokens [row]."""

    reader: ShardReader
    begins: Numbers

    def take(self, plan: Plan, site: str, row: Numbers, position: Numbers, out: Tensor) -> None:
        with opening(plan.root, self.reader.sidecar.id):
            self.reader.take(site, self.begins[row] + position, out)

    def vector(self, plan: Plan, site: str, row: int, position: int) -> Tensor:
        with opening(plan.root, self.reader.sidecar.id):
            return self.reader.vector(site, int(self.begins[row]) + position)


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


def _held(plan: Plan, shard: int, reader: ShardReader) -> list[str]:
    """The sites that are read from a shard; it must have them as the plan says."""
    found = {site.name: site for site in reader.sidecar.sites}
    wanted = [site for site, held in zip(plan.sites, plan.holds[shard], strict=True) if held]
    if any(found.get(site.name) != site for site in wanted):
        raise index_error(plan, shard)
    return [site.name for site in wanted]
