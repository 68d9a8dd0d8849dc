"""What a model calls its blocks with, found without running any of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

from jaxtyping import Float, Int
from torch import Tensor, no_grad

from interp.errors import ModelError
from interp.forward.blocks import BlockCall, Taken, block_call, same_call
from interp.forward.packing import runs_as
from interp.model.model import Model

__all__ = ["Gives", "called_with", "what_blocks_give"]

Gives = Literal["tensor", "tuple"]
"""What a model takes from its blocks: the stream, or a tuple that begins with it."""


def called_with(
    model: Model, ids: Int[Tensor, "example position"], gives: Gives
) -> tuple[Float[Tensor, "example position d_model"], tuple[BlockCall, ...]]:
    """The stream into the first block, and what each block is called with beside the stream.

    Blocks are passed by, and their weights not touched. For models of which `what_blocks_give`
    tells that this is what they do.
    """
    calls: dict[int, BlockCall] = {}
    taken: Taken = {}
    streams: list[Tensor] = []
    ids = ids.to(model.device)

    def past(layer: int) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            calls[layer] = block_call(model.name, args, kwargs, len(ids), taken)
            if not streams:
                streams.append(args[0].detach().clone())
            return args[0] if gives == "tensor" else (args[0],)

        return forward

    def stop(_module: Any, args: tuple[Any, ...]) -> None:
        from transformer_lens.model_bridge.exceptions import StopAtLayerException

        # The bridge's forward catches this and puts its own state in order.
        raise StopAtLayerException(args[0])

    with model.lock, contextlib.ExitStack() as stack, no_grad():
        for layer, block in enumerate(model.bridge.blocks):
            stack.enter_context(runs_as(block, past(layer)))
        stack.callback(model.bridge.ln_final.register_forward_pre_hook(stop).remove)
        model.bridge(ids, use_cache=False, return_type="logits")
    return streams[0], tuple(calls[layer] for layer in range(model.n_layers))


def what_blocks_give(
    model: Model,
    ids: Int[Tensor, "example position"],
    stream: Float[Tensor, "example position d_model"],
    calls: Sequence[BlockCall],
) -> Gives | None:
    """How blocks are passed by so that they are called with what they are called with in a run.

    None where what a block is called with depends on the blocks before it.

    Args:
        ids: token ids that were run.
        stream: into the first block.
        calls: of each block.
    """
    both: tuple[Gives, ...] = ("tensor", "tuple")
    for gives in both:
        try:
            first, found = called_with(model, ids, gives)
        except (AttributeError, IndexError, KeyError, ModelError, RuntimeError, TypeError):
            continue
        if stream.equal(first) and all(map(same_call, found, calls)):
            return gives
    return None
