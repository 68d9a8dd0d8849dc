"""The explorer with work that takes its time, so that a test can watch it."""

from __future__ import annotations

import runpy
from pathlib import Path

from app.work import Work


def pause(work: Work[object]) -> None:
    """Long enough for a click after the estimate; short after that."""
    work._stop.wait(5.0 if work.stand.done == 0 else 0.1)


Work._pause = pause  # type: ignore[method-assign]
runpy.run_path(str(Path(__file__).resolve().parents[2] / "app" / "main.py"))
