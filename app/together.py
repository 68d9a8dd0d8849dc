"""Examples that were chosen together, with a lasso: as text in a link, and among results."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import xarray as xr

MOST = 2000
"""Examples that are taken together, at most."""

_RANGE = re.compile(r"([0-9]{1,6})(?:-([0-9]{1,6}))?\Z")


@dataclass(frozen=True)
class Together:
    """Several examples.

    Attributes:
        column: the coordinate of results that tells them.
        values: its values: a kind, or the examples' numbers.
        lassoed: whether somebody has chosen them one by one, by what they show.
    """

    column: str
    values: tuple[str, ...] | tuple[int, ...]
    lassoed: bool

    def among(self, result: xr.Dataset) -> list[int]:
        """Which examples of a result they are."""
        return [int(at) for at in np.nonzero(np.isin(result[self.column].values, self.values))[0]]


def to_text(numbers: Iterable[int]) -> str:
    """Numbers of examples for a link: "1-4.9" for 1, 2, 3, 4 and 9."""
    ends: list[list[int]] = []
    for number in sorted(set(numbers)):
        if ends and ends[-1][1] == number - 1:
            ends[-1][1] = number
        else:
            ends.append([number, number])
    return ".".join(f"{low}" if low == high else f"{low}-{high}" for low, high in ends)


def from_text(text: str) -> tuple[int, ...]:
    """The inverse of `to_text`; nothing where it makes no sense or means more than `MOST`."""
    found: set[int] = set()
    pieces = text.split(".") if text else []
    if len(pieces) > MOST:
        return ()
    for piece in pieces:
        match = _RANGE.match(piece)
        if match is None:
            return ()
        low, high = int(match[1]), int(match[2] or match[1])
        if not 0 <= high - low < MOST:
            return ()
        found.update(range(low, high + 1))
        if len(found) > MOST:
            return ()
    return tuple(sorted(found))
