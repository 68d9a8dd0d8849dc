"""How heads and neurons write to the residual stream: by a matrix, and by what stands behind it.

A norm behind attention or MLP (Gemma 2, OLMo 2) divides by a number that all units of a layer make
together. With that number held at what it is in a run, the norm is linear: each unit has a share of
what is added to the stream, and the shares add up to it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.components.linear import affine, precise
from interp.components.norms import Norm, closed_norm
from interp.forward.packing import find
from interp.forward.passes import TOLERANCE, relative_error
from interp.model.model import Model


@dataclass(frozen=True)
class Writer:
    """The matrix by which heads or neurons write, and the norm or factor after it.

    Attributes:
        matrix: [unit, d_model], of all units of a layer.
        bias: that no unit owns [d_model].
        norm: what its output passes before it is added to the stream, if anything.
        factor: what its output is multiplied with (Granite).
    """

    matrix: Float[Tensor, "unit d_model"]
    bias: Float[Tensor, " d_model"]
    norm: Norm | None = None
    factor: float = 1.0

    @classmethod
    def of(
        cls,
        model: Model,
        layer: int,
        name: str,
        units: Float[Tensor, "... unit"],
        added: Float[Tensor, "... d_model"],
    ) -> Writer | None:
        """How what attention ("attn") or MLP ("mlp") added came from its heads or neurons.

        None where it came in another way.
        """
        block = model.bridge.blocks[layer]
        module = find(block, "attn.o" if name == "attn" else "mlp.out")
        if module is None:
            return None
        with model.lock:
            matrix, bias = affine(module, units.shape[-1], added)
        made = units @ matrix + bias
        post = find(block, "ln1_post" if name == "attn" else "ln2_post")
        norm = None if post is None else closed_norm(model, post, made)
        behind = made if norm is None else norm(made)
        writer = cls(matrix, bias, norm, factor_between(behind, added))
        agrees = relative_error(writer.added(units), added) <= TOLERANCE[model.dtype]
        return writer if agrees else None

    @functools.cached_property
    def folded(self) -> tuple[Float[Tensor, "unit d_model"], Float[Tensor, " d_model"]]:
        """Matrix and bias with the norm's gain and centring, and the factor, in them.

        Times `inverse_scale` they make what is added, but for the norm's shift.
        """
        if self.norm is None and self.factor == 1.0:
            return self.matrix, self.bias
        both = torch.cat([self.matrix, self.bias[None]])
        both = (both.float() if both.dtype.itemsize < 4 else both) * self.factor
        if self.norm is not None:
            if self.norm.centred:
                both = both - both.mean(1, keepdim=True)
            both = both * self.norm.gain
        both = both.to(self.matrix.dtype)
        return both[:-1], both[-1]

    @functools.cached_property
    def scales_bias(self) -> bool:
        """Whether a norm scales a bias that no unit owns."""
        return self.norm is not None and bool(self.bias.any())

    def inverse_scale(self, units: Float[Tensor, "... unit"]) -> Float[Tensor, "... 1"]:
        """One over what the norm divides by when the units put this out; 1 without a norm."""
        if self.norm is None:
            return units.new_ones(*units.shape[:-1], 1)
        return self.norm.moments(units @ self.matrix + self.bias)[1].to(units.dtype)

    def added(self, units: Float[Tensor, "... unit"]) -> Float[Tensor, "... d_model"]:
        """What all units, and the bias, add to the stream."""
        made = units @ self.matrix + self.bias
        if self.norm is not None:
            made = self.norm(made).to(made.dtype)
        return made if self.factor == 1.0 else made * self.factor


def factor_between(made: Tensor, added: Tensor) -> float:
    """What `made` was multiplied with to be `added`; exactly 1 where that does as well."""
    square = float(precise(made).square().sum())
    factor = float((precise(made) * precise(added)).sum()) / square if square else 1.0
    as_it_is, scaled = relative_error(made, added), relative_error(made * factor, added)
    return 1.0 if as_it_is <= 2 * scaled + torch.finfo(torch.float32).eps else factor


def output_matrix(model: Model, layer: int) -> Float[Tensor, "head d_head d_model"]:
    """By which each head writes its `z`, before any norm or factor that stands behind."""
    width = model.n_heads * int(model.bridge.cfg.d_head)
    like = next(model.bridge.original_model.parameters())
    with model.lock:
        matrix, _ = affine(model.bridge.blocks[layer].attn.o, width, like)
    return matrix.reshape(model.n_heads, -1, matrix.shape[1])
