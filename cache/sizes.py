"""Sizes in bytes as people write them."""

from __future__ import annotations

import re
from fractions import Fraction

from cache.errors import StorageError

__all__ = ["parse_size", "show_size"]

_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_WRITTEN = re.compile(
    r"\s*(\d{1,30}(?:\.\d{1,30})?)\s*(?:([kmgtp])(i?))?b?\s*", re.IGNORECASE | re.ASCII
)


def parse_size(size: int | str) -> int:
    """Bytes from a number or a text such as "200GB" (10⁹) or "1.5 TiB" (2⁴⁰).

    Raises:
        StorageError: it is no size, or not positive.
    """
    match = _WRITTEN.fullmatch(size) if isinstance(size, str) else None
    if match:
        base = 1024 if match[3] else 1000
        found = int(Fraction(match[1]) * base ** _POWERS[(match[2] or "").lower()])
    elif isinstance(size, int) and not isinstance(size, bool):
        found = size
    else:
        found = 0
    if found <= 0:
        raise StorageError(f"'{size}' is not a size; write it like '200GB' or '1.5TiB'.")
    return found


def show_size(size: float) -> str:
    """Bytes in the unit that suits them: "1.4 GB" (10⁹)."""
    for unit, scale in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        # What would be rounded up to 1000 is 1 of the next unit.
        if size >= 0.9995 * scale:
            return f"{size / scale:.3g} {unit}"
    return f"{size:.0f} B"
