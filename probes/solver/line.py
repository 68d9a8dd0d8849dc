"""How far to go along a line, for many problems at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

# The slope at the end must lie between these, as shares of the slope at the start.
_STEEPEST, _OVERSHOT = 0.9, 0.5
_MOST = 12


def residual(
    z: Float[Tensor, "*batch column example"],
    counted: Float[Tensor, "*batch 1 example"],
    negated: Float[Tensor, "*batch column example"],
    out: Tensor | None = None,
) -> Float[Tensor, "*batch column example"]:
    """The loss' gradient by the linear predictors: weight · (probability - target).

    Args:
        z: linear predictors.
        counted: weight of each example.
        negated: -weight · target.
        out: where to put it.
    """
    if z.shape[-2] == 1:
        probability = torch.sigmoid(z, out=out) if out is not None else torch.sigmoid(z)
    elif out is not None:
        probability = torch.softmax(z, -2, out=out)
    else:
        probability = torch.softmax(z, -2)
    return torch.addcmul(negated, probability, counted, out=probability)


def slopes(a: Tensor, b: Tensor) -> Tensor:
    """Inner products over the last two axes."""
    if a.shape[-2] == 1:
        a, b = a[..., 0, :], b[..., 0, :]
    else:
        a, b = a.flatten(-2), b.flatten(-2)
    product: Tensor = torch.linalg.vecdot(a, b)
    return product


@dataclass(frozen=True)
class Line:
    """Objectives along lines, one for each problem [problem, …].

    Attributes:
        z, zp: linear predictors at the start, and how they change.
        counted, negated: see `residual`.
        start: slope at the start [problem].
        bend: linear and quadratic part of the penalty's slope [problem], twice.
    """

    z: Tensor
    zp: Tensor
    counted: Tensor
    negated: Tensor
    start: Tensor
    bend: tuple[Tensor, Tensor]

    def at(self, length: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Linear predictors, residuals and slopes after so long a step."""
        z = torch.addcmul(self.z, self.zp, length[:, None, None])
        r = residual(z, self.counted, self.negated)
        return z, r, slopes(r, self.zp) + self.bend[0] + length * self.bend[1]


def good(slope: Tensor, start: Tensor) -> Tensor:
    """Whether the slope at the end is flat enough.

    The objective is convex, so that where the slope is still negative it has fallen; beyond the
    minimum it may not have climbed as steeply as half of what it fell with.
    """
    return (slope <= _OVERSHOT * start.abs()) & (slope >= _STEEPEST * start)


def search(line: Line, frozen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Step lengths with good slopes, and predictors and residuals there; 0 where `frozen`.

    A root of the slope is bracketed and closed in on by secants (regula falsi with the Illinois
    rule), which are exact for quadratics.
    """
    length = (~frozen).to(line.start)
    low, at_low = torch.zeros_like(length), line.start.clone()
    high, at_high = torch.full_like(length, torch.inf), torch.zeros_like(length)
    z, r, slope = line.at(length)
    for _ in range(_MOST):
        fine = frozen | good(slope, line.start)
        if bool(fine.all()):
            break
        falls = slope < 0
        # An end that stays twice loses half of its weight, or the secant would creep.
        at_low, at_high = (
            torch.where(falls, slope, at_low / 2),
            torch.where(falls, at_high / 2, slope),
        )
        low, high = torch.where(falls, length, low), torch.where(falls, high, length)
        secant = low - at_low * (high - low) / (at_high - at_low)
        further = length * (line.start / (line.start - slope)).clamp(1.5, 5.0)
        length = torch.where(fine, length, torch.where(high.isinf(), further, secant))
        z, r, slope = line.at(length)
    return length, z, r
