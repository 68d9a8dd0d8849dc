"""Interventions by torch's own hooks on Hugging Face's own modules, whatever the architecture.

TransformerLens and `interp` play no part. Sequences are run whole and unpadded; only copies of one
sequence, each with a change of its own, share a pass.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from tests.interp.architectures import D_HEAD, Layout

Change = Callable[[Tensor], object]
"""Gets one activation [position, …]; may edit it in place."""
View = Callable[[Tensor], Tensor]


@contextlib.contextmanager
def intervened(hf: Any, layout: Layout, site: str, layer: int, *changes: Change) -> Iterator[None]:
    """Let each of `changes` see, and edit, the activation at `site` in every forward pass.

    The passes are of as many sequences of one length; each change sees its own. Queries and keys
    are seen as projected, before norms and rotation; patterns as [head, destination, source].
    """
    block = hf.get_submodule(layout.blocks)[layer]
    with contextlib.ExitStack() as stack:
        for handle in _hooks(block, layout, site, changes):
            stack.callback(handle.remove)
        yield


def logits(hf: Any, ids: Sequence[int]) -> Tensor:
    """[position, vocabulary] of one unpadded sequence."""
    return copies(hf, ids, 1)[0]


def copies(hf: Any, ids: Sequence[int], n: int) -> Tensor:
    """[copy, position, vocabulary] of one pass over `n` copies of a sequence."""
    with torch.no_grad():
        out: Tensor = hf(torch.tensor([list(ids)] * n), use_cache=False).logits
    return out


def activation(hf: Any, layout: Layout, site: str, layer: int, ids: Sequence[int]) -> Tensor:
    """The activation [position, …] of one unpadded sequence."""
    seen: list[Tensor] = []
    with intervened(hf, layout, site, layer, lambda value: seen.append(value.clone())):
        logits(hf, ids)
    return seen[0]


def _hooks(block: Any, layout: Layout, site: str, changes: Sequence[Change]) -> Iterator[Any]:
    def module(name: str) -> Any:
        return block.get_submodule(name)

    if site == "resid_pre":
        yield block.register_forward_pre_hook(_on_input(changes))
    elif site == "resid_post":
        yield block.register_forward_hook(_on_output(changes))
    elif site in ("attn_out", "mlp_out"):
        out = module(layout.attn_out if site == "attn_out" else layout.mlp_out)
        yield out.register_forward_hook(_on_output(changes, scale=layout.scale))
    elif site == "resid_mid":
        entered: list[Tensor] = []
        yield block.register_forward_pre_hook(lambda _module, args: entered.append(args[0]))

        def between(row: int, change: Change, added: Tensor) -> None:
            # The stream after attention is what entered plus what attention adds. To set it, for
            # the MLP and the skip connection alike, attention is made to add the difference.
            middle = entered[-1][row] + added
            change(middle)
            added.copy_(middle - entered[-1][row])

        betweens = [functools.partial(between, *numbered) for numbered in enumerate(changes)]
        out = module(layout.attn_out)
        yield out.register_forward_hook(_on_output(betweens, scale=layout.scale))
    elif site == "mlp_act":
        assert layout.neurons is not None
        yield module(layout.neurons).register_forward_pre_hook(_on_input(changes))
    elif site == "z":
        hook = _on_input(changes, lambda value: value.unflatten(-1, (-1, D_HEAD)))
        yield module(layout.out_matrix).register_forward_pre_hook(hook)
    elif site == "pattern":
        mode = _OnSoftmax(changes)
        attention = module(layout.attention)
        yield attention.register_forward_pre_hook(lambda *_: mode.__enter__() and None)
        yield attention.register_forward_hook(lambda *_: mode.__exit__(None, None, None))
    else:
        name, view = _projection(layout, "qkv".index(site))
        yield module(name).register_forward_hook(_on_output(changes, view))


def _projection(layout: Layout, which: int) -> tuple[str, View]:
    """The module that makes q, k or v, and a view of its output as [position, head, d_head]."""
    if layout.fused == "apart":
        return layout.qkv[which], lambda out: out.unflatten(-1, (-1, D_HEAD))
    (name,) = layout.qkv
    if layout.fused == "by kind":
        return name, lambda out: out.unflatten(-1, (3, -1, D_HEAD))[..., which, :, :]
    if layout.fused == "by head":
        return name, lambda out: out.unflatten(-1, (-1, 3, D_HEAD))[..., which, :]
    heads = (slice(None, -2), slice(-2, -1), slice(-1, None))[which]
    return name, lambda out: out.unflatten(-1, (-1, D_HEAD))[..., heads, :]


def _apply(changes: Sequence[Change], value: Tensor, view: View = lambda value: value) -> None:
    # OPT's MLP sees [batch × position, width].
    rows = value if value.ndim > 2 else value.view(len(changes), -1, value.shape[-1])
    for change, row in zip(changes, rows, strict=True):
        change(view(row))


def _on_input(changes: Sequence[Change], view: View = lambda value: value) -> Callable[..., Any]:
    def hook(_module: Any, args: tuple[Any, ...]) -> Any:
        value = args[0].clone()
        _apply(changes, value, view)
        return (value, *args[1:])

    return hook


def _on_output(
    changes: Sequence[Change], view: View = lambda value: value, scale: float = 1.0
) -> Callable[..., Any]:
    def hook(_module: Any, _args: Any, output: Any) -> Any:
        value = (output[0] if isinstance(output, tuple) else output) * scale
        _apply(changes, value, view)
        value = value / scale
        return (value, *output[1:]) if isinstance(output, tuple) else value

    return hook


class _OnSoftmax(TorchFunctionMode):
    """While it is active, the results of softmax can be edited."""

    def __init__(self, changes: Sequence[Change]) -> None:
        super().__init__()
        self.changes = changes

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is functional.softmax:
            _apply(self.changes, result)
        return result
