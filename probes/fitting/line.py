"""How far to go along a line, for many problems at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

# The slope at the end must lie between these, as shares of the slope at the start.
_STEEPEST, _OVERSHOT = 0.9, 0.5
_MOST = 12


def vecdot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products over the last axis."""
    product: Tensor = torch.linalg.vecdot(a, b)
    return product


def probabilities(z: Float[Tensor, "... predictor"], columns: int, out: Tensor) -> None:
    """Those of the second of two classes (one column), or of each class.

    Args:
        z: linear predictors, the columns one after another on the last axis.
        columns: how many there are.
        out: where to put them.
    """
    if columns == 1:
        torch.sigmoid(z, out=out)
    else:
        shape = *z.shape[:-1], columns, -1
        torch.softmax(z.view(shape), -2, out=out.view(shape))


def residual(
    z: Float[Tensor, "... predictor"],
    counted: Float[Tensor, "... predictor"],
    negated: Float[Tensor, "... predictor"],
    columns: int,
    out: Tensor,
) -> None:
    """The loss' gradient by the linear predictors: weight · (probability - target).

    Args:
        z: see `probabilities`.
        counted: weight of each example, once for each column.
        negated: -weight · target.
        columns: see `probabilities`.
        out: where to put it.
    """
    probabilities(z, columns, out)
    torch.addcmul(negated, out, counted, out=out)


@dataclass(frozen=True)
class Line:
    """Objectives along lines, one for each problem [problem, predictor].

    Attributes:
        z, zp: linear predictors at the start, and how they change.
        counted, negated, columns: see `residual`.
        start: slope at the start [problem].
        bend: linear and quadratic part of the penalty's slope [problem], twice.
    """

    z: Tensor
    zp: Tensor
    counted: Tensor
    negated: Tensor
    columns: int
    start: Tensor
    bend: tuple[Tensor, Tensor]

    def at(self, length: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Linear predictors, residuals and slopes after so long a step."""
        z = torch.addcmul(self.z, self.zp, length[:, None])
        r = torch.empty_like(z)
        residual(z, self.counted, self.negated, self.columns, r)
        return z, r, vecdot(r, self.zp) + self.bend[0] + length * self.bend[1]


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
