"""What takes long to make is made once for all the processes that run the tests.

pytest-xdist gives each of its processes fixtures of its own, those of the session too.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder `name`, filled by the first process that asks; the others wait for it.

    It is for reading: a test that changes what is there works on a copy. Where making it fails,
    the next one who asks tries again.
    """
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"once-{name}"
    made = folder.with_suffix(".made")
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            if not made.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                made.touch()
        finally:
            # A process that was forked meanwhile has the lock as well; closing would leave it that.
            fcntl.flock(lock, fcntl.LOCK_UN)
    return folder
