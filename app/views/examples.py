"""The examples of a study, and one of them from all sides."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import streamlit as st

from app.panels import example, example_table, study_figures
from app.screen import parts
from app.text import markup, snippets
from app.views import prompt, study
from app.views.opened import Opened
from experiments.explorer import Examples

_BESIDE = 528  # px of a table beside a figure, with what is told of that


def show(opened: Opened) -> None:
    """Draw it. First what lies on disk; the model is loaded for what comes after."""
    if opened.run is not None:
        study.header(opened.run)
    elif opened.about is not None:
        about = opened.about
        size = f"{about.n_parameters / 1e6:,.1f} million parameters"
        parts.html(
            markup.title(about.name, f"{about.n_layers} layers · {about.n_heads} heads · {size}")
        )
    if opened.examples is None:
        _without(opened)
        return
    examples, table = opened.examples
    code = _code(opened, examples)
    parts.html(markup.heading(examples.many.capitalize()))
    figures = [figure for figure in opened.page.figures if figure.selects]
    if opened.run is None or not figures:
        chosen = example_table.show(examples, table, code)
    else:
        left, right = st.columns([3, 2], gap="medium")
        with left:
            chosen = example_table.show(examples, table, code, height=_BESIDE)
        with right:
            study_figures.show(opened.run, tuple(figures), chosen, example_table.on_point)
    if chosen is not None and opened.shown is not None:
        example.show(opened.shown, chosen)


def _code(opened: Opened, examples: Examples) -> Callable[[snippets.Listed], str]:
    """What makes the table again."""
    if opened.run is not None:
        return partial(snippets.run_examples, opened.run.record.path, examples.table)
    assert opened.model is not None  # it brings them along
    return partial(snippets.model_examples, opened.model, opened.study)


def _without(opened: Opened) -> None:
    """A run that has not come that far, or of a study without examples; or a model with none."""
    if opened.run is None and opened.model is not None:
        parts.html(
            markup.hint("This model brings nothing along to be asked; ask it your own questions.")
        )
        prompt.show(opened.model)
        return
    if opened.run is None:
        parts.html(
            '<div class="ob-empty"><b>Nothing is open.</b><br>Choose a run or a model at the left.'
            "</div>"
        )
        return
    parts.html(
        '<div class="ob-empty"><b>There are no examples to look at.</b><br>This run has not stored '
        "any, or its study has none. What it found stands under <b>Findings</b>.</div>"
    )
