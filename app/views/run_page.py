"""A run: what it found, its facts, and one of them from both ends."""

from __future__ import annotations

import contextlib

import pandas as pd
import streamlit as st

from app import resources, runs, state
from app.compute.engine import ModelSpec
from app.text import markup, snippets
from app.views import detail, fact_table, own, parts
from app.views.study import Study
from cache.errors import ObverseError
from interp.figures import accuracy_bars, direction_scatter


def show(run: runs.Run) -> None:
    """Draw it. First what lies on disk; the model is loaded for what comes after."""
    if state.view().page == "yours":
        spec = _model(run)
        if spec is not None:
            own.show(spec)
        return
    _header(run)
    facts = run.table("facts")
    if facts is None:
        _without_facts(run)
        return
    _example(facts)
    _verdicts(run)
    fact = _facts(run, facts)
    if fact is not None:
        detail.show(Study(_model(run), facts, run), fact)


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


def _example(facts: pd.DataFrame) -> None:
    """The best-known fact in one line, asked both ways."""
    rows = facts[facts["subject"] == "Tom Cruise"]
    if rows.empty:
        return
    row = rows.iloc[0]
    pieces = []
    for way in ("forward", "reverse"):
        said = str(row.get(f"{way}_said", "")).strip()
        right = bool(row[f"{way}_correct"])
        said = said or (str(row[f"{way}_answer"]).strip() if right else "something else")
        mark = '<b style="color:#00704f">✓</b>' if right else '<b style="color:#a34700">✗</b>'
        pieces.append(
            f"“{markup.esc(row[f'{way}_prompt'])} …” &nbsp;<b>{markup.esc(said)}</b> {mark}"
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


def _facts(run: runs.Run, facts: pd.DataFrame) -> int | None:
    parts.html(markup.heading("Facts"))
    left, right = st.columns([3, 2], gap="medium")
    with left:
        fact = fact_table.show(facts)
    with right:
        names = ["Every fact", "Accuracy"]
        tabs = st.tabs(names, key="overview", on_change="rerun")
        accuracy = run.table("accuracy")
        if tabs[0].open:
            with tabs[0]:
                parts.figure(
                    direction_scatter(facts, selected=fact),
                    "margins",
                    data=lambda: facts,
                    code=snippets.table(run.record.path, "facts", "direction_scatter"),
                    alt="Margin asked forward against margin asked in reverse, one point a fact",
                    on_click=lambda: fact_table.on_point("margins"),
                )
        elif accuracy is not None:
            with tabs[1]:
                parts.figure(
                    accuracy_bars(accuracy),
                    "accuracy",
                    data=lambda: accuracy,
                    code=snippets.table(run.record.path, "accuracy", "accuracy_bars"),
                    alt="Accuracy by split, direction and wording",
                )
    return fact


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


def _without_facts(run: runs.Run) -> None:
    """A run that has not come that far, or of another study: its tables as they are."""
    _verdicts(run)
    tables = run.record.names("table")
    if not tables:
        parts.html(
            '<div class="ob-empty"><b>This run has no results yet.</b><br>Start the same '
            "<code>obverse run</code> again and reload this page.</div>"
        )
        return
    name = st.selectbox("Table", tables, key="table")
    table = run.table(name)
    if table is not None:
        st.dataframe(table, hide_index=True)
