"""How far an attack moves a variable: coordinates of the stream in units of the classes' distance.

Everything here is of plain arrays; which prompts they are of is `measure`'s affair.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from interp.stats import auroc

__all__ = ["SEPARATES", "VARIABLES", "Axis", "axis"]

Floats = npt.NDArray[np.float64]

VARIABLES = ("harmful", "declines")
"""What is planted."""
SEPARATES = 0.8
"""Of pairs of held-out requests, one of each class: where an axis tells fewer apart, nothing is
measured in the distance between them. At .8 that is 1.2 standard deviations (of normal classes),
and with 60 of each its standard error is some 15% of it."""


@dataclass(frozen=True)
class Axis:
    """A direction with two points on it, of one layer.

    Attributes:
        direction: of the stream [d_model].
        zero, one: the classes' mean coordinates along it.
        separates: of pairs of an example of each class, how many lie in the right order.
    """

    direction: Floats
    zero: float
    one: float
    separates: float

    @property
    def clear(self) -> bool:
        """Whether the classes lie far enough apart for their distance to be a unit."""
        return self.separates >= SEPARATES and self.one > self.zero

    def coordinates(self, streams: Floats) -> Floats:
        """Streams [example, d_model] as coordinates [example]: the classes' means are 0 and 1; NaN
        where the axis is not clear."""
        if not self.clear:
            return np.full(len(streams), np.nan)
        found: Floats = (streams @ self.direction - self.zero) / (self.one - self.zero)
        return found


def axis(fit: tuple[Floats, Floats], held_out: tuple[Floats, Floats]) -> Axis:
    """The difference of two classes' means, with its unit from other examples.

    Args:
        fit: streams [example, d_model] with the variable and without, which give the direction.
        held_out: the same of other examples, which give the unit.
    """
    direction = fit[0].mean(0) - fit[1].mean(0)
    with_it, without = (streams @ direction for streams in held_out)
    separates = float(auroc(with_it, without))
    return Axis(direction, float(without.mean()), float(with_it.mean()), separates)
