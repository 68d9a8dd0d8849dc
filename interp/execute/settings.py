"""What is run, and where: plain values, checked."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from cache.arguments import typed
from interp.errors import ExecutionError

Kind = Literal["serial", "processes", "ray"]
"""This process, several of this machine, or a Ray cluster."""

# More copies of a model than this are not loaded on one machine unless somebody asks for them.
MOST_WORKERS = 8


@typed
@dataclass(frozen=True)
class Unit:
    """A piece of work that depends on nothing but its payload, and may be done twice.

    Attributes:
        id: its name, by which results are put together.
        payload: what the worker's function is called with; picklable.
        after: ids of units that stand before it and must be done before it begins.
        group: units of one group rather go to one worker, which can keep what they share.
    """

    id: str
    payload: Any
    after: tuple[str, ...] = ()
    group: str = ""


@typed
@dataclass(frozen=True)
class Executor:
    """Where units are run.

    Attributes:
        kind: "serial", in this process, one after the other; "processes", in several on this
            machine; "ray", on a Ray cluster, or on a local one that is started for it.
        workers: how many, each with the model in its memory. If left out, one for each GPU;
            without GPUs one for each core, at most 8 on a machine.
        address: of the Ray cluster ("10.0.0.1:6379", "auto"). If left out, RAY_ADDRESS; without it
            a local instance.

    Raises:
        ExecutionError: it does not take what is given, or Ray is missing.
    """

    kind: Kind = "serial"
    workers: int | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        if self.kind == "serial" and self.workers not in (None, 1):
            raise ExecutionError(
                f"The serial executor has no {self.workers} workers; choose the executor "
                "'processes' or 'ray', or leave the workers out."
            )
        if self.workers is not None and self.workers < 1:
            raise ExecutionError(f"{self.workers} workers do no work; choose 1 or more.")
        if self.address is not None and self.kind != "ray":
            raise ExecutionError(
                f"The {self.kind} executor has no address; choose the executor 'ray', or leave "
                "the address out."
            )
        if self.kind == "ray" and importlib.util.find_spec("ray") is None:
            raise ExecutionError('Ray is not installed; install it: pip install "obverse[ray]".')


def checked(units: Iterable[Unit]) -> list[Unit]:
    """The units as a list.

    Raises:
        ExecutionError: two have the same id, or one waits for what does not stand before it.
    """
    found = list(units)
    seen: set[str] = set()
    for unit in found:
        if unit.id in seen:
            raise ExecutionError(f"Two units are named '{unit.id}'; give each an id of its own.")
        missing = next((id for id in unit.after if id not in seen), None)
        if missing is not None:
            raise ExecutionError(
                f"The unit '{unit.id}' waits for '{missing}', which does not stand before it; put "
                "it there, or leave it out of `after`."
            )
        seen.add(unit.id)
    return found


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def limits(threads: int) -> dict[str, str]:
    """Environment variables that hold the libraries of a worker to so many threads."""
    names = (
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
        "NUMEXPR_NUM_THREADS",
    )
    # Tokenizers would start a thread for each core, and warn of it.
    return {**dict.fromkeys(names, str(threads)), "TOKENIZERS_PARALLELISM": "false"}
