"""What the explorer is for, and what there is to open."""

from __future__ import annotations

import streamlit as st

from app import runs, state
from app.text import markup
from app.views.opened import Opened


def show(opened: Opened) -> None:
    st.html(
        '<div class="ob-title">Why does the model answer this way and not the other way round?'
        "</div>"
    )
    if opened.source is None:
        st.html(
            '<div class="ob-empty"><b>There are no runs here yet.</b><br>'
            f"In <code>{markup.esc(opened.root)}</code> nothing was found. Make one with "
            "<code>obverse run reversal-curse</code> and reload this page,<br>"
            "or choose a model at the left to look at it directly.</div>"
        )
        return
    if opened.run is not None:
        record = opened.run.record
        st.html(
            f'<p class="ob-small">Open is a run of the study {markup.esc(record.study)}, '
            f"{markup.esc(runs.when(record))}.</p>"
        )
    for page, text in (
        ("study", "What the study found: its verdicts, each with interval and control."),
        ("examples", "One example from all sides: lens, patching, transplants."),
        ("circuit", "Which edges carry the answer, and what they do when they are run alone."),
        ("prompt", "Ask the model something of your own."),
    ):
        st.button(text, key=f"go-{page}", on_click=_go, args=(page,), type="tertiary")


def _go(page: str) -> None:
    state.change(page=page)
