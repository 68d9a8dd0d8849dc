"""The explorer with work that takes its time, so that a test can watch it."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

from app import server
from app.compute.background import jobs
from app.screen import live
from interp.patching import single
from tests.app.slowed import slowed

patch_once = single.patch_once


GO = Path(os.environ["OBVERSE_PATCHES"]).with_name("go")


def pause(stop: threading.Event, number: int) -> None:
    """After the estimate until the test has seen and clicked what it wants to; short after that."""
    if number:
        stop.wait(0.03)
        return
    wait_for_test(stop)


def wait_for_test(stop: threading.Event) -> None:
    end = time.monotonic() + 60.0
    while not (GO.exists() or stop.wait(0.1)) and time.monotonic() < end:
        pass


def patch_slowly(*given: Any, **named: Any) -> Any:
    """Writes down that it is run, and does it when the test has clicked all that it wants to."""
    if named["k"] == 1:  # nobody has clicked: a badge holds a stored number against the model
        return patch_once(*given, **named)
    with Path(os.environ["OBVERSE_PATCHES"]).open("a") as log:
        log.write(f"{given[2:]} {named}\n")
    wait_for_test(threading.Event())
    return patch_once(*given, **named)


live.EVERY = 2.0  # s; a page that draws itself all the time leaves little to the work
jobs.Work = slowed(pause)  # type: ignore[misc]
single.patch_once = patch_slowly
server.main()
