"""What each layer of a model is made of, found by trying it on the model's own numbers.

Norms stand before or behind attention and MLP, what is written may be multiplied, and an MLP may
take more than what it reads, or be no module at all. What does not add up is refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from interp.components.linear import position_wise
from interp.components.norms import Norm, closed_norm
from interp.components.writers import Writer, factor_between
from interp.errors import ModelError
from interp.forward.hooks import passing
from interp.forward.packing import find
from interp.forward.passes import TOLERANCE, Recording, relative_error
from interp.model.model import Model
from interp.sites import Site

Projection = Literal["q", "k", "v"]
PROJECTIONS: tuple[Projection, ...] = ("q", "k", "v")
Reads = dict[tuple[int, str], Tensor]
"""By layer and reader ("attn" or "mlp"), what it read."""
Alone = Callable[[Tensor], Tensor]

_NORMS = ("ln1", "ln2", None)
# By reader, the modules whose input shows what it reads: the first of them that was called.
_READS = {"attn": ("attn.q",), "mlp": ("mlp", "mlp.in")}


@dataclass(frozen=True)
class LayerParts:
    """What one layer is made of.

    Attributes:
        before_attention, before_mlp: the modules of the norms that they read through, if any.
        attention_norm: the first of these in closed form.
        heads: how heads write.
        mlp: from what the MLP reads, behind the norm, to what it adds.
        after_mlp, mlp_factor: the norm that its output passes, and what it is multiplied with.
    """

    before_attention: Any
    before_mlp: Any
    attention_norm: Norm | None
    heads: Writer
    mlp: Alone
    after_mlp: Norm | None
    mlp_factor: float


@contextlib.contextmanager
def reads_of(model: Model) -> Iterator[Reads]:
    """Inside, a run of the model fills the result with what attention and MLPs read."""
    read: Reads = {}
    with model.lock, contextlib.ExitStack() as stack:
        for layer, block in enumerate(model.bridge.blocks):
            for reader, names in _READS.items():

                @passing
                def keep(_module: Any, args: Any, key: tuple[int, str] = (layer, reader)) -> None:
                    read.setdefault(key, args[0].detach().clone())

                for module in filter(None, (find(block, name) for name in names)):
                    stack.callback(module.register_forward_pre_hook(keep).remove)
        yield read


@torch.no_grad()
def layer_parts(
    model: Model, seen: Recording, read: Reads, mlp_reads_mid: bool
) -> list[LayerParts]:
    """
    Args:
        seen: one prompt, with "resid_pre", "z", "attn_out" and "mlp_out" of each layer and the
            final stream.
        read: what was read in it.

    Raises:
        ModelError: the layers are no sums of heads and MLPs that read the stream behind a norm.
    """
    layers = range(model.n_layers)
    for reader in _READS:
        if any((layer, reader) not in read for layer in layers):
            raise _unreadable(model, reader)
    pre, z, attention, mlps = (
        [seen[Site(name, i)] for i in layers] for name in ("resid_pre", "z", "attn_out", "mlp_out")
    )
    post = [*pre[1:], seen[Site("resid_post", layers[-1])]]
    heads: list[Writer] = []
    for i in layers:
        writer = Writer.of(model, i, "attn", z[i].flatten(2), attention[i])
        if writer is None or not _agrees(model, attention[i] + mlps[i], post[i] - pre[i]):
            raise ModelError(
                f"What layer {i} of {model.name} adds to the residual stream is not the sum of "
                "its heads and its MLP, so it has no edges; sweep its sites instead."
            )
        heads.append(writer)
    mid = [p + a for p, a in zip(pre, attention, strict=True)] if mlp_reads_mid else pre
    before, before_mlp = (
        _norms_before(model, reader, streams, [read[i, reader] for i in layers])
        for reader, streams in (("attn", pre), ("mlp", mid))
    )
    parts = []
    for i in layers:
        closed = None if before[i] is None else closed_norm(model, before[i], pre[i])
        if before[i] is not None and closed is None:
            raise _unreadable(model, "attn")
        alone = _mlp_alone(model, i, read[i, "mlp"], mlps[i])
        parts.append(LayerParts(before[i], before_mlp[i], closed, heads[i], *alone))
    return parts


def _norms_before(
    model: Model, reader: str, streams: list[Tensor], read: list[Tensor]
) -> list[Any]:
    """The norm of each layer that makes what is read of the stream; None where none does."""
    blocks = model.bridge.blocks
    for name in _NORMS:
        norms = [find(block, name) if name else None for block in blocks]
        if name and None in norms:
            continue
        found = []
        for norm, stream in zip(norms, streams, strict=True):
            with model.lock:
                found.append(position_wise(norm, stream) if norm else stream)
        pairs = zip(found, read, strict=True)
        if all(_agrees(model, ours, theirs.reshape(ours.shape)) for ours, theirs in pairs):
            return norms
    raise _unreadable(model, reader)


def _mlp_alone(
    model: Model,
    layer: int,
    read: Float[Tensor, "... d_model"],
    added: Float[Tensor, "example position d_model"],
) -> tuple[Alone, Norm | None, float]:
    """How the MLP is run without its block, the norm behind it, and a factor."""
    block = model.bridge.blocks[layer]
    post = find(block, "ln2_post")
    for way in _ways(block):
        try:
            with model.lock:
                made = way(read.reshape(added.shape))
                behind = made if post is None else position_wise(post, made)
        except (AttributeError, RuntimeError, TypeError):  # it takes something else
            continue
        factor = factor_between(behind, added)
        if _agrees(model, behind * factor, added):
            norm = None if post is None else closed_norm(model, post, made)
            return _behind(way, post, factor), norm, factor
    raise _unreadable(model, "mlp")


def _ways(block: Any) -> Iterator[Alone]:
    module = block.mlp
    yield lambda read: position_wise(module, read)

    def without_stream(read: Tensor) -> Tensor:
        """BLOOM's MLPs are given the stream as well, and add it."""
        flat = read.reshape(1, -1, read.shape[-1])
        out: Tensor = module(flat, torch.zeros_like(flat))
        return out.reshape(*read.shape[:-1], -1)

    yield without_stream

    def in_steps(read: Tensor) -> Tensor:
        """OPT's blocks have the steps of an MLP, and no module that takes them."""
        act = block.original_component.activation_fn
        return position_wise(
            find(block, "mlp.out"), act(position_wise(find(block, "mlp.in"), read))
        )

    yield in_steps


def _behind(way: Alone, post: Any, factor: float) -> Alone:
    if post is None and factor == 1.0:
        return way

    def alone(read: Tensor) -> Tensor:
        made = way(read) if post is None else position_wise(post, way(read))
        return made if factor == 1.0 else made * factor

    return alone


def _agrees(model: Model, ours: Tensor, theirs: Tensor) -> bool:
    return relative_error(ours, theirs) <= TOLERANCE[model.dtype]


def _unreadable(model: Model, reader: str) -> ModelError:
    return ModelError(
        f"What the {reader} of {model.name} reads is not the residual stream behind a layer norm "
        "or RMS norm, so its edges cannot be told; sweep its sites instead."
    )
