"""The order in which tokens are given: a global shuffle that reads the disk in long pieces.

The tokens of the shards, one shard after the other, are numbered 0, 1, 2, …; shards are cut into
*segments* of neighbouring tokens. Each epoch the segments of all shards are permuted; as many as
fit into memory together form a *pool*, and all tokens of a pool are permuted. Everything follows
from the seed, the epoch and the shards' sizes, so that any process can work out any part.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np

from cache.training.plan import Numbers

__all__ = ["SEGMENTS", "Epoch", "Order", "permutation"]

SEGMENTS = 128
"""Segments that make up a pool, if the shards are large enough to be cut."""


@dataclass(frozen=True)
class Order:
    """The order of every epoch.

    Attributes:
        tokens: how many tokens each shard has [shard].
        pool: how many tokens are permuted together, at most.
        seed: of the shuffle; None for the order in which they are numbered.
    """

    tokens: Numbers
    pool: int
    seed: int | None

    @property
    def segment(self) -> int:
        """Tokens of a segment, at most."""
        return max(1, self.pool // SEGMENTS)

    def epoch(self, number: int) -> Epoch:
        """The order of one epoch."""
        return Epoch(self, number)


class Epoch:
    """Where each token comes in one epoch.

    Attributes:
        bounds: how many tokens come before each pool, and in all [pool + 1].
    """

    def __init__(self, order: Order, number: int) -> None:
        self._seed, self._number = order.seed, number
        self._tokens = order.tokens
        self._parts = -(-order.tokens // order.segment)
        self._first_part = _before(self._parts)
        self._first_token = _before(order.tokens)
        n_segments = int(self._parts.sum())
        self._segments = np.arange(n_segments)
        if order.seed is not None:
            self._segments = permutation(n_segments, "segments", order.seed, number)
        before = _before(self._places(self._segments)[1])
        # A pool begins in each stretch of this length; the segment at its end may reach beyond.
        stretch = 1 if order.seed is None else max(1, order.pool - order.segment)
        pools = before[:-1] // stretch
        begins = np.flatnonzero(np.diff(pools, prepend=-1))
        self._begins = np.append(begins, n_segments)
        self.bounds = before[self._begins]

    @property
    def n_pools(self) -> int:
        return len(self.bounds) - 1

    def pool_of(self, place: int) -> int:
        """The pool of the token that comes after `place` others."""
        return int(np.searchsorted(self.bounds, place, "right")) - 1

    def tokens(self, pool: int) -> Numbers:
        """The numbers of a pool's tokens, in the order in which they are given."""
        segments = self._segments[self._begins[pool] : self._begins[pool + 1]]
        # In the order of the disk, whatever order the segments were drawn in.
        first, sizes = self._places(np.sort(segments))
        found = np.repeat(first - _before(sizes)[:-1], sizes) + np.arange(int(sizes.sum()))
        if self._seed is None:
            return found
        return found[permutation(len(found), "tokens", self._seed, self._number, pool)]

    def _places(self, segments: Numbers) -> tuple[Numbers, Numbers]:
        """The first token and the size of segments."""
        shard = np.searchsorted(self._first_part, segments, "right") - 1
        tokens, parts = self._tokens[shard], self._parts[shard]
        part = segments - self._first_part[shard]
        begin = part * tokens // parts
        return self._first_token[shard] + begin, (part + 1) * tokens // parts - begin


def permutation(n: int, *name: str | int) -> Numbers:
    """A permutation of 0, …, n - 1 that follows from its name, on any machine.

    The raw output of a bit generator is promised to stay as it is; what NumPy makes of it when it
    shuffles is not. Hence random numbers are sorted, with the places of the tokens in their lowest
    bits; of 64 bits at least 24 are random for 10¹² tokens, and 44 for a million.
    """
    key = hashlib.blake2b(json.dumps(name).encode(), digest_size=16).digest()
    random = np.random.Philox(key=int.from_bytes(key, "little")).random_raw(n)
    low = np.uint64((1 << max(1, (n - 1).bit_length())) - 1)
    keyed = (random & ~low) | np.arange(n, dtype=np.uint64)
    keyed.sort()
    return (keyed & low).astype(np.int64)


def _before(sizes: Numbers) -> Numbers:
    """How much comes before each, and in all."""
    out = np.zeros(len(sizes) + 1, dtype=np.int64)
    np.cumsum(sizes, out=out[1:])
    return out
