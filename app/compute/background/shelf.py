"""Where a job's result is kept: in the run directories of its model."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from app.compute.background.request import Request
from cache.errors import ObverseError
from experiments.run_directory import explored
from experiments.run_directory.begun import begun, dismiss
from experiments.run_directory.explored import Asked, Explored
from experiments.run_directory.layout import EXPLORED

if TYPE_CHECKING:
    from interp.model.model import Model

T = TypeVar("T")


class Shelf(Generic[T]):
    """Reads and writes one result. What goes wrong becomes a sentence: the result itself is in
    memory.

    Attributes:
        was_read: whether the result was found.
        notes: what went wrong.
    """

    def __init__(self, request: Request[T], link: Mapping[str, str]) -> None:
        self._request, self._link = request, link
        self._lock = threading.Lock()
        self._directories: list[Path] = []
        self._asked: Asked | None = None
        self._model = ""
        self._result: tuple[T, float] | None = None
        self.was_read = False
        self._kept: list[Path] = []
        self.notes: list[str] = []

    @property
    def kept_in(self) -> list[Path]:
        """The run directories that hold it, and from which nobody has removed it."""
        asked = self._asked
        return [] if asked is None else [at for at in self._kept if explored.is_there(at, asked)]

    def add(self, directory: Path) -> None:
        """The result belongs there, too: now, if it is there."""
        with self._lock:
            if directory not in self._directories:
                self._directories.append(directory)
                self._write(directory)

    @contextlib.contextmanager
    def noted(self, after: float) -> Iterator[None]:
        """Inside, the directories note that the work goes on: should this process end before,
        whoever opens them next is told.

        Args:
            after: seconds until they do, by a clock of its own, since one long step may tell
                nothing while it goes on.
        """
        form, asked = self._request.form, self._asked
        if form is None or asked is None:
            yield
            return
        name, lock, going = asked.name, threading.Lock(), True
        with contextlib.ExitStack() as stack:

            def note() -> None:
                with lock:
                    for directory in list(self._directories) if going else []:
                        stack.enter_context(begun(directory, name, self._request.title, self._link))

            timer = threading.Timer(min(after, threading.TIMEOUT_MAX), note)
            timer.daemon = True
            timer.start()
            try:
                yield
            finally:
                timer.cancel()
                with lock:
                    going = False

    def read(self, model: Model) -> T | None:
        """What one of the directories holds for this request of this model."""
        with self._lock:
            self._asked, self._model = asked_of(self._request, model), model.name
            for directory in self._directories:
                found = self._read(directory, model)
                if found is not None:
                    self._result, self.was_read = found, True
                    self._kept.append(directory)
                    return found[0]
        return None

    def keep(self, result: T, seconds: float) -> None:
        """Keep the result in every directory that does not hold it yet."""
        with self._lock:
            if not self._as_asked():
                self._directories.clear()  # nobody knows which of them the numbers are of
                self.notes.append(
                    "The models were replaced while they were asked, so that the result is in "
                    "memory only; reload the page to ask those that are there now."
                )
            self._result = self._result or (result, seconds)
            self.ended()
            for directory in self._directories:
                self._write(directory)

    def ended(self) -> None:
        """Work that was interrupted once has come to its end."""
        if self._asked is not None:
            for directory in list(self._directories):
                dismiss(directory, self._asked.name)

    def _as_asked(self) -> bool:
        """Whether what decides the result is what it was when the work began."""
        if self._request.content is None or self._asked is None:
            return True
        try:
            return bool(_plain(self._request.content()) == self._asked.request)
        except ObverseError:
            return False

    def _read(self, directory: Path, model: Model) -> tuple[T, float] | None:
        form = self._request.form
        if form is None or self._asked is None:
            return None
        try:
            stored = explored.find(directory, self._asked)
            if stored is None:
                return None
            one, dataset = stored
            return form.from_dataset(dataset, model), one.seconds
        except ObverseError as error:
            self.notes.append(str(error))
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            # Of a hostile file anything can be otherwise than a form takes it for.
            self.notes.append(
                f"'{directory / EXPLORED / self._asked.name}.nc' does not hold what its name "
                "says; it is computed anew."
            )
        return None

    def _write(self, directory: Path) -> None:
        form, asked = self._request.form, self._asked
        if form is None or asked is None or self._result is None or directory in self._kept:
            return
        result, seconds = self._result
        one = Explored(asked, self._request.title, self._model, round(seconds, 3), self._link)
        try:
            explored.save(directory, one, form.to_dataset(result))
            self._kept.append(directory)
        except ObverseError as error:
            self.notes.append(f"The result is in memory only: {error}")


def asked_of(request: Request[T], model: Model) -> Asked:
    """What decides the result of a request, as a run directory names it."""
    return Asked(
        request.kind,
        request.asked if request.content is None else _plain(request.content()),
        model.fingerprint,
        model.tokenizer_fingerprint,
        version("obverse"),
    )


def _plain(content: Any) -> Any:
    """As JSON holds it."""
    return json.loads(json.dumps(content))
