"""What is open, as the pages see it. Models are loaded when a page first needs one."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import streamlit as st

from app import resources, runs, state
from app.compute.engine import About, ModelSpec
from app.panels import study_figures
from app.screen import parts
from app.screen.shown import Shown, asked_before, brought
from app.selection import Source
from app.text import markup
from cache.errors import ObverseError
from experiments.explorer import Examples, Page
from experiments.records import RunRecord


class Opened:
    """A run, or a model, or nothing; made anew whenever the page is drawn.

    Args:
        root: the folder of runs.
        source: what the user has chosen; None where nothing is open.
        run: the run, if it is one.
        found: all runs that could be open, by name.

    Attributes:
        problem: what is wrong with the study's examples, once that was said on the screen.
    """

    def __init__(
        self,
        root: Path,
        source: Source | None,
        run: runs.Run | None,
        found: Mapping[str, RunRecord],
    ) -> None:
        self.root = root
        self.source = source
        self.run = run
        self.found = found
        self.problem = ""

    @functools.cached_property
    def page(self) -> Page:
        """What the run's study hands the explorer; empty where there is none."""
        if self.run is None:
            return Page()
        page, problem = resources.page(self.run.record.study)
        if problem is not None:
            parts.warning(problem)
        return page

    @functools.cached_property
    def model(self) -> ModelSpec | None:
        """The model, loaded; None where there is none, which is then said on the screen.

        Raises:
            ModelError: a model that was opened by itself cannot be loaded.
        """
        if self.run is not None:
            return _of_run(self.run)
        if self.source is None:
            return None
        spec = ModelSpec(self.source.name)
        _loaded(spec)
        return spec

    @functools.cached_property
    def about(self) -> About | None:
        """What is said of the model, once it is loaded."""
        return None if self.model is None else resources.engine().about(self.model)

    @functools.cached_property
    def examples(self) -> tuple[Examples, pd.DataFrame] | None:
        """The study's examples with their table: those that the run has stored, or those that a
        model brings along, asked now. None without, and where they are damaged, which is then
        said on the screen."""
        if self.run is None:
            shown = None if self.model is None else brought(self.model)
            return None if shown is None else (shown.examples, shown.table)
        examples = self.page.examples
        try:
            table = None if examples is None else self.run.table(examples.table)
        except ObverseError as error:  # pages that need none of it go on
            self.problem = str(error)
            parts.error(error)
            return None
        return None if examples is None or table is None else (examples, table)

    @property
    def examples_there(self) -> tuple[Examples, pd.DataFrame] | None:
        """The same; of a model alone only if they have been asked already."""
        if self.run is not None or "examples" in self.__dict__:
            return self.examples
        shown = None if self.source is None else asked_before(ModelSpec(self.source.name))
        return None if shown is None else (shown.examples, shown.table)

    @property
    def usual_page(self) -> str:
        """The page that is shown where none is asked for."""
        if self.source is None:
            return "start"
        without = self.run is not None and self.examples is None
        return "study" if without else "examples"

    @functools.cached_property
    def shown(self) -> Shown | None:
        """The examples with the model that they are asked of, as far as it can be loaded."""
        if self.examples is None:
            return None
        lasso = ""
        if self.run is not None:
            figures = study_figures.stored(self.run, self.page.figures)
            lasso = next((figure.title for figure in figures if figure.selects), "")
        return Shown(*self.examples, self.model, self.run, lasso)

    @property
    def study(self) -> str:
        """Whose examples these are."""
        if self.run is not None:
            return self.run.record.study
        there = None if self.model is None else asked_before(self.model)
        return "" if there is None else there.study


def _loaded(spec: ModelSpec) -> About:
    with st.spinner("Loading the model …", show_time=True):
        return resources.engine().about(spec)


def _of_run(run: runs.Run) -> ModelSpec | None:
    """The run's model if it can be loaded and is the one that was studied."""
    if not run.model.source:
        parts.html(markup.hint(_own_models(run)))
        return None
    try:
        if _elsewhere(run.model.source):
            return None
        about = _loaded(run.model)
    except ObverseError as error:
        parts.warning(f"Only what the run stored can be shown: {error}")
        return None
    if run.fingerprint is not None and about.fingerprint != run.fingerprint:
        parts.warning(
            f"The model at '{run.model.source}' is not known to be the one that was studied: its "
            "weights are others, or the run was made by a version of Obverse that tells models in "
            "another way. What is computed here may not belong to the stored results."
        )
    return run.model


def _own_models(run: runs.Run) -> str:
    """Of a study that was not of one model: where those lie that it has trained."""
    said = "This run is of no single model, so only what it stored is shown."
    folder = run.record.path / "work" / "organisms"
    if folder.is_symlink() or not folder.is_dir():
        return said
    return f"{said} Those that it has trained are opened under ‘Another model …’, each by its " + (
        f"folder in ‘{folder}’."
    )


def _elsewhere(source: str) -> bool:
    """Whether a run's model would have to be fetched and nobody has agreed to that: a run that
    somebody was sent must not fetch anything by being looked at.

    Raises:
        ModelError: there can be no such model.
    """
    from interp.loading.where import locate

    if source in state.agreed() | resources.agreed() or locate(source)[1] is not None:
        return False
    parts.warning(
        f"This run's model, '{source}', is no folder of this computer: only what the run stored is "
        "shown. To fetch it from the Hugging Face hub, load it once under 'Another model …'."
    )
    return True
