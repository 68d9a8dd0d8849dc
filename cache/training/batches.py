"""Cut an epoch's order into batches, and read them pool by pool."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cache.training.block import Block
from cache.training.order import Epoch, Order
from cache.training.plan import Numbers
from cache.training.tokens import TokenReader

__all__ = ["Batches"]


@dataclass(frozen=True)
class Batches:
    """The batches of every epoch. Batch i holds the same tokens, however many workers read.

    Attributes:
        size: tokens of a batch.
        drop_last: whether an epoch ends before a last, smaller batch.
    """

    order: Order
    size: int
    drop_last: bool

    @property
    def n_tokens(self) -> int:
        """Tokens of an epoch."""
        return int(self.order.tokens.sum())

    def end(self, start: int) -> int:
        """The token before which an epoch ends whose batches are counted from `start`."""
        left_out = (self.n_tokens - start) % self.size if self.drop_last else 0
        return self.n_tokens - left_out

    def read(
        self, reader: TokenReader, epoch: int, start: int, worker: int = 0, workers: int = 1
    ) -> Iterator[Block]:
        """The batches from token `start` of an epoch on; with several workers those of one."""
        order, end = self.order.epoch(epoch), self.end(start)
        # Memory for the tokens of a pool, used again for the next: new memory costs more than
        # filling it. Only the batches themselves are given away.
        room = batch = reader.empty(0)
        filled = 0
        for pool in range(order.pool_of(start), order.n_pools):
            begin, beyond = int(order.bounds[pool]), min(end, int(order.bounds[pool + 1]))
            spans = [
                range(
                    max(begin, start + number * self.size),
                    min(beyond, start + (number + 1) * self.size),
                )
                for number in range(
                    max(0, begin - start) // self.size, -(-(beyond - start) // self.size)
                )
                if number % workers == worker
            ]
            if not spans:
                continue
            tokens, places = _own(order, pool, spans)
            if len(room) < len(tokens):
                # The old one goes before the new one comes.
                del room
                room = reader.empty(len(tokens))
            reader.read(tokens, room.part(0, len(tokens)))
            at = 0
            for span in spans:
                if not filled:
                    first = start + (span.start - start) // self.size * self.size
                    batch = reader.empty(min(end, first + self.size) - first)
                into = batch.part(filled, filled + len(span))
                room.gather(places[at : at + len(span)], into)
                at += len(span)
                filled += len(span)
                # Else it goes on in the next pool.
                if filled == len(batch):
                    yield batch
                    filled = 0


def _own(order: Epoch, pool: int, spans: list[range]) -> tuple[Numbers, Numbers]:
    """The tokens that stand at some places of the order, ascending, and the place of each."""
    begin = int(order.bounds[pool])
    tokens = order.tokens(pool)
    tokens = np.concatenate([tokens[span.start - begin : span.stop - begin] for span in spans])
    sorting = np.argsort(tokens)
    places = np.empty_like(sorting)
    places[sorting] = np.arange(len(sorting))
    return tokens[sorting], places
