"""Gradients by what each query, key and value of a layer reads, summed over rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.components.components import PROJECTIONS, Components
from interp.components.linear import each_head


class ReaderGradients:
    """Carry gradients by queries, keys and values back to the stream, each head by itself.

    With u the normed stream before its gain and W a head's matrix with the gain in it, the norm
    turns a gradient g by the head's values into (W g − mean(W g) − u (u · W g) / d) / scale, and
    u · W g is g times the head's values without bias. So g / scale can be summed over rows before
    it is made as wide as the stream, and one number for each reader and position does the rest.

    Args:
        parts: the model's parts.
        layer: which layer.
        n_examples: rows belong to examples in turn, 0, 1, …, 0, 1, ….
        streams: the streams into the layer [row, position, d_model].
    """

    def __init__(self, parts: Components, layer: int, n_examples: int, streams: Tensor) -> None:
        self.parts, self.layer, self.n_examples = parts, layer, n_examples
        self.norm = parts.attention_norm(layer)
        n_rows, n_positions, self.width = streams.shape
        self.summed: list[Tensor | None] = [None] * len(PROJECTIONS)
        if self.norm is not None:
            mean, self.inverse_scale = self.norm.moments(streams)
            self.normed = (streams.float() - mean) * self.inverse_scale
            n_readers = sum(parts.n_readers(p) for p in PROJECTIONS)
            self.along = self.normed.new_zeros(n_rows, n_readers, n_positions)

    def add(
        self,
        start: int,
        rows: Int[Tensor, " row"],
        projected: Sequence[Float[Tensor, "row position head d_head"]],
        gradients: Sequence[Float[Tensor, "row position head d_head"]],
    ) -> None:
        """Count rows in, from row `start` on; `rows` are the examples they belong to."""
        first = 0
        for i, projection in enumerate(PROJECTIONS):
            gradient = gradients[i].float()
            if self.norm is not None:
                part = slice(start, start + len(rows))
                gradient = gradient * self.inverse_scale[part, :, :, None]
                bias = self.parts.folded_weights(self.layer, projection)[1]
                values = projected[i].detach().float() - bias.float()
                along = (values * gradient).sum(-1).transpose(1, 2) / self.width
                self.along[part, first : first + along.shape[1]] = along
                first += along.shape[1]
            total = self.summed[i]
            if total is None:
                total = gradient.new_zeros(self.n_examples, *gradient.shape[1:])
                self.summed[i] = total
            total.index_add_(0, rows, gradient)

    def by_stream(self) -> Float[Tensor, "example reader position d_model"]:
        """The gradients by what all queries, keys and values in turn read."""
        wide = []
        for projection, total in zip(PROJECTIONS, self.summed, strict=True):
            assert total is not None  # there is at least one row
            matrix = self.parts.folded_weights(self.layer, projection)[0].float()
            wide.append(each_head(total.transpose(1, 2), matrix.transpose(1, 2)))
        found = torch.cat(wide, dim=1)
        if self.norm is None:
            return found
        if self.norm.centred:
            found -= found.mean(-1, keepdim=True)
        shape = (-1, self.n_examples)
        along = self.along.reshape(*shape, *self.along.shape[1:])
        normed = self.normed.reshape(*shape, *self.normed.shape[1:])
        return found - torch.einsum("kerp,kepd->erpd", along, normed)
