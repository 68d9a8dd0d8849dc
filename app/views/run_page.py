"""A run: what it found, its figures and examples, and one of them from all sides."""

from __future__ import annotations

import contextlib

import pandas as pd
import streamlit as st

from app import resources, runs, state
from app.compute.engine import ModelSpec
from app.text import markup
from app.views import example, example_table, own, parts, study_figures
from app.views.shown import Shown
from cache.errors import ObverseError
from experiments.explorer import Examples, Page


def show(run: runs.Run) -> None:
    """Draw it. First what lies on disk; the model is loaded for what comes after."""
    if state.view().page == "yours":
        spec = _model(run)
        if spec is not None:
            own.show(spec)
        return
    _header(run)
    page, problem = resources.page(run.record.study)
    if problem is not None:
        parts.warning(problem)
    examples = page.examples
    table = None if examples is None else run.table(examples.table)
    if examples is None or table is None:
        _without_examples(run, page)
        return
    _in_one_line(examples, table)
    _verdicts(run)
    chosen = _overview(run, page, examples, table)
    if chosen is not None:
        example.show(Shown(examples, table, _model(run), run), chosen)


def _header(run: runs.Run) -> None:
    record = run.record
    title = record.study.replace("-", " ").capitalize()
    about = f"{run.model.source} · {record.config['preset']} · seed {record.config['seed']}"
    with st.container(horizontal=True, vertical_alignment="bottom", wrap=False):
        st.html(
            f'<div class="ob-title">{markup.esc(title)}</div>'
            f'<div class="ob-meta">{markup.esc(about)} · {markup.esc(runs.when(record))}</div>',
            width="stretch",
        )
        report = _report(run)
        if report is not None:
            st.download_button(
                "Report",
                data=report,
                file_name="report.html",
                mime="text/html",
                on_click="ignore",
                icon=":material/article:",
            )
    if not record.finished:
        parts.warning(
            f"This run is not finished ({len(record.names())} results so far); start the same "
            "'obverse run' again and it goes on, then reload this page."
        )


def _in_one_line(examples: Examples, table: pd.DataFrame) -> None:
    """The example that the study begins with, asked in all ways."""
    first = examples.first(table)
    if first is None:
        return
    row = table[table[examples.key] == first].iloc[0]
    pieces = []
    for way in examples.ways:
        said = str(row.get(f"{way.name}_said", "")).strip()
        right = bool(row[f"{way.name}_correct"])
        said = said or (str(row[f"{way.name}_answer"]).strip() if right else "something else")
        mark = '<b style="color:#00704f">✓</b>' if right else '<b style="color:#a34700">✗</b>'
        pieces.append(
            f"“{markup.esc(row[f'{way.name}_prompt'])} …” &nbsp;<b>{markup.esc(said)}</b> {mark}"
        )
    parts.html(f'<div class="ob-example">{" &nbsp;&nbsp;&nbsp; ".join(pieces)}</div>')


def _verdicts(run: runs.Run) -> None:
    verdicts = run.record.verdicts
    if run.record.headline:
        said = " ".join(markup.esc(sentence) for sentence in run.record.headline)
        parts.html(f'<p class="ob-small">{said}</p>')
    if not verdicts:
        return
    cards = [
        markup.verdict(
            one.outcome,
            claim=one.claim,
            statement=one.statement,
            estimate=one.estimate,
            low=one.low,
            high=one.high,
            unit=one.unit,
            n=one.n,
            control=one.control,
            confidence=one.confidence,
        )
        for one in verdicts
    ]
    parts.html(f'<div class="ob-cards">{"".join(cards)}</div>')


def _overview(run: runs.Run, page: Page, examples: Examples, table: pd.DataFrame) -> int | None:
    """The table of examples beside the study's figures; returns the chosen example."""
    parts.html(markup.heading(examples.many.capitalize()))
    left, right = st.columns([3, 2], gap="medium")
    with left:
        chosen = example_table.show(examples, table)
    with right:
        study_figures.show(run, page.figures, chosen, example_table.on_point)
    return chosen


def _report(run: runs.Run) -> bytes | None:
    """The run's report, as it was written; a changed one is not handed on."""
    if run.record.report is None:
        return None
    with contextlib.suppress(ObverseError):
        return run.record.document("report.html")
    return None


def _model(run: runs.Run) -> ModelSpec | None:
    """The run's model if it can be loaded and is the one that was studied."""
    if not run.model.source:
        parts.warning("This run names no model, so only what it stored can be shown.")
        return None
    try:
        with st.spinner("Loading the model …", show_time=True):
            about = resources.engine().about(run.model)
    except ObverseError as error:
        parts.warning(f"Only what the run stored can be shown: {error}")
        return None
    if run.fingerprint is not None and about.fingerprint != run.fingerprint:
        parts.warning(
            f"The model at '{run.model.source}' has other weights than the one that was studied; "
            "what is computed here does not belong to the stored results."
        )
    return run.model


def _without_examples(run: runs.Run, page: Page) -> None:
    """A run that has not come that far, or of a study without examples: its stored results."""
    _verdicts(run)
    tables = run.record.names("table")
    if not run.record.names():
        parts.html(
            '<div class="ob-empty"><b>This run has no results yet.</b><br>Start the same '
            "<code>obverse run</code> again and reload this page.</div>"
        )
        return
    study_figures.show(run, page.figures)
    if tables:
        name = st.selectbox("Table", tables, key="table")
        st.dataframe(run.table(name), hide_index=True)
