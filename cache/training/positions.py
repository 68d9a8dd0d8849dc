"""Which positions of a prompt are used: all, those after the BOS token, the last one, …"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cache.errors import StorageError

__all__ = ["Positions"]

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Positions:
    """A slice of the positions of each row, with Python's meaning; `step` is positive."""

    start: int | None = None
    stop: int | None = None
    step: int = 1

    @classmethod
    def of(cls, chosen: int | slice | None) -> Positions:
        """From a slice, or from one position (negative ones count from a row's end).

        Raises:
            StorageError: the slice goes backwards.
        """
        if chosen is None:
            return cls()
        if isinstance(chosen, slice):
            step = 1 if chosen.step is None else int(chosen.step)
            if step < 1:
                raise StorageError(
                    f"Positions cannot go in steps of {step}; give a slice that goes forwards."
                )
            return cls(chosen.start, chosen.stop, step)
        return cls(chosen, None if chosen == -1 else chosen + 1)

    def ranges(self, lengths: Counts) -> tuple[Counts, Counts]:
        """The first position of each row [row], and how many are used of it [row]."""
        first = self._clipped(0 if self.start is None else self.start, lengths)
        beyond = lengths if self.stop is None else self._clipped(self.stop, lengths)
        return first, np.maximum(0, -(-(beyond - first) // self.step))

    def total(self, tokens: Counts, rows: Counts) -> Counts | None:
        """How many are used of several rows, where that follows from the number of their tokens.

        No row is empty, so that all but the first positions are tokens less rows.
        """
        if self.step == 1 and self.stop is None and self.start in (None, 0, 1):
            return tokens - rows if self.start == 1 else tokens
        only_one = (self.start, self.stop) in ((0, 1), (None, 1), (-1, None))
        return rows if only_one else None

    @staticmethod
    def _clipped(bound: int, lengths: Counts) -> Counts:
        if bound < 0:
            return np.maximum(lengths + bound, 0)
        return np.minimum(lengths, bound)
