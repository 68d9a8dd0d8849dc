"""How much of some work is done, told to whoever asked."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Progress", "counter"]

Progress = Callable[[int, int], None]
"""Called with (how many are done, how many there are in all)."""


def counter(progress: Progress | None, total: int) -> Callable[[int], None]:
    """A function to call with how many more are done, of `total`; what is beyond is not counted."""
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done = min(total, done + more)
        if progress:
            progress(done, total)

    return count
