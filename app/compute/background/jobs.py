"""Long work that sessions share, that outlives them, and whose results are kept with the run.

Sessions that ask the same of the same model wait for one job. A job stops when nobody waits for it
any more; who only goes elsewhere, reloads or closes the page, goes on waiting for one that is long.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from app.compute.background.request import Request
from app.compute.background.shelf import Shelf
from app.compute.turns import ModelSpec, Turns
from app.compute.work import Stand, Work
from experiments.reporter import Progress

if TYPE_CHECKING:
    from interp.model.model import Model

T = TypeVar("T")

LONG = 10.0
"""Seconds after which a job goes on though its session has gone to something else: until then
little is lost, and what is clicked through does not pile up."""

KEPT_FROM = 0.5
"""Seconds that a result must have taken to be written into a run directory."""

FINISHED = 48
"""Jobs that are kept with their results when they are over."""

WAITED_FOR = 8
"""Running jobs of one session, and of sessions that are gone; beyond that the oldest stops."""

Key = tuple[ModelSpec, str, str]


class Job(Generic[T]):
    """One piece of work, and who waits for it.

    Attributes:
        request: what is asked.
        model, fingerprint: of the model that it is asked of.
        link: the state of the screen on which it was first asked for.
        begun: when, in seconds since 1970.
    """

    def __init__(
        self,
        turns: Turns,
        request: Request[T],
        model: str,
        fingerprint: str,
        link: Mapping[str, str],
        directory: Path | None,
    ) -> None:
        self.request, self.model, self.fingerprint, self.link = request, model, fingerprint, link
        self.begun = time.time()
        self.waiting: set[str] = set()
        self.turns = turns
        self._shelf: Shelf[T] = Shelf(request, link)
        if directory is not None:
            self.keep_in(directory)  # before it begins, since it may be there already
        self.work: Work[T] = Work(self._steps)

    @property
    def stand(self) -> Stand[T]:
        """How far it is, and its best result so far."""
        return self.work.stand

    @property
    def running(self) -> bool:
        return self.stand.running

    @property
    def whole(self) -> bool:
        """Whether it came to its end."""
        stand = self.stand
        return not (stand.running or stand.stopped or stand.error)

    @property
    def usable(self) -> bool:
        """Whether its result is there, or will be: who joins one that was told to stop would be
        told of a cancel that somebody else has asked for."""
        return self.whole or (self.running and not self.work.stopping)

    @property
    def name(self) -> str:
        """For its buttons: of jobs that are listed no two have the same."""
        asked = (self.request.spec, self.fingerprint, self.request.written, self.begun)
        return hashlib.sha256(repr(asked).encode()).hexdigest()[:12]

    @property
    def was_read(self) -> bool:
        """Whether its result was read from a run directory, and not computed."""
        return self._shelf.was_read

    @property
    def kept_in(self) -> list[Path]:
        """The run directories that hold its result."""
        return self._shelf.kept_in

    @property
    def notes(self) -> list[str]:
        """Sentences: what could not be read or written."""
        return self._shelf.notes

    def keep_in(self, directory: Path) -> None:
        """Its result belongs into this run directory, now or when it is there."""
        self._shelf.add(directory)

    def _steps(self, tell: Progress) -> Iterator[T]:
        begun, last = time.monotonic(), None
        asked = self.request
        steps = self.turns.steps(asked.spec, asked.key, self._found, gives_way=asked.gives_way)
        for last in steps(tell):
            yield last
        seconds = time.monotonic() - begun
        if last is not None and seconds >= KEPT_FROM:
            self._shelf.keep(last, seconds)
        elif last is not None:
            self._shelf.ended()

    def _found(self, model: Model, tell: Progress) -> Iterator[T]:
        stored = self._shelf.read(model)
        if stored is not None:
            yield stored
        else:
            with self._shelf.noted(KEPT_FROM):
                yield from self.request.work(model, tell)


class Jobs:
    """The jobs of this process.

    Args:
        turns: hands out models.
        alive: whether a session is there.
    """

    def __init__(self, turns: Turns, alive: Callable[[str], bool]) -> None:
        self.turns, self._alive = turns, alive
        self._lock = threading.Lock()
        self._jobs: dict[Key, Job[Any]] = {}

    def ask(
        self,
        request: Request[T],
        session: str,
        *,
        directory: Path | None = None,
        link: Mapping[str, str] | None = None,
    ) -> Job[T]:
        """Start a job, or wait for the one that does the same; what came to its end is not done
        again.

        Args:
            session: who waits for it from now on.
            directory: the run directory of the model, where its result belongs.
            link: the state of the screen, as the address tells it.

        Raises:
            ModelError: the model cannot be loaded.
        """
        name, fingerprint, tokenizer = self.turns.compute(
            request.spec,
            ("who",),
            lambda model: (model.name, model.fingerprint, model.tokenizer_fingerprint),
        )
        key = (request.spec, f"{fingerprint} {tokenizer}", request.written)
        with self._lock:
            job = self._jobs.get(key)
            if job is None or not job.usable:
                self._jobs.pop(key, None)  # the newest stand last
                job = self._jobs[key] = Job(
                    self.turns, request, name, fingerprint, link or {}, directory
                )
            job.waiting.add(session)
            self._make_room(session, job)
        if directory is not None:
            job.keep_in(directory)
        return job

    def find(self, request: Request[T]) -> Job[T] | None:
        """The job that does this of the model as it was last asked, running or at its end."""
        with self._lock:
            found = [
                job
                for (spec, _, written), job in self._jobs.items()
                if (spec, written) == (request.spec, request.written)
            ]
        return next((job for job in reversed(found) if job.usable), None)

    def cancel(self, job: Job[Any], session: str) -> None:
        """This session does not wait any more; the job stops where no other one does."""
        with self._lock:
            job.waiting.discard(session)
            if not self._awaited(job):
                job.work.stop()

    def leave(self, job: Job[Any], session: str) -> None:
        """This session shows something else; it goes on waiting for what is long."""
        if job.stand.seconds < LONG:
            self.cancel(job, session)

    def mine(self, job: Job[Any], session: str) -> bool:
        """Whether this session may cancel it: it waits for it, or nobody does that is there."""
        with self._lock:
            return session in job.waiting or not self._awaited(job)

    def running(self) -> list[Job[Any]]:
        """The jobs that go on, the oldest first."""
        return [job for job in self._all() if job.running]

    def finished(self) -> list[Job[Any]]:
        """Those that are over, the newest first."""
        return [job for job in reversed(self._all()) if not job.running]

    def _all(self) -> list[Job[Any]]:
        with self._lock:
            return list(self._jobs.values())

    def _awaited(self, job: Job[Any]) -> bool:
        return any(map(self._alive, job.waiting))

    def _make_room(self, session: str, new: Job[Any]) -> None:
        going = [job for job in self._jobs.values() if job.running and job is not new]
        for job in [job for job in going if session in job.waiting][: 1 - WAITED_FOR]:
            job.waiting.discard(session)
            if not self._awaited(job):
                job.work.stop()
        for job in [job for job in going if not self._awaited(job)][:-WAITED_FOR]:
            job.work.stop()
        over = [key for key, job in self._jobs.items() if not job.running]
        for key in over[:-FINISHED]:
            del self._jobs[key]
