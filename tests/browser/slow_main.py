"""The explorer with work that takes its time, so that a test can watch it."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

from app import server
from app.compute.background import jobs
from interp.patching import single
from tests.app.slowed import slowed

patch_once = single.patch_once


def pause(stop: threading.Event, number: int) -> None:
    """Long enough for a page to be drawn and clicked after the estimate; short after that."""
    stop.wait(12.0 if number == 0 else 0.1)


def patch_slowly(*given: Any, **named: Any) -> Any:
    """Takes its time, and writes down that it was run."""
    with Path(os.environ["OBVERSE_PATCHES"]).open("a") as log:
        log.write(f"{given[2:]} {named}\n")
    time.sleep(2.0)
    return patch_once(*given, **named)


jobs.Work = slowed(pause)  # type: ignore[misc]
single.patch_once = patch_slowly
server.main()
