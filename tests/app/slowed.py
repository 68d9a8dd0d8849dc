"""Background work that takes a break after each result, so that a test can watch it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

from app.compute.work import Progress, Steps, Stopped, Work

Pause = Callable[[threading.Event, int], object]


def slowed(pause: Pause) -> type[Work[Any]]:
    """The class of such work.

    Args:
        pause: called after each result with the event that a stop sets, and the result's number.
    """

    class Slowed(Work[Any]):
        def __init__(self, steps: Steps[Any]) -> None:
            self.asked_to_stop = threading.Event()

            def slow(tell: Progress) -> Iterator[Any]:
                for number, result in enumerate(steps(tell)):
                    yield result
                    pause(self.asked_to_stop, number)
                    if self.asked_to_stop.is_set():
                        raise Stopped

            super().__init__(slow)

        def stop(self) -> None:
            super().stop()
            self.asked_to_stop.set()

    return Slowed
