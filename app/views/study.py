"""What the study of a run found: its verdicts, and the figures of its report, live."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import pandas as pd
import streamlit as st

from app import runs, state
from app.panels import study_figures
from app.screen import later, parts
from app.text import markup, snippets
from app.views.opened import Opened
from cache.errors import ObverseError
from experiments.explorer import Examples

_FIGURE, _TABLE = 640, 560  # px, about


def show(opened: Opened) -> None:
    """Draw it, from what lies on disk; no model is needed."""
    run = opened.run
    if run is None:
        parts.html(
            '<div class="ob-empty"><b>No run is open.</b><br>What a study finds stands here. Make '
            "one with <code>obverse run reversal-curse</code>, or choose a run at the left.</div>"
        )
        return
    header(run)
    if opened.examples is not None:
        _in_one_line(*opened.examples)
    _verdicts(run)
    if not run.record.names():
        parts.html(
            '<div class="ob-empty"><b>This run has no results yet.</b><br>Start the same '
            "<code>obverse run</code> again and reload this page.</div>"
        )
        return
    # The first screen are verdicts: what draws figures and tables takes a browser a second to read.
    figures = opened.page.figures
    if study_figures.stored(run, figures):
        later.draw(
            "figures",
            study_figures.FIGURES,
            _FIGURE,
            lambda: study_figures.gallery(run, figures, opened.problem),
        )
    if run.record.names("table"):
        later.draw("tables", "", _TABLE, lambda: _tables(run))


def _tables(run: runs.Run) -> None:
    """The tables that the run has stored, one at a time."""
    parts.html(markup.heading("Stored tables", "As the run keeps them: ranks count from 0 here."))
    name = _chosen_table(run.record.names("table"))
    table = run.table(name)
    st.dataframe(table, hide_index=True)
    if table is not None:
        code = snippets.run_table(run.record.path, name)
        parts.export(f"table-{name}", lambda: table, code)


def _chosen_table(names: Sequence[str]) -> str:
    wanted = state.view().table

    def changed() -> None:
        state.change(table=st.session_state["table"])

    st.session_state["table"] = wanted if wanted in names else names[0]
    return str(
        st.selectbox("Table", names, key="table", on_change=changed, label_visibility="collapsed")
    )


def header(run: runs.Run) -> None:
    """Study, model, settings and the report of a run."""
    record = run.record
    title = record.study.replace("-", " ").capitalize()
    about = f"{run.studied} · {record.config['preset']} · seed {record.config['seed']}"
    with st.container(horizontal=True, vertical_alignment="bottom", wrap=False):
        st.html(
            markup.title(title, f"{about} · {runs.when(record)}"),
            width="stretch",
        )
        report = _report(run)
        if report is not None:
            st.download_button(
                "Report",
                data=lambda: report,  # handed over by a click: the browser loads the rest at once
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
        mark = markup.right() if right else markup.wrong()
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
            name=one.id,
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


def _report(run: runs.Run) -> bytes | None:
    """The run's report, as it was written; a changed one is not handed on."""
    if run.record.report is None:
        return None
    with contextlib.suppress(ObverseError):
        return run.record.document("report.html")
    return None
