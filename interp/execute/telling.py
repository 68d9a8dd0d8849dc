"""How far a unit is, told while it is at work."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from cache.arguments import typed
from interp.progress import Progress

__all__ = ["listening", "tell"]

_LISTENER: ContextVar[Progress | None] = ContextVar("listener", default=None)


@typed
def tell(done: int, total: int) -> None:
    """Say how far the unit is that this is called in: a progress callback for what it calls.

    Whoever called `execute` hears of it where the executor has a way back for it (not from Ray, and
    not from other threads of a worker). Outside of a unit nobody does.
    """
    listener = _LISTENER.get()
    if listener is not None:
        listener(done, total)


@contextlib.contextmanager
def listening(listener: Progress | None) -> Iterator[None]:
    """What is told inside goes to the listener."""
    before = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(before)
