"""The command as a process: streams that may be closed or not take all text, and signals."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

from rich.console import Console

__all__ = ["EXIT_PIPE", "Stopped", "prepare", "stopped_by_signals"]

# As shells have it: 128 and the number of the signal. SIGPIPE is 13.
EXIT_PIPE = 141
# So long a clean-up may take before a further signal ends the process at once.
_PATIENCE = 15.0
_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


class Stopped(KeyboardInterrupt):
    """A signal asks for the end; handled like Ctrl-C, which is one of them."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


def prepare() -> None:
    """Make the standard streams usable, whatever this process was started with."""
    _occupy()
    for stream in (sys.stdout, sys.stderr):
        # Also UTF-8 cannot write all that a str holds: a file name of other bytes, say.
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    # The help of a command, too, ends quietly where nobody reads on.
    setattr(Console, "on_broken_pipe", _on_broken_pipe)  # noqa: B010


def _occupy() -> None:
    """Give closed standard streams to /dev/null.

    A file that is opened later would else get their number, and what some library prints would be
    written into it.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def _on_broken_pipe(console: Console) -> None:
    console.quiet = True
    # What is buffered goes nowhere; the interpreter would complain of it at the end.
    devnull = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
            continue
        with contextlib.suppress(OSError, ValueError, AttributeError):
            os.dup2(devnull, stream.fileno())
    raise SystemExit(EXIT_PIPE)


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Let SIGINT, SIGTERM and SIGHUP end the block with `Stopped`, and its clean-up in peace.

    A signal that comes while the exception of an earlier one is being handled is not needed any
    more, and would tear the clean-up; only where that has taken too long it ends the process. What
    whoever started the process has it ignore (`nohup`) stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    first: float | None = None

    def stop(number: int, _frame: FrameType | None) -> None:
        nonlocal first
        if not _being_stopped():
            first = time.monotonic()
            raise Stopped(number)
        if first is not None and time.monotonic() - first > _PATIENCE:
            os._exit(128 + number)

    before: dict[int, Any] = {}
    for name in _SIGNALS:
        number = getattr(signal, name, None)
        if number is None or signal.getsignal(number) in (signal.SIG_IGN, None):
            continue
        before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _being_stopped() -> bool:
    """Whether what is running now runs because of a `KeyboardInterrupt`."""
    error = sys.exc_info()[1]
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__context__
    return False
