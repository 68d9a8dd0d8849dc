"""Numbers as sentences, tables and reports have them."""

from __future__ import annotations

import math

__all__ = ["count", "duration", "percent", "probability"]


def percent(share: float) -> str:
    """A share of 1: "38%", with tenths within 10% of nothing and of all ("0.4%", "99.6%").

    It has a true minus sign; one that is not finite is "–".
    """
    if not math.isfinite(share):
        return "–"
    digits = 1 if abs(share) < 0.1 or 0.9 < share < 1 else 0
    # Adding 0 keeps what is rounded to it from being written as -0.
    text = f"{round(100 * share, digits) + 0.0:.{digits}f}".removesuffix(".0")
    return f"{text}%".replace("-", "−")


def probability(value: float) -> str:
    """The same of a probability, which is never said to be 0: "<0.1%"."""
    return "<0.1%" if value < 0.001 else percent(value)


def count(number: float) -> str:
    """A number in three digits: "12.3 k", "10 M"."""
    for unit, scale in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= scale:
            return f"{number / scale:.3g} {unit}"
    return f"{number:.3g}"


def duration(seconds: float) -> str:
    """Seconds as people say them: "4.2 s", "3 min 05 s", "2 h 10 min", "3 days"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours / 24:.0f} days"
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
