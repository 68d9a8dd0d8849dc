"""Which of a store's tokens are used, numbered in an order that follows from their content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cache.keys.space import Ids, SiteShape, Space
from cache.training.positions import Positions

__all__ = ["Numbers", "Other", "Plan", "Row"]

Numbers = npt.NDArray[np.int64]

Other = np.dtype([("shard", "<i4"), ("row", "<i4"), ("other", "<i4"), ("other_row", "<i4")])
"""A row of a shard, and another shard that has the same row at sites which that shard lacks."""


@dataclass(frozen=True, eq=False)
class Plan:
    """The tokens of some rows at some sites.

    Each row is read from the first shard that has it (for sites that shard lacks, from another);
    shards are ordered by how many of the sites they have, then by the checksum of what rows they
    have. So neither the index nor chance has a say: copies of a store have the same plan, and so
    has a store whose shards were computed again.

    Attributes:
        root: the store's folder.
        space: what the activations are of.
        sites: names and shapes.
        positions: which positions of each row are used.
        shards: ids [shard].
        contents: what the index says their rows are [shard].
        holds: which of the sites they have [shard, site].
        rows: how many of their rows are used [shard]; none where other shards have them too.
        tokens: how many of their tokens are used [shard].
        chosen: the rows that are used, of the shards of which not all are used.
        numbers: the numbers of these rows, where they do not follow from `first_row`.
        first_row: the number of the first row that is used [shard].
        others: where rows stand at sites that their shard lacks, in order [·].
    """

    root: Path
    space: Space
    sites: tuple[SiteShape, ...]
    positions: Positions
    shards: npt.NDArray[np.bytes_]
    contents: npt.NDArray[np.void]
    holds: npt.NDArray[np.bool_]
    rows: Numbers
    tokens: Numbers
    chosen: Mapping[int, Numbers]
    numbers: Mapping[int, Numbers]
    first_row: Numbers
    others: npt.NDArray[Any]

    @cached_property
    def bounds(self) -> Numbers:
        """The number of each shard's first token, and of all tokens at the end [shard + 1]."""
        out = np.zeros(len(self.tokens) + 1, dtype=np.int64)
        np.cumsum(self.tokens, out=out[1:])
        return out

    @property
    def n_tokens(self) -> int:
        return int(self.bounds[-1])

    @property
    def used(self) -> Numbers:
        """The shards that tokens are read from [·]."""
        return np.flatnonzero(self.tokens)

    @property
    def bytes_per_token(self) -> int:
        """Bytes of one token's activations at all sites."""
        return sum(site.numbers for site in self.sites) * self.space.itemsize

    def shard(self, number: int) -> str:
        return str(self.shards[number], "ascii")

    @cached_property
    def digest(self) -> str:
        """32 hexadecimal digits that name the tokens and their order."""
        positions = [self.positions.start, self.positions.stop, self.positions.step]
        names = [site.name for site in self.sites]
        out = hashlib.blake2b(digest_size=16)
        out.update(json.dumps([self.space.id, names, positions]).encode())
        used = self.used
        for part in (self.contents[used], self.tokens[used], self.first_row[used]):
            out.update(part.tobytes())
        for place, shard in enumerate(used.tolist()):
            for lists in (self.chosen, self.numbers):
                if shard in lists:
                    out.update(json.dumps([place, len(lists[shard])]).encode())
                    out.update(lists[shard].astype("<i8").tobytes())
        return out.hexdigest()


@dataclass(frozen=True)
class Row:
    """A stored prompt, to choose by, or to find labels for.

    Attributes:
        number: its place among the keys that were given, or else among all rows of the store that
            have the sites.
        key: 16 bytes that follow from the model and the token ids; as good as random.
        ids: the token ids [token].
    """

    number: int
    key: bytes
    ids: Ids
