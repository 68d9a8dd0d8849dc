"""Give units to workers until all are done, whatever becomes of the workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from functools import partial
from types import TracebackType
from typing import Any, Protocol, TypeVar

from cache.arguments import typed
from interp.errors import ExecutionError
from interp.execute import messages
from interp.execute.actors import Actors
from interp.execute.processes import Processes
from interp.execute.settings import Executor, Kind, Unit, checked
from interp.execute.telling import listening
from interp.execute.waiting import Waiting
from interp.progress import Progress

R = TypeVar("R")
Start = Callable[[], Callable[[Any], R]]
Told = Callable[[str, int, int], None]
"""Called with a unit's id, and how far it is: (done, total)."""

# So often workers may die over one unit, or in a row before they are ready.
_TRIES = 3


@typed
def execute(
    units: Iterable[Unit],
    start: Start[R],
    executor: Executor | Workers,
    *,
    finished: Callable[[str], bool] | None = None,
    progress: Progress | None = None,
    told: Told | None = None,
) -> Generator[tuple[str, R]]:
    """Run units of work, wherever the executor says.

    Args:
        units: each independent of the others but those that it names in `after`, and harmless when
            done twice: the unit of a worker that died is run again by another one.
        start: called once by each worker, without arguments; loads what all units need (the model)
            and returns the function that is called with each unit's payload. What it returns should
            be small: a table, or the name of a file, no activations.
        executor: where they run; `Workers` to keep the workers for the next call.
        finished: whether the unit with this id was done before and is left out; asked once for each
            unit, before anything starts.
        progress: called with (units done, units in all), those left out being done.
        told: called with a unit's id and how far it is, where it says so (`interp.execute.tell`).

    Yields:
        (id, result) of each unit that was run, in the order in which they are done, which is not
        always the same: put results together by id. With nothing left to run no worker starts.

    `start`, payloads and results go to other processes by pickle unless the executor is serial:
    functions and classes in them must stand in a module, not in a notebook or the main script.
    Workers are fresh interpreters with this one's module path; they do not import the main script,
    which therefore needs no `if __name__ == "__main__":`.

    Closing the iterator, an error or Ctrl-C ends the workers at once, in the middle of their units.

    Raises:
        ExecutionError: two units have the same id, or one waits for a unit that does not stand
            before it (at once); something cannot be pickled; workers
            died over the same unit three times, or three times before they were ready.
        Exception: what `start` or a unit raised, after the results that had come in.
    """
    todo = checked(units)
    skip = [unit for unit in todo if finished is not None and finished(unit.id)]
    left = {unit.id for unit in todo} - {unit.id for unit in skip}
    todo, total = [unit for unit in todo if unit.id in left], len(todo)
    if isinstance(executor, Workers):
        return executor.results(todo, start, _counter(total, len(skip), progress), told)
    return _alone(Workers(executor), todo, start, _counter(total, len(skip), progress), told)


@typed
class Workers:
    """Workers that are kept for several calls of `execute`, so that each loads the model once.

        with Workers(Executor("processes", workers=4)) as workers:
            first = dict(execute(some_units, start, workers))
            second = dict(execute(other_units, start, workers))

    Nothing starts before it is needed. Workers are kept as long as `start` pickles to the same
    bytes and nothing goes wrong. One call at a time.
    """

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self._backend: _Backend | None = None
        self._start = b""
        self._starting: set[Any] = set()
        self._idle: list[Any] = []
        self._groups: dict[Any, str] = {}  # by worker: that of its last unit
        self._at_work = False

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def kind(self) -> Kind:
        """What kind of executor they are of."""
        return self.executor.kind

    def close(self) -> None:
        """End the workers, whatever they are doing; the next call would start others."""
        backend, self._backend = self._backend, None
        self._starting, self._idle, self._groups = set(), [], {}
        if backend is not None:
            backend.close()

    def results(
        self,
        units: Iterable[Unit],
        start: Start[R],
        done: Callable[[], None],
        told: Told | None = None,
    ) -> Generator[tuple[str, R]]:
        """(id, result) of each unit as it comes in, `done` being called before; see `execute`."""
        if self._at_work:
            raise ExecutionError("These workers are at work; wait for them, or take others.")
        self._at_work, whole = True, False
        self._groups.clear()
        run = self._here if self.executor.kind == "serial" else self._spread
        try:
            for found in run(Waiting(units), start, told or _unheard):
                done()
                yield found
            whole = True
        finally:
            self._at_work = False
            if not whole:
                self.close()

    def _here(self, queue: Waiting, start: Start[R], told: Told) -> Generator[tuple[str, R]]:
        function = start() if queue else None
        while function is not None and (unit := queue.take()) is not None:
            with listening(partial(told, unit.id)):
                found = function(unit.payload)
            queue.done(unit.id)
            yield unit.id, found

    def _spread(self, queue: Waiting, start: Start[R], told: Told) -> Generator[tuple[str, R]]:
        if not queue:
            return
        packed = messages.packed_start(start)
        backend = self._prepared(packed, int(getattr(start, "gpus", 1)))
        busy: dict[Any, Unit] = {}
        deaths = _Deaths()
        found: list[tuple[str, R]] = []
        while queue or busy:
            self._feed(backend, packed, queue, busy)
            # Only now, so that workers need not wait until whoever asked has dealt with these.
            yield from found
            found, failure = [], None
            for worker, reply in backend.wait():
                if isinstance(reply, str):
                    unit = busy.pop(worker, None)
                    failure = failure or deaths.count(unit, worker in self._starting, reply)
                    if unit is not None:
                        queue.put_back(unit)
                    self._forget(worker)
                    continue
                outcome, value = messages.read(reply)
                if outcome == "told":
                    told(busy[worker].id, *value)
                    continue
                unit = busy.pop(worker, None)
                if outcome == "failed":
                    failure = failure or value
                    continue
                self._starting.discard(worker)
                self._idle.append(worker)
                if unit is None:
                    deaths.at_start = 0
                else:
                    queue.done(unit.id)
                    found.append((unit.id, value))
            if failure is not None:
                yield from found
                raise failure
        yield from found

    def _feed(
        self, backend: _Backend, packed: bytes, queue: Waiting, busy: dict[Any, Unit]
    ) -> None:
        """Give units to idle workers, and start more workers where there are units for them."""
        while self._idle:
            worker = self._idle[-1]
            mine = self._groups.get(worker, "")
            others = {group for one, group in self._groups.items() if one is not worker}
            unit = queue.take(mine, others)
            if unit is None:
                break
            message = messages.pack(unit.payload, f"The unit '{unit.id}'")
            busy[self._idle.pop()] = unit
            self._groups[worker] = unit.group
            backend.submit(worker, message)
        wanted = min(backend.limit, queue.ready + len(busy))
        while len(self._starting) + len(self._idle) + len(busy) < wanted:
            self._starting.add(backend.launch(packed))

    def _prepared(self, packed: bytes, gpus: int) -> _Backend:
        """The backend, without workers that were started with something else."""
        if packed != self._start:
            self.close()
        if self._backend is None:
            executor = self.executor
            self._backend = (
                Processes(executor.workers, gpus)
                if executor.kind == "processes"
                else Actors(executor.workers, executor.address, gpus)
            )
        self._start = packed
        return self._backend

    def _forget(self, worker: Any) -> None:
        self._starting.discard(worker)
        self._groups.pop(worker, None)
        if worker in self._idle:
            self._idle.remove(worker)


class _Backend(Protocol):
    """How to come by workers: `Processes` or `Actors`."""

    limit: int

    def launch(self, start: bytes) -> Any: ...

    def submit(self, worker: Any, message: bytes) -> None: ...

    def wait(self) -> list[tuple[Any, bytes | str]]: ...

    def close(self) -> None: ...


class _Deaths:
    """Counts workers that died.

    Attributes:
        at_start: how many in a row, before they were ready.
    """

    def __init__(self) -> None:
        self.at_start = 0
        self._over: Counter[str] = Counter()

    def count(self, unit: Unit | None, starting: bool, how: str) -> ExecutionError | None:
        """Count one that died over a unit or while it was starting; an error once it is enough."""
        advice = f"({how}); if memory is short, take fewer workers or smaller batches."
        if unit is not None:
            self._over[unit.id] += 1
            if self._over[unit.id] >= _TRIES:
                return ExecutionError(
                    f"The unit '{unit.id}' ended its worker {_TRIES} times {advice}"
                )
        elif starting:
            self.at_start += 1
            if self.at_start >= _TRIES:
                return ExecutionError(
                    f"Workers ended {_TRIES} times before they were ready {advice}"
                )
        return None


def _alone(
    workers: Workers,
    units: list[Unit],
    start: Start[R],
    done: Callable[[], None],
    told: Told | None,
) -> Generator[tuple[str, R]]:
    """Results of workers that are not kept."""
    with workers, closing(workers.results(units, start, done, told)) as results:
        yield from results


def _counter(total: int, before: int, progress: Progress | None) -> Callable[[], None]:
    count = before

    def done() -> None:
        nonlocal count
        count += 1
        if progress:
            progress(count, total)

    if progress and before:
        progress(before, total)
    return done


def _unheard(unit: str, done: int, total: int) -> None:
    return None
