"""What is said of probes."""

from __future__ import annotations

import math

from experiments.numbers import percent
from interp.figures.drawing import numbers

LEVEL = 0.05


def sentence(
    where: str,
    many: str,
    n: int,
    *,
    accuracy: tuple[float, float, float],
    control: float,
    selectivity: tuple[float, float, float],
    majority: float,
    p: float,
    drift: bool,
    words: float | None,
    beyond: tuple[float, float] | None,
) -> str:
    """What probes found at one layer, and no more than that.

    Args:
        where: "After block 1, at the last token".
        many: what examples are called.
        n: how many there are.
        accuracy, selectivity: with the ends of their intervals, NaN where there are none.
        p: corrected for all layers.
        drift: whether p may be too small.
        words: the accuracy of the prompt's words alone.
        beyond: the interval of the accuracy minus that.
    """
    low, high = accuracy[1:]
    ends = f" (95% interval {percent(low)} to {percent(high)})" if math.isfinite(low) else ""
    right = f"{percent(accuracy[0])}{ends} of {n:,} held-out {many} are told right"
    said = f"{where}, {right}; control labels {percent(control)}, "
    said += f"a difference of {_points(selectivity)}; always the commonest class, "
    said += f"{percent(majority)}. {_verdict(selectivity[1], p, drift)}"
    if words is not None and beyond is not None:
        told = f" The words of the prompt alone get {percent(words)}"
        more = beyond[0] > 0
        said += told + (", clearly less." if more else ", and this is not clearly more.")
    return said


def readable(selectivity_low: float, p: float, drift: bool) -> bool:
    """Whether the label counts as readable: better told than shuffled and control labels."""
    return p < LEVEL and not drift and selectivity_low > 0


def _verdict(selectivity_low: float, p: float, drift: bool) -> str:
    if readable(selectivity_low, p, drift):
        return f"So it is readable here (corrected p {_p(p)}), which is not to say that it is used."
    if p < LEVEL and drift:
        return (
            f"Corrected p is {_p(p)}, but examples that follow each other are alike, which makes p "
            "too small: nothing can be said."
        )
    if p < LEVEL:
        return (
            f"That is better than shuffled labels (corrected p {_p(p)}), but not clearly better "
            "than control labels."
        )
    return (
        f"That is not clearly better than shuffled labels (corrected p {_p(p)}), so it does not "
        "count as readable to this probe from so many examples, which is no proof that it is not "
        "there."
    )


def _p(p: float) -> str:
    return "< .001" if p < 0.001 else f"= {p:.3f}".replace("0.", ".", 1)


def _points(selectivity: tuple[float, float, float]) -> str:
    value, low, high = (numbers.plain(100 * each, 0) for each in selectivity)
    ends = f" ({low} to {high})" if math.isfinite(selectivity[1]) else ""
    return f"{value} points{ends}"
