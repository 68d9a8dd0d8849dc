"""How a run tells what it is doing: to a terminal, a notebook, or nobody."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

__all__ = ["Percent", "Progress", "QuietReporter", "Reporter"]

Progress = Callable[[int, int], None]
"""Called with (done, total); total counts in whatever the work consists of."""


class Reporter(Protocol):
    """What the runner tells of."""

    def note(self, message: str) -> None:
        """Something worth a line: "Loading gpt2 …"."""

    def warn(self, message: str) -> None:
        """Something the user should know, though the run goes on."""

    def kept(self, name: str) -> None:
        """The result `name` was there already and is used."""

    def stage(self, name: str) -> AbstractContextManager[Progress]:
        """The result `name` is computed inside the block, which is given a progress callback."""


class QuietReporter:
    """Says nothing, except that warnings become Python warnings."""

    def note(self, message: str) -> None:
        """Ignored."""

    def warn(self, message: str) -> None:
        """Warn in the usual way of a library."""
        warnings.warn(message, stacklevel=2)

    def kept(self, name: str) -> None:
        """Ignored."""

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[Progress]:
        """Ignore the progress."""

        def ignore(done: int, total: int) -> None:
            return None

        yield ignore


class Percent:
    """Units that say how far they are, as percent of all of them."""

    def __init__(self, progress: Progress, units: Collection[str], there: Collection[str]) -> None:
        self._progress = progress
        self._parts = {unit: float(unit in there) for unit in units}
        self._show()

    def __call__(self, unit: str, done: int, total: int) -> None:
        self._parts[unit] = done / max(total, 1)
        self._show()

    def _show(self) -> None:
        self._progress(int(100 * sum(self._parts.values()) / len(self._parts)), 100)
