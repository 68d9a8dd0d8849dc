"""What the tests need from outside, and what happens where it is missing."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

# Before torch is imported. The models of the tests are so small that a second thread only waits,
# and none of them may wait for a network.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Tests import Ray before Obverse does, which reads this at its first import.
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
# What a shell starts in the background, or nohup, ignores these, and so does all that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
# A store of the user's has no part in the tests.
os.environ.pop("OBVERSE_CACHE", None)

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


# What is imported is there to the end: to look for garbage in it takes a second each time.
gc.disable()


# Each takes a minute in one piece: begun last, it would be waited for by all other processes.
LONG = (
    "tests/experiments/reversal_curse/test_study.py",
    "tests/interp/test_harvest_workers.py",
    "tests/examples/test_notebooks.py",
    "tests/docs/test_site.py",
    "tests/cache/folder/test_crashes.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long comes first, in the order in which it stands above."""
    place = {ROOT / path: number for number, path in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path, len(LONG)))


def pytest_collection_finish() -> None:
    """Look for garbage among what comes after, and not as often as Python does for small programs:
    models of the session are looked through each time."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 10)
    gc.enable()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what is marked `shared` or `browser` and cannot run, or fail it where it must run."""
    if item.get_closest_marker("shared") and not SHARED.is_dir():
        missing("the reference data in ../shared is missing", "REQUIRE_SHARED")
    if item.get_closest_marker("browser") and _chromium() is None:
        missing("there is no Chromium", "REQUIRE_BROWSER")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data beside the checkout (mark such a test `shared`)."""
    if not SHARED.is_dir():
        missing("the reference data in ../shared is missing", "REQUIRE_SHARED")
    return SHARED


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a Chromium (mark such a test `browser`)."""
    path = _chromium()
    if path is None:
        missing("there is no Chromium", "REQUIRE_BROWSER")
    assert path is not None
    return path


@pytest.fixture(scope="module")
def workers_at_once() -> Iterator[None]:
    """Workers that are processes are forked from one that has imported what takes long (seconds
    for each, of which `tests/interp/execute` and `test_slices.py` take their time)."""
    from interp.execute import processes
    from tests.warm import Worker

    kept = {name: getattr(subprocess, name) for name in ("DEVNULL", "TimeoutExpired")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "subprocess", SimpleNamespace(Popen=Worker, **kept))
        yield


def _chromium() -> str | None:
    return next((found for name in CHROMIUM if (found := shutil.which(name))), None)


def missing(reason: str, required_by: str) -> None:
    if os.environ.get(required_by) == "1":
        pytest.fail(f"{reason}, and {required_by}=1", pytrace=False)
    pytest.skip(reason)
