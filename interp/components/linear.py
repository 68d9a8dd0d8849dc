"""Linear parts of a model: their matrix and bias, whatever class computes them."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.forward.passes import TOLERANCE, relative_error
from interp.model.packed import unpacked


def precise(values: Tensor) -> Tensor:
    """In float64, where the device has it: sums of shares lose what single ones keep."""
    return values.float() if values.device.type == "mps" else values.double()


def position_wise(module: Any, values: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_out"]:
    """Run a module that expects [batch, position, d_in] on values of any shape."""
    out: Tensor = module(values.reshape(1, -1, values.shape[-1]))
    return out.reshape(*values.shape[:-1], -1)


@torch.no_grad()
def affine(
    module: Any, width: int, like: Tensor
) -> tuple[Float[Tensor, "d_in d_out"], Float[Tensor, " d_out"]]:
    """What a module multiplies with and adds, found by trying it.

    Args:
        width: of its input.
        like: a tensor of the model's device and dtype.
    """
    zero = torch.zeros(1, width, device=like.device, dtype=like.dtype)
    bias = position_wise(module, zero)
    matrix = _stored(module, bias)
    if matrix is None:
        unit = torch.eye(width, device=like.device, dtype=like.dtype)
        matrix = position_wise(module, unit) - bias
    return matrix, bias[0]


def each_head(
    values: Float[Tensor, "row head position d_in"], matrix: Float[Tensor, "head d_in d_out"]
) -> Float[Tensor, "row head position d_out"]:
    """Each head's values by its own matrix."""
    # A product of [row, head, …] by [head, …] would copy the matrices for every row.
    n_rows, n_heads, n_positions, _ = values.shape
    flat = values.transpose(0, 1).reshape(n_heads, n_rows * n_positions, -1)
    return torch.bmm(flat, matrix).reshape(n_heads, n_rows, n_positions, -1).transpose(0, 1)


def _stored(module: Any, bias: Float[Tensor, "1 d_out"]) -> Tensor | None:
    """The module's weight as [d_in, d_out], if on a few inputs that is what it multiplies with."""
    weight = getattr(getattr(module, "original_component", module), "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2 or weight.dtype not in TOLERANCE:
        return None
    weight = unpacked(weight)
    for matrix in (weight, weight.T):
        if matrix.shape[1] != bias.shape[1]:
            continue
        probe = torch.linspace(-1, 1, 3 * len(matrix), device=weight.device, dtype=weight.dtype)
        probe = probe.reshape(3, -1).roll(7, 1)
        made = position_wise(module, probe) - bias
        if relative_error(probe @ matrix, made) <= TOLERANCE[weight.dtype]:
            return matrix
    return None
