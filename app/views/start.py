"""What the explorer is for, and what there is to open."""

from __future__ import annotations

import streamlit as st

from app import runs, state
from app.text import markup
from app.views.opened import Opened


def show(opened: Opened) -> None:
    st.html(markup.title("Why does the model answer this way and not the other way round?"))
    if opened.source is None:
        st.html(
            '<div class="ob-empty"><b>There are no runs here yet.</b><br>'
            f"In <code>{markup.esc(opened.root)}</code> nothing was found. Make one with "
            "<code>obverse run reversal-curse</code> and reload this page,<br>"
            "or choose a model at the left to look at it directly.</div>"
        )
        return
    what = f"the model {opened.source.name}"
    if opened.run is not None:
        record = opened.run.record
        what = f"a run of the study {record.study}, {runs.when(record)}"
    st.html(f'<p class="ob-small">Open is {markup.esc(what)}.</p>')
    for row in range(0, len(_PAGES), 2):
        for (page, title, text), column in zip(
            _PAGES[row : row + 2], st.columns(2, gap="medium"), strict=False
        ):
            with column, st.container(border=True):
                many = opened.page.examples.many if opened.page.examples is not None else title
                st.html(markup.heading(many.capitalize() if page == "examples" else title, text))
                st.button("Open", key=f"go-{page}", on_click=_go, args=(page,))


_PAGES = (
    ("study", "Findings", "What the study found: verdicts and figures, each with its interval."),
    (
        "examples",
        "Examples",
        "One of them asked both ways: lens, patching, transplants.",
    ),
    ("circuit", "Circuit", "Which edges carry the answer, and what they do when run alone."),
    ("probes", "Probes", "What can be read at which layer, beside controls; readable, not used."),
    ("training", "Training", "How the answers come about, step by step, one way and the other."),
    (
        "compare",
        "Compare",
        "Two runs, two models, or two questions side by side, and what differs.",
    ),
    ("prompt", "Any prompt", "Ask the model something of your own; one field is enough."),
    ("jobs", "Cache and jobs", "What is computed now, and what is kept: results, models, stores."),
)


def _go(page: str) -> None:
    state.change(page=page)
