"""Maps that are drawn while they are still computed, with progress and a way to stop."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import streamlit as st

from app import resources, state
from app.compute.engine import ModelSpec
from app.compute.refining import Refined
from app.compute.work import Work
from app.screen import parts
from app.selection import View
from app.text import sentences
from experiments.explorer import Pair

# Sweeps of models up to this size take seconds on a laptop, and are not asked for.
SMALL = 50_000_000

T = TypeVar("T")

PATIENCE = 1.0
"""Seconds that a page waits for work before it draws what there is: most is done by then."""

_EVERY = 0.5  # s between two drawings
_WORK, _USED = "work", "work-used"


class Going(Protocol):
    """Something that is worked on."""

    @property
    def work(self) -> Work[Any]: ...


@dataclass(frozen=True)
class Refining:
    """The work on one map.

    Attributes:
        key: a name for its buttons.
        whole: whether all cells are to be run, not only estimated.
    """

    key: str
    work: Work[Refined]
    whole: bool

    @property
    def refined(self) -> Refined | None:
        return self.work.stand.result


def refine(spec: ModelSpec, pair: Pair, site: str, key: str) -> Refining:
    """Start the work on a map, or go on with what this session has started.

    On large models cells are run only when that is asked for.
    """
    engine = resources.engine()
    whole = engine.about(spec).n_parameters <= SMALL or bool(
        st.session_state.get(f"run-{key}-{site}")
    )
    name = (spec, pair, site, whole)
    work = going_on(name, lambda: engine.refine(spec, pair, site, run=whole))
    return Refining(f"{key}-{site}", work, whole)


def going_on(name: Hashable, begin: Callable[[], Work[T]]) -> Work[T]:
    """Work of this session, begun where it has not begun; it is stopped when it is not shown."""
    works = _works()
    if name not in works:
        works[name] = begin()
    st.session_state.setdefault(_USED, set()).add(name)
    return works[name]


def forget(name: Hashable) -> None:
    """Have work begin anew when it is next asked for."""
    _works().pop(name, None)


@contextlib.contextmanager
def only_what_is_shown() -> Iterator[None]:
    """Stop, when the whole page is drawn, the work on what it no longer shows."""
    st.session_state[_USED] = set()
    yield
    works, used = _works(), st.session_state[_USED]
    for name in [name for name in works if name not in used]:
        works.pop(name).stop()


def draw(refining: Sequence[Going], show: Callable[[], None]) -> None:
    """Call `show`, and while there is work to do again and again."""
    deadline = time.monotonic() + PATIENCE
    running = [one.work.wait(max(0.0, deadline - time.monotonic())).running for one in refining]
    page = _page()

    def again() -> None:
        if _page() != page or not any(one.work.stand.running for one in refining):
            st.rerun()
        show()

    if any(running):
        st.fragment(again, run_every=_EVERY)()
    else:
        show()


def _page() -> View:
    """What the page is about, but for the chosen cell, step or layer: these change without a new
    page."""
    view = state.view()
    return replace(view, cell=None, step=None, probe=replace(view.probe, point=None))


def progress(one: Refining) -> None:
    """How far the work on a map is, with a button to stop it or to have all cells run."""
    stand = one.work.stand
    if stand.error is not None:
        parts.error(stand.error)
    elif stand.running:
        left = sentences.time_left(stand.seconds_left)
        text = "Estimating" if stand.result is None else "Running cells"
        if stand.total:
            text = f"{stand.done:,} of {stand.total:,} cells run{left}"
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.progress(min(1.0, stand.done / max(1, stand.total)), text)
            st.button("Cancel", key=f"cancel-{one.key}", on_click=one.work.stop)
    elif stand.stopped or not one.whole:
        st.button("Run every cell", key=f"run-all-{one.key}", on_click=_run_all, args=(one,))


def _run_all(one: Refining) -> None:
    st.session_state[f"run-{one.key}"] = True
    works = _works()
    for name in [name for name, work in works.items() if work is one.work]:
        del works[name]


def _works() -> dict[Hashable, Work[Any]]:
    works: dict[Hashable, Work[Any]] = st.session_state.setdefault(_WORK, {})
    return works
