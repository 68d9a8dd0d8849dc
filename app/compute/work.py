"""Work that goes on while the page is looked at, gets better step by step, and can be stopped."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from cache.errors import ObverseError
from experiments.reporter import Progress

T = TypeVar("T")
Steps = Callable[[Progress], Iterator[T]]
"""Yields better and better results, and tells (done, in all) in between."""

_PAUSE = 0.002  # s, after each result


class Stopped(Exception):
    """Raised inside the work when it shall not go on."""


@dataclass(frozen=True)
class Stand(Generic[T]):
    """How far the work is.

    Attributes:
        result: the best result so far; None before the first.
        done, total: how much of it is done; 0 of 0 before that is known.
        seconds: that it has taken.
        running: whether it goes on.
        stopped: whether it was stopped before its end.
        error: what went wrong, as a sentence.
    """

    result: T | None = None
    done: int = 0
    total: int = 0
    seconds: float = 0.0
    running: bool = True
    stopped: bool = False
    error: str | None = None

    @property
    def seconds_left(self) -> float | None:
        """A guess from what is done; None where nothing is."""
        if not self.running or self.done == 0 or self.total == 0:
            return None
        return self.seconds * (self.total - self.done) / self.done


class Work(Generic[T]):
    """Runs steps in a thread of its own.

    Args:
        steps: is called once, in that thread.
    """

    def __init__(self, steps: Steps[T]) -> None:
        self._stand: Stand[T] = Stand()
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._begun = time.monotonic()
        # What the steps hold, a model among it, goes with the thread.
        threading.Thread(target=self._run, args=(steps,), daemon=True).start()

    @property
    def stand(self) -> Stand[T]:
        with self._changed:
            if not self._stand.running:
                return self._stand
            return replace(self._stand, seconds=time.monotonic() - self._begun)

    def stop(self) -> None:
        """Have it end soon; what it has found stays."""
        self._stop.set()

    @property
    def stopping(self) -> bool:
        """Whether it was told to end; one long step may go on for a while yet."""
        return self._stop.is_set()

    def wait(self, seconds: float) -> Stand[T]:
        """How far it is after so many seconds, or as soon as it has ended."""
        with self._changed:
            self._changed.wait_for(lambda: not self._stand.running, timeout=seconds)
        return self.stand

    def _run(self, steps: Steps[T]) -> None:
        stopped, error = False, None
        try:
            for result in steps(self._tell):
                self._update(result=result)
                self._pause()
                self._check()
        except Stopped:
            stopped = True
        except ObverseError as problem:
            error = str(problem)
        except Exception as problem:  # it is told on the page, and the log has the rest
            logging.getLogger("obverse").exception("Work in the background failed")
            error = f"This went wrong unexpectedly ({type(problem).__name__}); see the terminal."
        seconds = time.monotonic() - self._begun
        self._update(running=False, stopped=stopped, error=error, seconds=seconds)

    def _pause(self) -> None:
        # Without a break, others would never get a lock that each step takes.
        self._stop.wait(_PAUSE)

    def _tell(self, done: int, total: int) -> None:
        self._check()
        self._update(done=done, total=total)

    def _check(self) -> None:
        if self._stop.is_set():
            raise Stopped

    def _update(self, **fields: object) -> None:
        with self._changed:
            self._stand = replace(self._stand, **fields)  # type: ignore[arg-type]
            self._changed.notify_all()
