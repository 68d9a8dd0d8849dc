"""Models in turn: one computation at a time, whose results are kept."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from app.compute.work import Steps, Work
from experiments.reporter import Progress

if TYPE_CHECKING:
    from interp.model.model import Model

T = TypeVar("T")

RESULTS = 128  # kept in memory, a few hundred kB each for prompts of usual length
_WAIT = 0.05  # s, between two looks whether a turn is still wanted
_GIVEN = 0.005  # s, in which another one can take its turn
PATIENCE = 2.0  # s, after which work goes on beside the one that has taken its turn


@dataclass(frozen=True)
class ModelSpec:
    """Which model, as `interp.load_model` takes it."""

    source: str
    revision: str | None = None
    dtype: str = "float32"


class _Nothing:
    """Stands for what is not kept; a result may be None."""


_NOTHING = _Nothing()


class Replaced(Exception):
    """What was asked for is not wanted any more."""


class Turns:
    """Hands models to one computation after the other, and keeps what they return.

    Args:
        load: gives the model for a spec; should keep models, since it is called every time.
        loaded: gives it where it is in memory, and else None; may be called at any time.
    """

    def __init__(
        self,
        load: Callable[[ModelSpec], Model],
        loaded: Callable[[ModelSpec], Model | None] = lambda spec: None,
    ) -> None:
        self._load, self._loaded = load, loaded
        # One computation at a time: hooks are shared state, and two models' activations at once
        # are twice the memory.
        self._lock = threading.RLock()
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self._waiting: set[int] = set()  # threads
        self._looked = threading.local()

    @contextmanager
    def one_look(self) -> Iterator[None]:
        """What this thread draws within it is of one moment: each model is looked at once, and not
        again for every result."""
        if getattr(self._looked, "at", None) is not None:
            yield
            return
        self._looked.at = {}
        try:
            yield
        finally:
            self._looked.at = None

    @contextmanager
    def wanted(self, replaced: Callable[[], bool]) -> Iterator[None]:
        """Hold the lock, unless it is not wanted any more by the time that it is free."""
        while not self._lock.acquire(timeout=_WAIT):
            if replaced():
                raise Replaced
        try:
            if replaced():
                raise Replaced
            yield
        finally:
            self._lock.release()

    def compute(self, spec: ModelSpec, key: tuple[Hashable, ...], work: Callable[[Model], T]) -> T:
        """The result of `work` under `key`, kept or computed in turn.

        What is kept is given at once, whatever is computed meanwhile.
        """
        from interp.model.memory import fitting_threads

        if not self._lock.acquire(blocking=False):
            there = self._loaded(spec)
            if there is not None:
                name = (spec, self._fingerprint(there), *key)
                kept: T | _Nothing = self._kept.get(name, _NOTHING)
                if not isinstance(kept, _Nothing):
                    return kept
            me = threading.get_ident()
            self._waiting.add(me)
            self._lock.acquire()
            self._waiting.discard(me)
        try:
            model = self._load(spec)
            name = (spec, self._fingerprint(model), *key)
            if name in self._kept:
                self._kept.move_to_end(name)
            else:
                with fitting_threads(model):
                    found = work(model)
                self._keep(name, found)
            result: T = self._kept[name]
            return result
        finally:
            self._lock.release()

    def apart(self, load: Callable[[], Model], work: Callable[[Model], T]) -> T:
        """In turn as well, on a model that is not kept: it takes the place of no other one."""
        from interp.model.memory import fitting_threads

        with self._lock:
            model = load()
            with fitting_threads(model):
                return work(model)

    def in_steps(
        self,
        spec: ModelSpec,
        key: tuple[Hashable, ...],
        work: Callable[[Model, Progress], Iterator[T]],
        *,
        gives_way: bool = False,
    ) -> Work[T]:
        """As `compute`, in the background; other sessions get their turn between two results.

        Args:
            gives_way: whether they also get it whenever the work tells how far it is: for work
                that leaves the model as it is in between.
        """
        return Work(self.steps(spec, key, work, gives_way=gives_way))

    def steps(
        self,
        spec: ModelSpec,
        key: tuple[Hashable, ...],
        work: Callable[[Model, Progress], Iterator[T]],
        *,
        gives_way: bool = False,
    ) -> Steps[T]:
        """The same, to be run by whoever calls it."""
        from interp.model.memory import fitting_threads

        def steps(tell: Progress) -> Iterator[T]:
            with self._lock:
                model = self._load(spec)
                name = (spec, self._fingerprint(model), *key)
                kept = self._kept.get(name)
            if kept is not None:
                yield kept
                return
            turn, last = _Turn(self._lock), None
            results = work(model, turn.giving_way(tell) if gives_way else tell)
            while True:
                with turn, fitting_threads(model):
                    found = next(results, None)
                    if found is None:
                        self._keep(name, last)
                        return
                yield (last := found)
                if self._waiting:  # a lock is not fair: who let it go would have it again
                    time.sleep(_WAIT)

        return steps

    def _fingerprint(self, model: Model) -> str:
        """Tells a model, and its tokenizer, from those that stood in the same folder before.

        Asked once for a model as it is: to read all weights for every click would take longer than
        the click may.
        """
        looked: dict[int, tuple[Model, str]] | None = getattr(self._looked, "at", None)
        if looked is not None and id(model) in looked:
            return looked[id(model)][1]
        found = model.once(
            "explorer: fingerprint", lambda: f"{model.fingerprint} {model.tokenizer_fingerprint}"
        )
        if looked is not None:
            looked[id(model)] = model, found  # the model, too: its id is nobody else's meanwhile
        return found

    def _keep(self, name: Hashable, result: object) -> None:
        with self._lock:
            self._kept[name] = result
            while len(self._kept) > RESULTS:
                self._kept.popitem(last=False)


class _Turn:
    """A turn that can be given to others for a moment, in the middle of the work."""

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self._mine = False

    def __enter__(self) -> None:
        self._mine = self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        if self._mine:
            self._mine = False
            self._lock.release()

    def giving_way(self, tell: Progress) -> Progress:
        """Tells how far the work is, and lets others have their turn now and then."""
        given = time.monotonic()

        def told(done: int, total: int) -> None:
            nonlocal given
            tell(done, total)
            if time.monotonic() - given < _WAIT:
                return
            if self._mine:
                self._mine = False
                self._lock.release()
                time.sleep(_GIVEN)
            # Not without end: whoever has the turn now may wait for the model's own lock, which
            # this work may hold. It then goes on without a turn, since the model is still its own.
            self._mine = self._lock.acquire(timeout=PATIENCE)
            given = time.monotonic()

        return told
