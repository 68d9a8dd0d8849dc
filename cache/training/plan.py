"""Which of a store's tokens are used, numbered in an order that follows from their content."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cache.errors import DamageError, GoneError, StorageError
from cache.keys.space import Ids, SiteShape, Space
from cache.shards.reader import ShardReader
from cache.shards.sidecar import Sidecar
from cache.shards.writer import read_sidecar

__all__ = ["Numbers", "Other", "Plan", "Positions", "Row", "index_error", "reading", "sidecar_of"]

Numbers = npt.NDArray[np.int64]

Other = np.dtype([("shard", "<i4"), ("row", "<i4"), ("other", "<i4"), ("other_row", "<i4")])
"""A row of a shard, and another shard that has the same row at sites which that shard lacks."""


@dataclass(frozen=True)
class Positions:
    """A slice of the positions of each row, with Python's meaning; `step` is positive."""

    start: int | None = None
    stop: int | None = None
    step: int = 1

    @classmethod
    def of(cls, chosen: int | slice | None) -> Positions:
        """From a slice, or from one position (negative ones count from a row's end).

        Raises:
            StorageError: the slice goes backwards.
        """
        if chosen is None:
            return cls()
        if isinstance(chosen, slice):
            step = 1 if chosen.step is None else int(chosen.step)
            if step < 1:
                raise StorageError(
                    f"Positions cannot go in steps of {step}; give a slice that goes forwards."
                )
            return cls(chosen.start, chosen.stop, step)
        return cls(chosen, None if chosen == -1 else chosen + 1)

    def ranges(self, lengths: Numbers) -> tuple[Numbers, Numbers]:
        """The first position of each row [row], and how many are used of it [row]."""
        first = self._clipped(0 if self.start is None else self.start, lengths)
        beyond = lengths if self.stop is None else self._clipped(self.stop, lengths)
        return first, np.maximum(0, -(-(beyond - first) // self.step))

    def total(self, tokens: Numbers, rows: Numbers) -> Numbers | None:
        """How many are used of several rows, where that follows from the number of their tokens.

        No row is empty, so that all but the first positions are tokens less rows.
        """
        if self.step == 1 and self.stop is None and self.start in (None, 0, 1):
            return tokens - rows if self.start == 1 else tokens
        only_one = (self.start, self.stop) in ((0, 1), (None, 1), (-1, None))
        return rows if only_one else None

    @staticmethod
    def _clipped(bound: int, lengths: Numbers) -> Numbers:
        if bound < 0:
            return np.maximum(lengths + bound, 0)
        return np.minimum(lengths, bound)


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

    def sidecar(self, number: int) -> Sidecar:
        """The sidecar of a shard.

        Raises:
            DamageError: it is damaged, or the index, from which the plan was made, says otherwise.
            GoneError: it was evicted meanwhile.
            StorageError: it cannot be read.
        """
        found = sidecar_of(self.root, self.shard(number))
        if found.content != self.contents[number].tobytes() or found.space != self.space:
            raise self.index_error(number)
        return found

    def reader(self, number: int) -> ShardReader:
        """A reader of a shard; raises what `sidecar` does."""
        sidecar = self.sidecar(number)
        with reading(self.root, sidecar.id):
            return ShardReader(self.root, sidecar)

    def index_error(self, number: int) -> DamageError:
        """What to say where the index and a sidecar, which is the truth, do not agree."""
        return index_error(self.root, self.shard(number))

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


def sidecar_of(root: Path, shard: str) -> Sidecar:
    """The sidecar of any shard; raises what `Plan.sidecar` does."""
    with reading(root, shard):
        return read_sidecar(root, shard)


def index_error(root: Path, shard: str) -> DamageError:
    """What to say where the index does not fit a shard."""
    return DamageError(
        f"The index of '{root}' does not fit shard {shard}; run `obverse cache verify`, and open "
        "the data again."
    )


@contextlib.contextmanager
def reading(root: Path, shard: str) -> Iterator[None]:
    """Turn an error of the block into one that names the shard, and says what to do."""
    try:
        yield
    except DamageError as error:
        raise DamageError(
            f"Shard {shard} of '{root}' is damaged ({error}); run `obverse cache verify`, and "
            "open the data again."
        ) from error
    except GoneError as error:
        raise GoneError(
            f"Shard {shard} of '{root}' was evicted or removed meanwhile; open the data again, "
            "with a larger budget if more is needed at once."
        ) from error
