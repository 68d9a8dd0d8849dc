"""Two passes over the same blocks, so that each block is brought once for both."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import torch

__all__ = ["Along", "taken_along"]

T = TypeVar("T")


class _Abandoned(BaseException):
    """Ends a pass of which nobody wants the result any more; no code in between takes it for an
    error of its own."""


class Along(Generic[T]):
    """A pass that goes on only while another one waits for weights.

    It runs in a thread of its own, but never at the same time as the other: whenever either would
    have weights brought, it is the other's turn.

    Args:
        run: the pass.
    """

    def __init__(self, run: Callable[[], T]) -> None:
        self._run = run
        self._turn, self._waits = threading.Event(), threading.Event()
        self._alone = self._abandoned = False
        self._result: T | None = None
        self._error: BaseException | None = None
        # How many threads PyTorch computes with is known to each thread for itself.
        self._threads = torch.get_num_threads()
        self._thread = threading.Thread(target=self._work, name="along", daemon=True)
        self._thread.start()

    def before_bringing(self) -> None:
        """Is called by whoever would have weights brought that are not here."""
        if self._alone:
            return
        if threading.current_thread() is self._thread:
            self._wait()
        else:
            self._go_on()

    def result(self) -> T:
        """Run to the end; an error that it came upon is raised on."""
        self._alone = True
        self._turn.set()
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]

    def abandon(self) -> None:
        """End it where it next would have weights brought."""
        self._abandoned = True
        self._turn.set()
        self._thread.join()

    def _go_on(self) -> None:
        self._waits.clear()
        self._turn.set()
        while self._thread.is_alive() and not self._waits.wait(timeout=0.05):
            pass

    def _wait(self) -> None:
        self._turn.clear()
        self._waits.set()
        if not self._abandoned:  # which may have been said before its turn was taken back
            self._turn.wait()
        if self._abandoned:
            raise _Abandoned

    def _work(self) -> None:
        self._turn.wait()
        if self._abandoned:
            return
        torch.set_num_threads(self._threads)
        try:
            self._result = self._run()
        except BaseException as error:
            self._error = error
        finally:
            self._waits.set()


@contextlib.contextmanager
def taken_along(
    run: Callable[[], T], place: Callable[[Along[T] | None], None]
) -> Iterator[Along[T]]:
    """Inside, a pass goes along with those that this thread makes.

    Args:
        place: is told what to ask before weights are brought, and at the end that there is nothing.
    """
    along = Along(run)
    place(along)
    try:
        yield along
    finally:
        try:
            along.abandon()
        finally:
            place(None)
