"""What all sessions share: the engine, the models, and the runs that were opened."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import streamlit as st
from streamlit.runtime import Runtime

from app import runs
from app.compute.along import Kept
from app.compute.background.jobs import Jobs
from app.compute.background.request import Request
from app.compute.background.shelf import asked_of
from app.compute.engine import Engine, ModelSpec
from app.compute.models import Models, touched
from app.text import markup
from experiments.errors import StudyError
from experiments.explorer import Page
from experiments.records import RunRecord
from experiments.registry import find_study
from experiments.reporter import Progress
from experiments.run_directory.explored import is_there

if TYPE_CHECKING:
    from interp.model.model import Model


def engine() -> Engine:
    """The one engine of this process."""
    return _engine()


def jobs() -> Jobs:
    """The jobs of this process."""
    return _jobs()


def is_kept(request: Request[Any], run: runs.Run) -> bool:
    """Whether a run directory holds the result of a request, as far as its name tells."""
    asked = engine().compute(
        request.spec, ("asked", request.written), lambda model: asked_of(request, model)
    )
    return asked.fingerprint == run.fingerprint and is_there(run.record.path, asked)


def models() -> Models:
    """The models in memory."""
    return _models()


def agreed() -> set[str]:
    """Models, neither bundled nor of a run, that somebody has opened by a click since the server
    began: who draws the page anew is in another session, and need not be asked again."""
    return _agreed()


def run(record: RunRecord) -> runs.Run:
    """A run with the results that were read before, unless it has stored more since."""
    return _run(str(record.path), runs.stamp(record))


def page(study: str) -> tuple[Page, str | None]:
    """What a study hands the explorer, and what is wrong where it can hand nothing."""
    try:
        return _page(study), None
    except StudyError as error:
        return Page(), str(error)


def load_apart(spec: ModelSpec) -> Model:
    """A model that is looked at once, and is not kept."""
    return _load_model(spec)


def asked_along(checkpoints: tuple[tuple[int, ModelSpec], ...], what: Hashable) -> Kept:
    """What models along a training answered as far as they were asked, to be filled; it is another
    one when one of the models is.

    Args:
        what: tells what they are asked.
    """
    return _asked(checkpoints, tuple(touched(spec) for _, spec in checkpoints), what)


@contextmanager
def progress(text: str) -> Iterator[Progress]:
    """A progress bar that is gone when the work is done."""
    place = st.empty()
    try:
        yield lambda done, total: _draw(place, text, done, total)
    finally:
        place.empty()


def _draw(place: st.delta_generator.DeltaGenerator, text: str, done: int, total: int) -> None:
    said = markup.plain(f"{text}: {done:,} of {total:,}")
    place.progress(min(1.0, done / max(1, total)), said)


def _make_engine() -> Engine:
    return Engine(models().get, models().there)


def _make_models() -> Models:
    return Models(_load_model)


def _nothing_agreed() -> set[str]:
    return set()


def _make_jobs() -> Jobs:
    return Jobs(engine().turns, _alive)


def _alive(session: str) -> bool:
    """Whether a browser shows this session."""
    return not Runtime.exists() or Runtime.instance().is_active_session(session)


def _open_run(path: str, stamp: tuple[int, ...]) -> runs.Run:
    return runs.Run(RunRecord.open(path))


def _make_page(study: str) -> Page:
    explorer = find_study(study).explorer
    try:
        page = Page() if explorer is None else explorer()
        if not isinstance(page, Page):
            raise TypeError(f"{type(page).__name__} is no Page")
        return page
    except (Exception, SystemExit) as error:  # another package's code may fail in any way
        logging.getLogger("obverse").exception("A study's page could not be made")
        raise StudyError(
            f"The page of the study '{study}' cannot be made ({type(error).__name__}); the "
            "terminal says more."
        ) from error


def _load_model(spec: ModelSpec) -> Model:
    from interp.loading.load import load_model
    from interp.loading.written import from_environment

    # As `obverse app --device-map …` was told.
    lies = from_environment()
    return load_model(spec.source, revision=spec.revision, dtype=spec.dtype, **lies)


def _nothing_asked(
    checkpoints: tuple[tuple[int, ModelSpec], ...], touched: tuple[float, ...], what: Hashable
) -> Kept:
    return Kept()


_engine: Callable[[], Engine] = st.cache_resource(_make_engine, show_spinner=False)
_page: Callable[[str], Page] = st.cache_resource(_make_page, show_spinner=False)
_run: Callable[[str, tuple[int, ...]], runs.Run] = st.cache_resource(
    _open_run, max_entries=8, show_spinner=False
)
_asked: Callable[..., Kept] = st.cache_resource(_nothing_asked, max_entries=16, show_spinner=False)
_models: Callable[[], Models] = st.cache_resource(_make_models, show_spinner=False)
_agreed: Callable[[], set[str]] = st.cache_resource(_nothing_agreed, show_spinner=False)
_jobs: Callable[[], Jobs] = st.cache_resource(_make_jobs, show_spinner=False)
