"""What the main process and a worker say to each other: bytes, the same for every executor.

Pickled here rather than by the pipe or by Ray, so that tensors travel as plain values: torch would
send handles of shared memory, which are gone when the process that made them is killed.
"""

from __future__ import annotations

import math
import pickle
import time
import traceback
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, Literal

from interp.errors import ExecutionError, ObverseError
from interp.execute.telling import listening
from interp.progress import Progress

Outcome = Literal["ready", "told", "done", "failed"]
Reply = tuple[Outcome, Any]
"""("ready", None), ("told", (done, total) of the unit at work), ("done", the result), or
("failed", the exception)."""


_SECONDS_BETWEEN = 0.3


class WorkerTraceback(Exception):
    """Where in the worker an exception was raised, as text: the cause of the exception here."""

    def __str__(self) -> str:
        return f"\n\n{self.args[0]}"


def pack(value: object, what: str) -> bytes:
    """A value for the other side; `what` names it in an error.

    Raises:
        ExecutionError: it cannot be pickled.
    """
    try:
        return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    except Exception as error:  # whatever __reduce__ raises
        raise ExecutionError(
            f"{what} cannot be sent between processes ({_told(error)}); build it from plain values "
            "and from functions that stand in a module."
        ) from error


def unpack(message: bytes) -> Any:
    """A value from the other side of a pipe that nobody else holds."""
    return pickle.loads(message)  # noqa: S301


def read(reply: bytes) -> Reply:
    """What a worker answered; an exception that a worker raised has its traceback as cause."""
    outcome, value = unpack(reply)
    if outcome == "failed":
        error, text = value
        error.__cause__ = WorkerTraceback(text)
        return "failed", error
    return outcome, value


class Work:
    """What a worker does with the messages it gets."""

    def __init__(self) -> None:
        self._function: Callable[[Any], Any] | None = None

    def start(self, message: bytes) -> bytes:
        """Make the function that all units are given to (`packed_start` made the message)."""

        def load() -> bytes:
            wanted, start = self._loaded(message)
            if wanted != version("obverse"):
                raise ExecutionError(
                    f"A worker has Obverse {version('obverse')} and not {wanted}; install the same "
                    "version everywhere."
                )
            self._function = self._loaded(start)()
            return pack(("ready", None), "The sign of readiness")

        return _answer(load)

    def run(self, message: bytes, send: Callable[[bytes], None] | None = None) -> bytes:
        """The function's result for one payload.

        Args:
            send: takes what the unit tells meanwhile; left out where there is no way for it.
        """

        def call() -> bytes:
            assert self._function is not None  # a worker is given units once it is ready
            with listening(None if send is None else _now_and_then(send)):
                return pack(("done", self._function(self._loaded(message))), "A unit's result")

        return _answer(call)

    @staticmethod
    def _loaded(message: bytes) -> Any:
        try:
            return unpack(message)
        except Exception as error:
            raise ExecutionError(
                f"A worker cannot load what it is given ({_told(error)}); functions and classes "
                "must stand in a module that workers can import, not in a notebook or a script."
            ) from error


def packed_start(start: Callable[[], Callable[[Any], Any]]) -> bytes:
    """The message for `Work.start`. The version comes before anything that may not unpickle."""
    inner = pack(start, "What workers start with")
    return pack((version("obverse"), inner), "What workers start with")


def _now_and_then(send: Callable[[bytes], None]) -> Progress:
    """Sends how far a unit is, not more often than anybody looks."""
    last = -math.inf

    def told(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= _SECONDS_BETWEEN:
            last = time.monotonic()
            send(pack(("told", (done, total)), "How far a unit is"))

    return told


def _answer(work: Callable[[], bytes]) -> bytes:
    try:
        return work()
    except Exception as error:
        return pickle.dumps(("failed", (_sendable(error), traceback.format_exc())))


def _sendable(error: Exception) -> Exception:
    """The exception itself where it survives the way, or what it says."""
    try:
        copy = pickle.loads(pickle.dumps(error))  # noqa: S301 — its own bytes
        if type(copy) is type(error) and str(copy) == str(error):
            return error
    except Exception:
        pass
    if isinstance(error, ObverseError):
        return ExecutionError(str(error))
    return ExecutionError(f"A worker failed with {_told(error)}.")


def _told(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__
