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


# By unit, the least that a scale spans on either side of 0. A logit is a factor of 2.7 in odds.
_LEAST = {"logits": 1.0, "nats": 1.0, "probability": 0.1, "rank": 1.0}


def reach(shown: npt.NDArray[np.float64], unit: str = "") -> float:
    """The end of a colour scale around 0 that holds all numbers.

    Args:
        shown: the numbers; those that are not finite do not count.
        unit: theirs. A scale of logits or nats ends no nearer to 0 than 1, one of probabilities no
            nearer than 0.1: stretched over less, a map of nothing would look like one of a signal.
    """
    finite = np.abs(shown[np.isfinite(shown)])
    furthest = max(float(finite.max(initial=0.0)), _LEAST.get(unit, 0.0))
    return furthest if furthest > 0 else 1.0


def rank(index: float) -> str:
    """A rank as people read it: 1 is the model's first choice.

    Results count from 0 (`answer_rank`, "rank"), as indices do; whoever shows one to a person goes
    through here, so that no two screens say different numbers. A median may end in ".5".

    Args:
        index: how many tokens are likelier; negative or not finite where there is none.
    """
    if not np.isfinite(index) or index < 0:
        return "–"
    return f"{index + 1:,.1f}".removesuffix(".0")


def place(index: float, among: int | None = None) -> str:
    """The same as part of a sentence ("… is ‹at rank 107 of 512›"), its first place in words."""
    if index == 0:
        return "the model’s first choice"
    return f"at rank {rank(index)}" + (f" of {among:,}" if among is not None else "")
