"""Blocks run as Hugging Face built them, where nobody listens to what happens inside.

TransformerLens puts a wrapper around each module of a block. Where one token is read at a time,
these take as long as a tenth of the matrix products.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from interp.model.model import Model

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


@dataclass(frozen=True)
class PlainBlocks:
    """Blocks of a model, with and without their wrappers.

    Attributes:
        blocks: of each layer, what can be put in the place of its wrappers.
    """

    blocks: tuple[_Block, ...]

    @classmethod
    def of(cls, model: Model) -> PlainBlocks:
        """The model's, as it is now and carries no hooks of others."""
        holder = model.bridge.blocks
        return cls(tuple(_Block.of(holder, name) for name in holder._modules))

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, blocks on which no hook was placed since are run without their wrappers.

        The caller holds the model's lock.
        """
        seats = [seat for block in self.blocks if not block.is_hooked() for seat in block.seats]
        try:
            for seat in seats:
                seat.holder._modules[seat.name] = seat.plain
            yield
        finally:
            for seat in seats:
                seat.holder._modules[seat.name] = seat.wrapper


@dataclass(frozen=True)
class _Seat:
    """Where a module stands that wraps another."""

    holder: nn.Module
    name: str
    wrapper: nn.Module
    plain: nn.Module


@dataclass(frozen=True)
class _Block:
    """Seats of a block, outermost first, and where hooks would be (how many were there)."""

    seats: tuple[_Seat, ...]
    hooks: tuple[tuple[dict[int, Any], int], ...]

    @classmethod
    def of(cls, holder: nn.Module, name: str) -> _Block:
        wrapper = holder._modules[name]
        assert wrapper is not None
        seats: list[_Seat] = []
        plain = list(_plain(holder, name, seats))
        inside = [module for seat in seats for module in seat.wrapper.modules()]
        wrapped = {id(module): module for module in (*wrapper.modules(), *inside)}.values()
        if not _storages(wrapped) <= _storages(plain):
            return cls((), ())  # a matrix that was copied, to be divided, may have been edited
        found = [getattr(module, hooks) for module in wrapped for hooks in _HOOKS]
        return cls(tuple(seats), tuple((hooks, len(hooks)) for hooks in found))

    def is_hooked(self) -> bool:
        return any(len(hooks) != n for hooks, n in self.hooks)


def _plain(holder: nn.Module, name: str, seats: list[_Seat]) -> Iterator[nn.Module]:
    """Hugging Face's modules from there on down; `seats` is filled with those that are wrapped."""
    wrapper = plain = holder._modules[name]
    while plain is not None and (inner := plain._modules.get("_original_component")) is not None:
        plain = inner
    if wrapper is None or plain is None:
        return
    if plain is not wrapper:
        seats.append(_Seat(holder, name, wrapper, plain))
    yield plain
    for child in plain._modules:
        yield from _plain(plain, child, seats)


def _storages(modules: Iterable[nn.Module]) -> set[int]:
    """Of the weights that these modules hold themselves."""
    return {
        weight.untyped_storage().data_ptr()
        for module in modules
        for weight in (*module._parameters.values(), *module._buffers.values())
        if weight is not None
    }
