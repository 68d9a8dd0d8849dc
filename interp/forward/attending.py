"""What an attention compares, and its head outputs replaced.

For attention that is told from a few queries, keys and values, without laying out all positions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import Cache

from interp.forward.blocks import BlockCall
from interp.forward.hooks import passing
from interp.forward.packing import find
from interp.model.model import Model


@dataclass(frozen=True)
class Compared:
    """What one call of an attention had to compare, as it was used: rotated, normed.

    Attributes:
        q, k, v: [row, head, position, d_head]; keys and values repeated for heads that share them.
        scores: before the softmax, masked [row, head, destination, source].
    """

    q: Float[Tensor, "row head position d_head"]
    k: Float[Tensor, "row head position d_head"]
    v: Float[Tensor, "row head position d_head"]
    scores: Float[Tensor, "row head destination source"]


Instead = Callable[[Compared], Float[Tensor, "row position head d_head"]]


@contextlib.contextmanager
def attending(model: Model, layer: int, instead: Instead | None = None) -> Iterator[list[Compared]]:
    """Inside, the result is filled with what the attention of the block compares.

    Args:
        instead: what its heads put out instead; hooks on that see it so.

    Raises:
        KeyError: while it runs, if it does not show what it compares.
    """
    attention = model.bridge.blocks[layer].attn
    d_head = int(model.bridge.cfg.d_head)
    seen: dict[str, Tensor] = {}
    found: list[Compared] = []

    def keep(name: str) -> Callable[[Any, Any, Tensor], None]:
        def hook(_module: Any, _args: Any, value: Tensor) -> None:
            seen[name] = value

        return passing(hook)

    def heads(name: str) -> Tensor:
        value = seen[name]
        if value.ndim == 3:
            value = value.reshape(*value.shape[:2], -1, d_head).transpose(1, 2)
        return value.repeat_interleave(model.n_heads // value.shape[1], dim=1)

    def put(_module: Any, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        q, k = (heads(f"rot_{name}" if f"rot_{name}" in seen else name) for name in "qk")
        compared = Compared(q, k, heads("v"), seen["attn_scores"])
        found.append(compared)
        if instead is None:
            return None
        return (instead(compared).reshape(args[0].shape).to(args[0].dtype), *args[1:])

    with contextlib.ExitStack() as stack:
        for name in ("q", "k", "v", "rot_q", "rot_k", "attn_scores"):
            point = find(attention, f"hook_{name}")
            if point is not None:
                stack.callback(point.register_forward_hook(keep(name)).remove)
        stack.callback(attention.o.register_forward_pre_hook(passing(put)).remove)
        yield found


def at_positions(
    call: BlockCall,
    rows: Int[Tensor, " row"],
    batch: int,
    position: Int[Tensor, "row run"],
    length: int,
    past: Cache | None = None,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a block for rows of which only some positions are run.

    Args:
        call: of the recorded run.
        rows: for each row the recorded example it belongs to.
        position: the positions [row, run].
        length: of the recorded run.
        past: what gives the block keys and values of all positions; without it these positions
            attend to each other alone.

    Returns:
        Positional and named arguments.

    Raises:
        ValueError: an argument is of no kind that can be divided among positions.
    """
    row = torch.arange(len(rows), device=rows.device)

    def pick(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(pick(item) for item in value)
        if not isinstance(value, Tensor) or value.numel() == 1:
            return value
        shape = tuple(value.shape)
        mine = row if len(value) == len(rows) else torch.zeros_like(row)
        if len(shape) == 4 and shape[2:] == (length, length):  # a mask
            if past is not None:
                return value[mine[:, None], :, position].movedim(2, 1)
            here, there = position[:, :, None], position[:, None, :]
            return value[mine[:, None, None], :, here, there].movedim(-1, 1)
        if len(shape) in (2, 3) and shape[1] == length and shape[0] in (1, len(rows)):
            return value[mine[:, None], position]
        raise ValueError(f"A block is called with a tensor of shape {shape}.")

    args, kwargs = call.at(rows, batch, past)
    return tuple(pick(value) for value in args), {n: pick(v) for n, v in kwargs.items()}
