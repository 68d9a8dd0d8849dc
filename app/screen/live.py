"""What is drawn while it is still computed, with progress and a way to stop waiting for it."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

import streamlit as st
from streamlit.runtime.scriptrunner_utils.script_run_context import get_script_run_ctx

from app import resources, state
from app.compute.background import requests
from app.compute.background.jobs import Job
from app.compute.background.request import Request
from app.compute.engine import ModelSpec
from app.compute.refining import Refined
from app.compute.work import Stand, Work
from app.link import to_query
from app.runs import Run
from app.screen import parts
from app.text import markup, sentences
from experiments.explorer import Pair

# Sweeps of models up to this size take seconds on a laptop, and are not asked for.
SMALL = 50_000_000

T = TypeVar("T")

PATIENCE = 1.0
"""Seconds that a page waits for work before it draws what there is: most is done by then."""

EVERY = 0.5
"""Seconds between two drawings of what is worked on."""

_WAITING, _USED = "waiting", "waiting-used"


class Waiting(Generic[T]):
    """This session's part in a job; to be used as `Work` is.

    Attributes:
        job: may go on for others when this session has stopped waiting.
    """

    def __init__(self, job: Job[T]) -> None:
        self.job = job
        self._stopped: Stand[T] | None = None

    @property
    def stand(self) -> Stand[T]:
        """How far it is; how far it was when this session stopped waiting."""
        return self._stopped or self.job.stand

    @property
    def key(self) -> str:
        """A name for its buttons."""
        return hashlib.sha256(self.job.request.written.encode()).hexdigest()[:12]

    def wait(self, seconds: float) -> Stand[T]:
        """How far it is after so many seconds, or as soon as it has ended."""
        return self._stopped or self.job.work.wait(seconds)

    def stop(self) -> None:
        """Do not wait any more; the job stops if nobody else does."""
        self._stopped = replace(self.job.stand, running=False, stopped=True)
        resources.jobs().cancel(self.job, session())


class Going(Protocol):
    """Something that is worked on."""

    @property
    def work(self) -> Work[Any] | Waiting[Any]: ...


@dataclass(frozen=True)
class Refining:
    """The work on one map.

    Attributes:
        key: a name for its buttons.
        whole: whether all cells are to be run, not only estimated.
    """

    key: str
    work: Waiting[Refined]
    whole: bool

    @property
    def refined(self) -> Refined | None:
        return self.work.stand.result


def session() -> str:
    """The name of this session."""
    context = get_script_run_ctx()
    return "" if context is None else context.session_id


def wait_for(request: Request[T], run: Run | None = None, *, within: bool = False) -> Waiting[T]:
    """Start a job that this page shows, or wait for it with others; go on with what this session
    waits for, or has stopped waiting for, already.

    Args:
        run: the run that is open; the result is kept there if it is of the run's model.
        within: whether the model lies in the run, so that the result belongs there anyway.

    Raises:
        ModelError: the model cannot be loaded.
    """

    def begin() -> Waiting[T]:
        here = None
        if run is not None and request.form is not None:
            models = resources.engine().about(request.spec).fingerprint, *request.others
            here = run.record.path if within or run.fingerprint in models else None
        link = to_query(state.view())
        return Waiting(resources.jobs().ask(request, session(), directory=here, link=link))

    # In its folder may lie another model, or its tokenizer, than when this session began to wait.
    it = resources.engine().compute(
        request.spec, ("it",), lambda model: (model.fingerprint, model.tokenizer_fingerprint)
    )
    return going_on((request.spec, it, request.written), begin)


def refine(spec: ModelSpec, pair: Pair, site: str, key: str, run: Run | None = None) -> Refining:
    """Start the work on a map, or go on with it.

    On large models cells are run only when that is asked for, or was before a reload.
    """
    name = f"{key}-{site}"
    whole = requests.patching(spec, pair, site, run=True)
    wanted = (
        resources.engine().about(spec).n_parameters <= SMALL
        or bool(st.session_state.get(f"run-{name}"))
        or resources.jobs().find(whole) is not None
        or (run is not None and resources.is_kept(whole, run))
    )
    asked = whole if wanted else requests.patching(spec, pair, site, run=False)
    return Refining(name, wait_for(asked, run), wanted)


Held = TypeVar("Held", Work[Any], Waiting[Any])


def going_on(name: Hashable, begin: Callable[[], Held]) -> Held:
    """Work of this session, begun where it has not begun; when it is not shown any more, it is
    stopped, or left if it is a job."""
    held = _held()
    if name not in held:
        held[name] = begin()
    st.session_state.setdefault(_USED, set()).add(name)
    return held[name]  # type: ignore[return-value]


@contextlib.contextmanager
def only_what_is_shown() -> Iterator[None]:
    """Leave, when the whole page is drawn, what it no longer shows."""
    st.session_state[_USED] = set()
    yield
    held, used = _held(), st.session_state[_USED]
    for name in [name for name in held if name not in used]:
        one = held.pop(name)
        if isinstance(one, Waiting):
            resources.jobs().leave(one.job, session())
        else:
            one.stop()


def keep_all() -> None:
    """All that this session waits for is shown on this page."""
    st.session_state.setdefault(_USED, set()).update(_held())


def draw(
    going: Sequence[Going], show: Callable[[], None], *, doing: str = "", height: int = 0
) -> None:
    """Call `show`, and while there is work to do again and again.

    Args:
        doing: what is done, to be told at once.
        height: px that `show` will take, about.
    """
    place = st.empty()
    if doing and any(one.work.stand.running for one in going):
        place.html(markup.waiting(doing, height))
    deadline = time.monotonic() + PATIENCE
    running = [one.work.wait(max(0.0, deadline - time.monotonic())).running for one in going]
    place.empty()
    drawn = state.page()

    def again() -> None:
        if state.page() != drawn or not any(one.work.stand.running for one in going):
            st.rerun()
        with parts.in_a_sentence():
            show()

    if any(running):
        st.fragment(again, run_every=EVERY)()
    else:
        show()


def progress(one: Refining) -> None:
    """How far the work on a map is, with a button to stop it or to have all cells run."""
    stand = one.work.stand
    if stand.running:
        rough = stand.result is None or stand.result.first
        bar(one.work, "Estimating" if rough else "Running cells", key=one.key)
    elif stand.error is not None:
        parts.error(stand.error)
    elif stand.stopped or not one.whole:
        st.button("Run every cell", key=f"run-all-{one.key}", on_click=_run_all, args=(one,))
    tell(one.work)


def bar(waiting: Waiting[Any], text: str, *, key: str | None = None, label: str = "") -> None:
    """The progress of a job, the time that is left, and a button to cancel it.

    Args:
        text: what is done, while it is not known how much there is of it.
        key: a name for the button, the same whenever the same is shown.
        label: what stands before it.
    """
    stand = waiting.stand
    if stand.total:
        left = sentences.time_left(stand.seconds_left)
        text = f"{stand.done:,} of {stand.total:,} {waiting.job.request.unit}{left}"
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        text = f"{markup.plain(label)}: {text[0].lower()}{text[1:]}" if label else text
        st.progress(min(1.0, stand.done / max(1, stand.total)), text)
        st.button("Cancel", key=f"cancel-{key or waiting.key}", on_click=waiting.stop)


@dataclass(frozen=True)
class One:
    """Attributes:
    work: what is waited for.
    """

    work: Waiting[Any]


def results(
    asked: Mapping[str, Request[T]],
    text: str,
    run: Run | None = None,
    *,
    height: int,
    told: bool = True,
) -> list[T | None] | None:
    """What jobs have found when they are over; None while they go on, and where one has failed or
    was cancelled, which is then on the screen.

    Args:
        asked: each by a name for people, such as the way of asking.
        text: what is done.
        run: as for `wait_for`.
        height: px that they will take, about.
        told: whether to tell where results were read from.
    """
    waiting = [wait_for(one, run) for one in asked.values()]

    def bars() -> None:
        for name, one in zip(asked, waiting, strict=True):
            if one.stand.running:
                bar(one, text, label=name)
        if any(one.stand.running for one in waiting):
            parts.html(markup.waiting("", height))

    if any(one.stand.running for one in waiting):
        draw([One(one) for one in waiting], bars, doing=text, height=height)
    if any(one.stand.running for one in waiting):
        return None
    if told:
        tell(*waiting)
    for one in waiting:
        if one.stand.error is not None:
            parts.html(markup.hint(one.stand.error))
            return None
        if one.stand.stopped:
            again(one, f"{text} again")
            return None
    return [one.stand.result for one in waiting]


def again(waiting: Waiting[Any], text: str) -> None:
    """A button for what was cancelled: to begin anew."""
    st.button(text, key=f"again-{waiting.key}", on_click=_begin_anew, args=(waiting,))


def _begin_anew(work: Waiting[Any]) -> None:
    held = _held()
    for name in [name for name, one in held.items() if one is work]:
        del held[name]


def tell(*waiting: Waiting[Any]) -> None:
    """Where results were read from, and what could not be read or kept."""
    for note in (note for one in waiting for note in one.job.notes):
        parts.warning(note)
    forms = [one.job.request.form for one in waiting if one.job.was_read]
    if forms:
        checked = dict.fromkeys(form.checked for form in forms if form is not None)
        parts.html(
            markup.hint(" ".join(["Computed before; read from the run directory.", *checked]))
        )


def cancel(job: Job[Any]) -> None:
    """This session does not wait for a job any more."""
    for one in _held().values():
        if isinstance(one, Waiting) and one.job is job:
            one.stop()
    resources.jobs().cancel(job, session())


def _run_all(one: Refining) -> None:
    st.session_state[f"run-{one.key}"] = True
    _begin_anew(one.work)


def _held() -> dict[Hashable, Work[Any] | Waiting[Any]]:
    held: dict[Hashable, Work[Any] | Waiting[Any]] = st.session_state.setdefault(_WAITING, {})
    return held
