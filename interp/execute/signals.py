"""Signals that wait until what they would tear is done."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

__all__ = ["signals_held"]

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


@contextlib.contextmanager
def signals_held() -> Iterator[list[int]]:
    """Let SIGINT, SIGTERM and SIGHUP wait until the block has ended, then take the first of them.

    Not `pthread_sigmask`: processes that are started in the block would inherit that, and could not
    be ended. Outside of the main thread, which signals do not interrupt, nothing is changed.

    Yields:
        The signals that wait, for a block that can end early.
    """
    waiting: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield waiting
        return
    before: dict[int, Any] = {}
    for name in _SIGNALS:
        number = getattr(signal, name, None)
        handler = None if number is None else signal.getsignal(number)
        # None: set by something else than Python. What is ignored stays so.
        if number is not None and handler not in (None, signal.SIG_IGN):
            before[number] = handler
    try:
        for number in before:
            signal.signal(number, lambda number, _: waiting.append(number))
        yield waiting
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if waiting:
            signal.raise_signal(waiting[0])
