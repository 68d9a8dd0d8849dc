"""What workers do in the tests of executors; in a module, so that they can import it.

Without torch, so that a worker starts in a tenth of a second.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from interp.errors import PromptError
from interp.execute import Unit, tell

N = 7
EXPECTED = {f"n{i}": i * i for i in range(N)}


def squares() -> list[Unit]:
    return [Unit(f"n{i}", i) for i in range(N)]


def start() -> Callable[[int], int]:
    return square


def square(number: int) -> int:
    return number * number


@dataclass(frozen=True)
class Job:
    """Something to do beside squaring a number.

    Attributes:
        folder: where processes leave their ids, and marks of what they did once.
        what: "die" or "raise" or "odd" (an exception that cannot be pickled) or "sleep".
    """

    number: int
    folder: Path
    what: str = ""
    times: int = 10**6


def start_jobs() -> Callable[[Job], int]:
    return do


def do(job: Job) -> int:
    leave_pid(job.folder)
    marks = len(list(job.folder.glob(f"mark-{job.number}-*")))
    if job.what and marks < job.times:
        (job.folder / f"mark-{job.number}-{marks}").touch()
        misbehave(job.what)
    return square(job.number)


def misbehave(what: str) -> None:
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "raise":
        raise PromptError("There is no such prompt; give another.")
    if what == "odd":
        raise Odd(lambda: None)
    if what == "fault":
        raise ZeroDivisionError("by nothing")
    if what == "sleep":
        time.sleep(120)


class Odd(Exception):
    """Cannot be pickled."""


@dataclass(frozen=True)
class StartIn:
    """A start that leaves its process id, and may fail."""

    folder: Path
    what: str = ""

    def __call__(self) -> Callable[[Any], Any]:
        leave_pid(self.folder)
        if self.what:
            misbehave(self.what)
        return partial(answer, self.folder.name)


def answer(name: str, question: str) -> Any:
    """What a unit sees of its worker."""
    if question == "pid":
        time.sleep(0.2)  # so that the other worker gets one as well
        return os.getpid()
    if question == "lambda":
        return lambda: None
    if question == "where":
        return name
    if question == "slow device":
        time.sleep(0.2)
        question = "CUDA_VISIBLE_DEVICES"
    return os.environ.get(question)


def leave_pid(folder: Path) -> None:
    (folder / f"pid-{os.getpid()}").touch()


def pids(folder: Path) -> set[int]:
    """The processes that left their id."""
    return {int(path.name.removeprefix("pid-")) for path in folder.glob("pid-*")}


def alive(pid: int) -> bool:
    """Whether the process is there, be it as a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def load_for_ever(folder: Path) -> Callable[[Any], Any]:
    """The start of a worker that is never ready."""
    leave_pid(folder)
    time.sleep(60)
    return len


def start_marks() -> Callable[[tuple[str, Any]], int]:
    return marked


def marked(what: tuple[str, Any]) -> int:
    """Leave a file after a while, look for it, tell of three steps, or square."""
    name, value = what
    if name == "leave":
        time.sleep(0.3)
        value.touch()
    elif name == "look":
        return int(value.exists())
    elif name == "tell":
        for step in range(value):
            tell(step + 1, value)
        return int(value)
    else:
        return square(value)
    return 1
