"""Memory that is used again."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Workspace:
    """Large blocks by name: fresh ones cost more than most of what is done in them."""

    def __init__(self) -> None:
        self._blocks: dict[str, Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """An uninitialised tensor; what `name` held before is lost."""
        size = math.prod(shape)
        block = self._blocks.get(name)
        if (
            block is None
            or block.numel() < size
            or block.dtype != like.dtype
            or block.device != like.device
        ):
            block = self._blocks[name] = torch.empty(size, dtype=like.dtype, device=like.device)
        return block[:size].view(shape)

    def swap(self, first: str, second: str) -> None:
        """Exchange what two names stand for."""
        blocks = self._blocks
        blocks[first], blocks[second] = blocks[second], blocks[first]

    def select(self, name: str, value: Tensor, dim: int, kept: Tensor) -> Tensor:
        """The kept entries of the tensor that `name` holds, which then holds these."""
        shape = list(value.shape)
        shape[dim] = len(kept)
        out = self.take("spare", tuple(shape), value)
        torch.index_select(value, dim, kept, out=out)
        self.swap("spare", name)
        return out
