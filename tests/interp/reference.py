"""Interventions by hand on a plain Hugging Face model: what the instruments must agree with.

Each answer is one whole forward pass over one unpadded prompt, with torch's own hooks on Hugging
Face's own modules; copies of one prompt, each with a change of its own, may share the pass.
TransformerLens and `interp` play no part.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional

from tests.interp.tiny import D_HEAD, Tiny

Change = Callable[[Tensor], object]
"""Gets one activation; may edit it in place: [position, d_model], [position, head, d_head] or
[position, neuron], and of attention patterns [head, destination, source]."""

STREAMS = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
HEADS = ("q", "k", "v", "z")
_FUSED = ("q", "k", "v")


def sites(tiny: Tiny) -> tuple[str, ...]:
    """The sites that this architecture has."""
    streams = [site for site in STREAMS if not (tiny.parallel and site == "resid_mid")]
    return (*streams, *HEADS)


@dataclass(frozen=True)
class _Modules:
    """One block, taken apart."""

    block: Any
    attention: Any
    mlp: Any
    out_matrix: Any
    neurons_out: Any


def _modules(tiny: Tiny, layer: int) -> _Modules:
    if tiny.name == "gpt2":
        block = tiny.hf.transformer.h[layer]
        return _Modules(block, block.attn, block.mlp, block.attn.c_proj, block.mlp.c_proj)
    if tiny.name == "llama":
        block = tiny.hf.model.layers[layer]
        attention, mlp = block.self_attn, block.mlp
        return _Modules(block, attention, mlp, attention.o_proj, mlp.down_proj)
    block = tiny.hf.gpt_neox.layers[layer]
    attention, mlp = block.attention, block.mlp
    return _Modules(block, attention, mlp, attention.dense, mlp.dense_4h_to_h)


def _projection(tiny: Tiny, attention: Any, site: str) -> tuple[Any, Callable[[Tensor], Tensor]]:
    """The module that makes q, k or v, and a view of its output as [batch, position, head, …]."""
    which = _FUSED.index(site)
    if tiny.name == "llama":
        return getattr(attention, f"{site}_proj"), lambda out: out.unflatten(-1, (-1, D_HEAD))
    if tiny.name == "gpt2":  # all queries, then all keys, then all values
        return attention.c_attn, lambda out: out.unflatten(-1, (3, -1, D_HEAD))[:, :, which]
    # head by head its query, key and value
    return attention.query_key_value, lambda out: out.unflatten(-1, (-1, 3, D_HEAD))[..., which, :]


@contextlib.contextmanager
def _softmax_of(attention: Any, change: Callable[[Tensor], object]) -> Iterator[None]:
    """While this attention runs, `change` sees what its softmax returns, before it is used."""
    softmax, inside = functional.softmax, [False]

    def changed(*args: Any, **kwargs: Any) -> Tensor:
        result = softmax(*args, **kwargs)
        if inside[0]:
            change(result)
        return result

    def enter(*_: Any) -> None:
        inside[0] = True

    def leave(*_: Any) -> None:
        inside[0] = False

    with contextlib.ExitStack() as stack:
        stack.callback(attention.register_forward_pre_hook(enter).remove)
        stack.callback(attention.register_forward_hook(leave).remove)
        stack.enter_context(mock.patch.object(functional, "softmax", changed))
        yield


@contextlib.contextmanager
def intervened(tiny: Tiny, site: str, layer: int, *changes: Change) -> Iterator[None]:
    """Let each of `changes` see, and edit, the activation at `site` in every forward pass.

    The passes are of as many sequences; each change sees its own.
    """
    parts = _modules(tiny, layer)
    entered: list[Tensor] = []

    def change_all(rows: Tensor) -> None:
        for change, row in zip(changes, rows, strict=True):
            change(row)

    def whole(out: Tensor) -> Tensor:
        return out

    def of_input(view: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
        def hook(_module: Any, args: tuple[Any, ...]) -> Any:
            value = args[0].clone()
            change_all(view(value))
            return (value, *args[1:])

        return hook

    def of_output(view: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
        def hook(_module: Any, _args: Any, output: Any) -> Any:
            value = (output[0] if isinstance(output, tuple) else output).clone()
            change_all(view(value))
            return (value, *output[1:]) if isinstance(output, tuple) else value

        return hook

    def between(_module: Any, _args: Any, output: Any) -> Any:
        # The stream after attention is what entered plus what attention adds. To set it, for the
        # MLP and the skip connection alike, attention is made to add the difference.
        middle = entered[-1] + output[0]
        change_all(middle)
        return (middle - entered[-1], *output[1:])

    if site == "pattern":
        with _softmax_of(parts.attention, change_all):
            yield
        return
    placed = []
    if site == "resid_pre":
        placed.append(parts.block.register_forward_pre_hook(of_input(whole)))
    elif site == "resid_post":
        placed.append(parts.block.register_forward_hook(of_output(whole)))
    elif site == "attn_out":
        placed.append(parts.attention.register_forward_hook(of_output(whole)))
    elif site == "mlp_out":
        placed.append(parts.mlp.register_forward_hook(of_output(whole)))
    elif site == "resid_mid":
        placed.append(
            parts.block.register_forward_pre_hook(lambda _module, args: entered.append(args[0]))
        )
        placed.append(parts.attention.register_forward_hook(between))
    elif site == "z":
        hook = of_input(lambda value: value.unflatten(-1, (-1, D_HEAD)))
        placed.append(parts.out_matrix.register_forward_pre_hook(hook))
    elif site == "mlp_in":
        placed.append(parts.mlp.register_forward_pre_hook(of_input(whole)))
    elif site == "mlp_act":
        placed.append(parts.neurons_out.register_forward_pre_hook(of_input(whole)))
    else:
        module, view = _projection(tiny, parts.attention, site)
        placed.append(module.register_forward_hook(of_output(view)))
    try:
        yield
    finally:
        for handle in placed:
            handle.remove()


def logits(tiny: Tiny, ids: Sequence[int]) -> Tensor:
    """[position, vocabulary] of one unpadded sequence."""
    return copies(tiny, ids, 1)[0]


def copies(tiny: Tiny, ids: Sequence[int], n: int) -> Tensor:
    """[copy, position, vocabulary] of one pass over `n` copies of a sequence."""
    with torch.no_grad():
        out: Tensor = tiny.hf(torch.tensor([list(ids)] * n), use_cache=False).logits
    return out


def logprobs(tiny: Tiny, ids: Sequence[int]) -> Tensor:
    """Log-probabilities [position, vocabulary] of the next token."""
    return logits(tiny, ids).log_softmax(-1)


@functools.lru_cache(maxsize=1024)
def activation(tiny: Tiny, ids: tuple[int, ...], site: str, layer: int) -> Tensor:
    """What stands at a site in one unpadded sequence, shaped as for a `Change`; read only."""
    seen: list[Tensor] = []
    with intervened(tiny, site, layer, lambda value: seen.append(value.clone())):
        logits(tiny, ids)
    return seen[0]


def continuation_logprob(tiny: Tiny, prompt: Sequence[int], continuation: Sequence[int]) -> float:
    """log p(continuation | prompt), in nats, read token by token."""
    return continuation_logprobs(tiny, prompt, continuation, 1)[0]


def continuation_logprobs(
    tiny: Tiny, prompt: Sequence[int], continuation: Sequence[int], n: int
) -> list[float]:
    """The same of each of `n` copies."""
    tables = copies(tiny, [*prompt, *continuation], n).log_softmax(-1)
    return [
        sum(float(table[len(prompt) - 1 + step, token]) for step, token in enumerate(continuation))
        for table in tables
    ]
