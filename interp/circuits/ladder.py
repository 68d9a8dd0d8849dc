"""Runs at many points between two, stacked on the batch axis, and one backward pass for all.

Rows join the batch where they first differ from the base run, so that nothing below is computed
again. Going down, where a row is the base run again its gradient is added to the base row's: both
are linearised at the same point. One layer's graph is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from interp.circuits.readers import ReaderGradients
from interp.components.components import PROJECTIONS, Components
from interp.components.contrast import Contrast
from interp.forward.passes import resume
from interp.model.memory import batches, rows_that_fit

Collect = Callable[[int, str, Tensor], None]
"""Gets a layer, "attn" (its queries, keys and values in turn), "mlp" or "logits", and gradients
[example, reader, position, d_model] by what these read."""


@dataclass
class Ladder:
    """Rows between the base and the other run.

    Attributes:
        contrast: the two runs.
        mixes: shares of the base run at which each group of rows stands: 1 is the base run.
        everywhere: whether there is, besides the group of rows that differ in the embedding, one
            for each layer's heads and one for each MLP, which differ there. The first rows are
            then the base run itself, for the others to fall back to.
    """

    contrast: Contrast
    mixes: Sequence[float]
    everywhere: bool = False
    # The rows' streams into each block, and those of rows that join between attention and MLP.
    _pre: list[Tensor] = field(default_factory=list)
    _mid: dict[int, Tensor] = field(default_factory=dict)

    def gradients(self, collect: Collect) -> None:
        """Gradients of minus the metric by what is read, averaged over the groups of rows.

        `collect` gets them from the last reader to the first.
        """
        self._climb()
        contrast, n_layers = self.contrast, self.contrast.parts.model.n_layers
        final = self._pre.pop()
        groups = len(final) // len(contrast)
        _, gradient = contrast.scorer.gradient(final, contrast.examples.repeat(groups))
        gradient = gradient * (-1.0 / (groups - self.everywhere))
        if self.everywhere:
            gradient[: len(contrast)] = 0.0
        collect(n_layers, "logits", self._by_example(gradient)[:, None])
        for layer in range(n_layers - 1, -1, -1):
            gradient = self._descend(layer, gradient, collect)
            self._pre.pop()

    def _climb(self) -> None:
        contrast, parts, base = self.contrast, self.contrast.parts, self.contrast.base
        if not self.everywhere and list(self.mixes) == [1.0]:
            self._pre = [base.pre(layer) for layer in range(parts.model.n_layers + 1)]
            return
        between = self._mixed(base.pre(0), contrast.input_change())
        self._pre = [torch.cat([base.pre(0), between]) if self.everywhere else between]
        for layer in range(parts.model.n_layers):
            rows = self._rows(len(self._pre[layer]))
            post = [
                resume(
                    parts.model, base.recording, self._pre[layer], rows, start=layer, stop=layer + 1
                )
            ]
            if self.everywhere:
                post += self._joining(layer)
            self._pre.append(torch.cat(post))

    @torch.no_grad()
    def _joining(self, layer: int) -> list[Tensor]:
        """Streams out of the layer of rows that differ in its heads, and in its MLP."""
        contrast, parts, base = self.contrast, self.contrast.parts, self.contrast.base
        change = contrast.layer_change(layer)
        after = base.pre(layer + 1)
        heads = self._mixed(after, change[:, :-1].sum(1))
        if parts.mlp_reads_mid:
            self._mid[layer] = heads - self._repeated(base.mlp(layer))
            heads = self._mid[layer] + parts.mlp(layer, self._mid[layer])
        return [heads, self._mixed(after, change[:, -1])]

    def _descend(self, layer: int, gradient: Tensor, collect: Collect) -> Tensor:
        """The gradient by the streams into this layer, from that by those out of it."""
        contrast, parts = self.contrast, self.contrast.parts
        streams = self._pre[layer]
        rows = self._rows(len(streams))
        passed = self._handed_down(layer, gradient, len(streams))
        below = torch.empty_like(streams)
        readers, to_mlp = ReaderGradients(parts, layer, len(contrast), streams), passed.collected

        def work(start: int, stop: int) -> None:
            part = slice(start, stop)
            linear = _Layer(parts, contrast, layer, streams[part], rows[part])
            into_mlp = linear.through_mlp(passed.mlp[part])
            up = passed.heads[part]
            if parts.mlp_reads_mid:
                up = up + into_mlp
            into_stream, into_heads = linear.through_heads(up)
            below[part] = passed.skip[part] + into_mlp + into_stream
            readers.add(start, rows[part], linear.projected, into_heads)
            to_mlp.index_add_(0, rows[part], into_mlp)

        size = rows_that_fit(parts.model, 4 * parts.model.memory_per_row(streams.shape[1]))
        for _ in batches(len(streams), size, work):
            pass
        collect(layer, "mlp", to_mlp[:, None])
        collect(layer, "attn", readers.by_stream())
        return below

    def _handed_down(self, layer: int, gradient: Tensor, n_pre: int) -> _Passed:
        """Divide the gradient above a layer among its MLP, its heads, and the way around both."""
        own = gradient[:n_pre]
        nothing = torch.zeros_like(own[: len(self.contrast)])
        if not self.everywhere:
            return _Passed(own, own, own, nothing)
        # Rows that join in this layer are the base run below, and cut off from what they replace.
        width = (len(gradient) - n_pre) // 2
        heads, mlp = gradient[n_pre : n_pre + width], gradient[n_pre + width :]
        into_mlp = nothing
        if self.contrast.parts.mlp_reads_mid:
            found = _mlp_gradient(self.contrast.parts, layer, self._mid.pop(layer), heads)
            into_mlp = self._by_example(found)
            heads = heads + found
        from_heads, from_mlp = self._by_example(heads), self._by_example(mlp)
        skip, to_heads, to_mlp = own.clone(), own.clone(), own
        n_base = len(self.contrast)
        skip[:n_base] += from_heads + from_mlp
        to_heads[:n_base] += from_mlp
        if not self.contrast.parts.mlp_reads_mid:
            to_mlp = own.clone()
            to_mlp[:n_base] += from_heads
        return _Passed(skip, to_heads, to_mlp, into_mlp)

    def _rows(self, n: int) -> Tensor:
        """For each row the example it belongs to."""
        device = self.contrast.parts.model.device
        return torch.arange(len(self.contrast), device=device).repeat(n // len(self.contrast))

    def _repeated(self, value: Tensor) -> Tensor:
        return value.repeat(len(self.mixes), *(1,) * (value.ndim - 1))

    def _mixed(self, base: Tensor, change: Tensor) -> Tensor:
        """One group of rows: the base run's value, moved toward the other's."""
        return torch.cat([base + (1.0 - mix) * change for mix in self.mixes])

    def _by_example(self, rows: Tensor) -> Tensor:
        return rows.reshape(-1, len(self.contrast), *rows.shape[1:]).sum(0)


@dataclass(frozen=True)
class _Passed:
    """A gradient on its way down [row, position, d_model]: around a layer, and into its parts."""

    skip: Tensor
    heads: Tensor
    mlp: Tensor
    collected: Float[Tensor, "example position d_model"]


class _Layer:
    """One layer linearised at the streams of some rows."""

    def __init__(
        self, parts: Components, contrast: Contrast, layer: int, streams: Tensor, rows: Tensor
    ) -> None:
        self.parts, self.layer, self.streams = parts, layer, streams
        with torch.enable_grad():
            self.leaf = streams.detach().requires_grad_()
            normed = parts.normed(layer, "attn", self.leaf)
            self.projected = [parts.projected(layer, p, normed) for p in PROJECTIONS]
            self.z = parts.attend(layer, contrast.base, rows, *self.projected, grad=True)

    def through_mlp(self, gradient: Tensor) -> Tensor:
        mid = self.streams
        if self.parts.mlp_reads_mid:
            with torch.no_grad():
                mid = mid + self.parts.attention_out(self.layer, self.z)
        return _mlp_gradient(self.parts, self.layer, mid, gradient)

    def through_heads(self, gradient: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """By the stream, all heads together, and by queries, keys and values."""
        into_z = self.parts.attention_gradient(self.layer, self.z, gradient)
        into_stream, *others = torch.autograd.grad(self.z, [self.leaf, *self.projected], into_z)
        return into_stream, tuple(others)


def _mlp_gradient(parts: Components, layer: int, stream: Tensor, gradient: Tensor) -> Tensor:
    with torch.enable_grad():
        leaf = stream.detach().requires_grad_()
        out = parts.mlp(layer, leaf)
    (found,) = torch.autograd.grad(out, leaf, gradient)
    return found
