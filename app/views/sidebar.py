"""What is open and chosen, on every page: run, model, example and cell; and the pages."""

from __future__ import annotations

import streamlit as st

from app import runs, state
from app.screen import follow
from app.text import markup
from app.views.every import PAGES, Kind
from app.views.opened import Opened
from interp.figures.drawing import theme


def brand() -> None:
    st.html('<div class="ob-brand">Ob<span>verse</span></div>')


def pages(opened: Opened) -> Kind:
    """The list of pages; returns the one that is shown."""
    by_name = {kind.name: kind for kind in PAGES}
    usual = opened.usual_page
    chosen = by_name[state.view().page or usual]

    def changed() -> None:
        name = st.session_state["page"]
        state.change(page=None if name == usual else name)

    def title(name: str) -> str:
        examples = opened.page.examples
        if name == "examples" and examples is not None:
            return examples.many.capitalize()
        return by_name[name].title

    st.session_state["page"] = chosen.name
    st.radio(
        "Page",
        list(by_name),
        format_func=title,
        key="page",
        on_change=changed,
        label_visibility="collapsed",
        width="stretch",
    )
    return chosen


def chosen(opened: Opened) -> None:
    """Which model, run, example and cell the page is about."""
    lines = []
    if opened.run is not None:
        record = opened.run.record
        lines += [("Study", record.study.replace("-", " ")), ("Run", runs.when(record))]
        lines.append(("Model", opened.run.model.source))
    elif opened.source is not None:
        lines.append(("Model", opened.source.name))

    def tell() -> str:
        view = state.view()
        told = list(lines)
        if view.example is not None:
            told.append(("Example", _example(opened, view.example)))
        if view.cell is not None:
            told.append(("Cell", _cell()))
        return markup.chosen([(name, theme.visible(text)) for name, text in told])

    follow.words("chosen", tell)


def _example(opened: Opened, number: int) -> str:
    # A model's own examples are asked when their page is opened, not to write their name here.
    if opened.run is None or opened.examples is None:
        return f"number {number}"
    examples, table = opened.examples
    rows = table[table[examples.key] == number]
    return examples.heading(rows.iloc[0])[0] if len(rows) else f"number {number}"


def _cell() -> str:
    cell = state.view().cell
    assert cell is not None
    where = f"head {cell.head}" if cell.head is not None else f"token {cell.position}"
    return f"{cell.way}, layer {cell.layer}, {where}"
