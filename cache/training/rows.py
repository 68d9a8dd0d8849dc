"""Where the tokens of one shard stand: in it, and in the shards that have its other sites."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cache.shards.layout import TOKENS
from cache.shards.reader import ShardReader
from cache.training.block import Block, TokenInfo
from cache.training.opening import index_error, opening
from cache.training.plan import Numbers, Plan, Row

__all__ = ["RowTable"]


class RowTable:
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

    def read(self, tokens: Numbers, out: Block) -> None:
        """Read tokens that do not descend."""
        row = np.searchsorted(self._before, tokens, "right") - 1
        position = self._first[row] + self._plan.positions.step * (tokens - self._before[row])
        for site in self._sites:
            self._own.take(self._plan, site, row, position, out.values[site])
        for site, (of_row, sources) in self._elsewhere.items():
            of_token = of_row[row]
            for number in np.unique(of_token).tolist():
                here = np.flatnonzero(of_token == number)
                part = torch.empty_like(out.values[site][: len(here)])
                sources[number].take(self._plan, site, row[here], position[here], part)
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
            source = self._own
            if site.name in self._elsewhere:
                of_row, sources = self._elsewhere[site.name]
                source = sources[int(of_row[row])]
            values[site.name] = source.vector(self._plan, site.name, row, position)
        if not info:
            return Block(values, None)
        token_id = self._own.vector(self._plan, TOKENS, row, position).item()
        where: list[Any] = [int(self._numbers[row]), position, token_id]
        return Block(values, TokenInfo(*where))

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


def _held(plan: Plan, shard: int, reader: ShardReader) -> list[str]:
    """The sites that are read from a shard; it must have them as the plan says."""
    found = {site.name: site for site in reader.sidecar.sites}
    wanted = [site for site, held in zip(plan.sites, plan.holds[shard], strict=True) if held]
    if any(found.get(site.name) != site for site in wanted):
        raise index_error(plan, shard)
    return [site.name for site in wanted]
