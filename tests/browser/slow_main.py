"""The explorer with work that takes its time, so that a test can watch it."""

from __future__ import annotations

from app import server
from app.work import Work


def pause(work: Work[object]) -> None:
    """Long enough for a click after the estimate; short after that."""
    work._stop.wait(5.0 if work.stand.done == 0 else 0.1)


Work._pause = pause  # type: ignore[method-assign]
server.main()
