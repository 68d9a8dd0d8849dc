"""Cut an epoch's order into batches, and read them pool by pool."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cache.order import Epoch, Order
from cache.tokens import TokenInfo, TokenReader

__all__ = ["Batches"]

Part = tuple[dict[str, Tensor], TokenInfo | None]


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
    ) -> Iterator[Part]:
        """The batches from token `start` of an epoch on; with several workers those of one."""
        order, end = self.order.epoch(epoch), self.end(start)
        parts: list[Part] = []
        first = int(np.searchsorted(order.bounds, start, "right")) - 1
        for pool in range(first, len(order.bounds) - 1):
            begin, beyond = int(order.bounds[pool]), min(end, int(order.bounds[pool + 1]))
            numbers = range(max(0, begin - start) // self.size, -(-(beyond - start) // self.size))
            spans = [
                range(
                    max(begin, start + number * self.size),
                    min(beyond, start + (number + 1) * self.size),
                )
                for number in numbers
                if number % workers == worker
            ]
            if not spans:
                continue
            content = _Pool.read(reader, order, pool, spans)
            at = 0
            for span in spans:
                parts.append(content.part(at, at + len(span)))
                at += len(span)
                # Else the batch goes on in the next pool.
                if span.stop == end or (span.stop - start) % self.size == 0:
                    yield _joined(parts)
                    parts = []
            # Before the next one is read, so that there is memory for one only.
            del content


@dataclass(frozen=True)
class _Pool:
    """Those tokens of a pool that somebody reads: as they stand on the disk, and their order."""

    values: dict[str, Tensor]
    info: TokenInfo | None
    places: Tensor

    @classmethod
    def read(cls, reader: TokenReader, order: Epoch, pool: int, spans: list[range]) -> _Pool:
        begin = int(order.bounds[pool])
        tokens = order.tokens(pool)
        tokens = np.concatenate([tokens[span.start - begin : span.stop - begin] for span in spans])
        sorting = np.argsort(tokens)
        places = np.empty_like(sorting)
        places[sorting] = np.arange(len(sorting))
        return cls(*reader.read(tokens[sorting]), torch.from_numpy(places))

    def part(self, begin: int, end: int) -> Part:
        chosen = self.places[begin:end]
        values = {site: tensor.index_select(0, chosen) for site, tensor in self.values.items()}
        return values, self.info and self.info.part(chosen)


def _joined(parts: list[Part]) -> Part:
    if len(parts) == 1:
        return parts[0]
    values = {site: torch.cat([part[site] for part, _ in parts]) for site in parts[0][0]}
    infos = [info for _, info in parts if info is not None]
    return values, TokenInfo(*map(torch.cat, zip(*infos, strict=True))) if infos else None
