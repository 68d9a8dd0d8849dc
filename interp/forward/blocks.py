"""What Hugging Face passes to a block besides the residual stream, to call it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Int
from torch import Tensor
from transformers import Cache

from interp.errors import ModelError


@dataclass(frozen=True)
class BlockCall:
    """The arguments of one block after the residual stream, of a recorded batch."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def at(
        self, rows: Int[Tensor, " row"], batch: int, past: Cache | None = None
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments for a batch made of these rows of the recorded one.

        Args:
            past: goes where the block was given a cache of keys and values.
        """

        def gather(value: Any) -> Any:
            if value is _PAST:
                return past
            if isinstance(value, _PerHead):
                return value.by_example.index_select(0, rows).flatten(0, 1)
            if isinstance(value, _Shared):
                return value.row.expand(len(rows), *value.row.shape[1:])
            if isinstance(value, Tensor) and value.ndim > 1 and len(value) == batch > 1:
                return value.index_select(0, rows)
            if isinstance(value, tuple):
                return tuple(gather(item) for item in value)
            return value

        return (
            tuple(gather(value) for value in self.args),
            {name: gather(value) for name, value in self.kwargs.items()},
        )


@dataclass(frozen=True)
class _Shared:
    """A tensor whose rows are all the same: right-padded prompts share one causal mask."""

    row: Tensor


@dataclass(frozen=True)
class _PerHead:
    """A tensor whose first axis runs over examples and heads (the position biases of BLOOM)."""

    by_example: Tensor


# Stands where a cache was given, which holds the keys of the recorded run itself.
_PAST = object()

Taken = dict[int, tuple[Tensor, Any]]
"""Tensors that other blocks were called with too, by identity, and what was taken down of them."""


def block_call(
    model_name: str,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    batch: int,
    seen: Taken | None = None,
) -> BlockCall:
    """Take down a block's arguments: copies, without caches, one row where all are the same.

    Args:
        seen: filled with the tensors of this call; blocks that are given the same mask, of
            [position, position], share one copy.

    Raises:
        ModelError: the architecture passes what cannot be divided among examples.
    """
    if not args:
        raise ModelError(
            f"{model_name} passes the residual stream to its blocks by name, which cannot be "
            "resumed; choose a decoder-only architecture such as GPT-2 or Llama."
        )

    seen = {} if seen is None else seen
    taken = {name: _take(value, model_name, batch, seen) for name, value in kwargs.items()}
    if "use_cache" in taken:
        taken["use_cache"] = False
    return BlockCall(tuple(_take(value, model_name, batch, seen) for value in args[1:]), taken)


# No closures: one that calls itself is a circle, which would keep the tensors for a while.
def _take(value: Any, model_name: str, batch: int, seen: Taken) -> Any:
    if isinstance(value, tuple | list):
        return tuple(_take(item, model_name, batch, seen) for item in value)
    if isinstance(value, Cache):
        return _PAST
    if not isinstance(value, Tensor):
        # What is neither of these is a plain setting.
        return value if isinstance(value, bool | int | float | str | None) else None
    if id(value) not in seen:
        # The tensor is held as well, so that no other can come to bear its identity.
        seen[id(value)] = value, _divide(value, model_name, batch)
    return seen[id(value)][1]


def _divide(value: Tensor, model_name: str, batch: int) -> Any:
    if value.ndim > 1 and len(value) not in (1, batch):
        if len(value) % batch == 0:
            return _PerHead(value.reshape(batch, -1, *value.shape[1:]).clone())
        raise ModelError(
            f"{model_name} passes its blocks a tensor of shape {tuple(value.shape)} that "
            "cannot be divided among examples; its architecture cannot be resumed exactly."
        )
    if value.ndim > 1 and len(value) == batch and bool((value == value[:1]).all()):
        # Where one example was run, a first axis of 1 may be the batch's or a broadcast one;
        # repeated, it serves as either.
        return _Shared(value[:1].clone())
    return value.clone()


def same_call(ours: BlockCall, theirs: BlockCall) -> bool:
    """Whether two calls of a block say the same, to the last bit."""
    return _same(ours.args, theirs.args) and _same(dict(ours.kwargs), dict(theirs.kwargs))


def _same(ours: Any, theirs: Any) -> bool:
    if type(ours) is not type(theirs):
        return False
    if isinstance(ours, Tensor):
        return ours.dtype == theirs.dtype and ours.shape == theirs.shape and ours.equal(theirs)
    if isinstance(ours, _Shared):
        return _same(ours.row, theirs.row)
    if isinstance(ours, _PerHead):
        return _same(ours.by_example, theirs.by_example)
    if isinstance(ours, dict):
        return list(ours) == list(theirs) and _same(tuple(ours.values()), tuple(theirs.values()))
    if isinstance(ours, tuple):
        return len(ours) == len(theirs) and all(map(_same, ours, theirs))
    return bool(ours == theirs)
