"""What all sessions share: the engine, the models, and the runs that were opened."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from app import runs
from app.compute.along import Kept
from app.compute.engine import Engine, ModelSpec
from experiments.errors import StudyError
from experiments.explorer import Page
from experiments.records import RunRecord
from experiments.registry import find_study
from experiments.reporter import Progress

if TYPE_CHECKING:
    from interp.model.model import Model


def engine() -> Engine:
    """The one engine of this process."""
    return _engine()


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
    return _load_model(spec, 0.0)


def asked_along(checkpoints: tuple[tuple[int, ModelSpec], ...], what: Hashable) -> Kept:
    """What models along a training answered as far as they were asked, to be filled; it is another
    one when one of the models is.

    Args:
        what: tells what they are asked.
    """
    return _asked(checkpoints, tuple(_touched(spec) for _, spec in checkpoints), what)


@contextmanager
def progress(text: str) -> Iterator[Progress]:
    """A progress bar that is gone when the work is done."""
    place = st.empty()
    try:
        yield lambda done, total: _draw(place, text, done, total)
    finally:
        place.empty()


def _draw(place: st.delta_generator.DeltaGenerator, text: str, done: int, total: int) -> None:
    place.progress(min(1.0, done / max(1, total)), f"{text}: {done:,} of {total:,}")


def _make_engine() -> Engine:
    return Engine(lambda spec: _model(spec, _touched(spec)))


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


def _load_model(spec: ModelSpec, touched: float) -> Model:
    from interp.loading.load import load_model

    gc.collect()  # models that made room for this one hold themselves in circles
    return load_model(spec.source, revision=spec.revision, dtype=spec.dtype)


def _nothing_asked(
    checkpoints: tuple[tuple[int, ModelSpec], ...], touched: tuple[float, ...], what: Hashable
) -> Kept:
    return Kept()


def _touched(spec: ModelSpec) -> float:
    """When a model folder was last written to, so that a new checkpoint there is loaded."""
    folder = Path(os.path.expanduser(spec.source))  # raises nothing for a user that is not there
    try:
        return max((path.stat().st_mtime for path in folder.glob("*.safetensors")), default=0.0)
    except OSError:
        return 0.0


_engine: Callable[[], Engine] = st.cache_resource(_make_engine, show_spinner=False)
_page: Callable[[str], Page] = st.cache_resource(_make_page, show_spinner=False)
_run: Callable[[str, tuple[int, ...]], runs.Run] = st.cache_resource(
    _open_run, max_entries=8, show_spinner=False
)
_asked: Callable[..., Kept] = st.cache_resource(_nothing_asked, max_entries=16, show_spinner=False)
# Two, so that a run's model and one to compare it with stay in memory.
_model: Callable[[ModelSpec, float], Model] = st.cache_resource(
    _load_model, max_entries=2, show_spinner=False
)
