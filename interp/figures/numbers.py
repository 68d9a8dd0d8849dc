"""Numbers as figures write them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def plain(number: float, decimals: int = 2) -> str:
    """A number with a true minus sign, which zero never has."""
    return f"{round(number, decimals) + 0.0:.{decimals}f}".replace("-", "−")


def texts(shown: npt.NDArray[np.float64], decimals: int) -> npt.NDArray[np.object_]:
    """Each number of an array as a text, empty where there is none."""
    text = np.empty(shown.shape, dtype=object)
    for index, number in np.ndenumerate(shown):
        text[index] = plain(float(number), decimals) if np.isfinite(number) else ""
    return text


def reach(shown: npt.NDArray[np.float64]) -> float:
    """The end of a colour scale around 0 that holds all numbers."""
    finite = np.abs(shown[np.isfinite(shown)])
    return float(finite.max()) if finite.size and finite.max() > 0 else 1.0
