"""Tokens in memory, one after the other, and where they stand in the store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from cache.shards.gather import as_bytes, gather
from cache.training.plan import Numbers, Plan

__all__ = ["Block", "TokenInfo"]


class TokenInfo(NamedTuple):
    """Where tokens stand; for a single token plain numbers instead of tensors.

    Attributes:
        row: the numbers of their rows [token].
        position: in their rows, from 0 [token].
        token: their ids [token].
    """

    row: Tensor
    position: Tensor
    token: Tensor


@dataclass(frozen=True)
class Block:
    """Tokens one after the other.

    Attributes:
        values: their activations {site: [token, *width]}.
        info: where they stand, if that is wanted.
    """

    values: dict[str, Tensor]
    info: TokenInfo | None

    @classmethod
    def empty(cls, plan: Plan, n_tokens: int, info: bool) -> Block:
        """Memory for as many tokens."""
        dtype = plan.space.torch_dtype
        values = {s.name: torch.empty(n_tokens, *s.width, dtype=dtype) for s in plan.sites}
        numbers = torch.empty(3, n_tokens, dtype=torch.int64)
        return cls(values, TokenInfo(*numbers) if info else None)

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))

    def part(self, begin: int, end: int) -> Block:
        """Tokens `begin` to `end`, in the same memory."""
        info = self.info and TokenInfo(*(numbers[begin:end] for numbers in self.info))
        return Block({site: values[begin:end] for site, values in self.values.items()}, info)

    def gather(self, chosen: Numbers, out: Block) -> None:
        """Copy tokens, in the order in which they are chosen, into another block."""
        if not len(chosen):
            return
        for site, values in self.values.items():
            gather(as_bytes(values), chosen, out.values[site])
        for numbers, into in zip(self.info or (), out.info or (), strict=True):
            gather(as_bytes(numbers), chosen, into)
