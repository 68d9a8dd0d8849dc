"""What is open and chosen, on every page: run, model, example and cell; and the pages."""

from __future__ import annotations

from dataclasses import replace

import streamlit as st

from app import pins, runs, state
from app.screen import follow
from app.screen.standing import standing
from app.text import markup
from app.views import naming
from app.views.every import PAGES, Kind
from app.views.opened import Opened
from interp.figures.drawing import theme


def brand() -> None:
    st.html(
        '<a class="ob-skip" href="#ob-main" data-skip>Skip to the page</a>'
        '<div class="ob-brand">Ob<span>verse</span></div>'
    )


def pages(opened: Opened) -> Kind:
    """The list of pages; returns the one that is shown."""
    by_name = {kind.name: kind for kind in PAGES}
    usual = opened.usual_page
    chosen = by_name[state.view().page or usual]

    def moved(name: str) -> None:
        state.change(page=None if name == usual else name)

    def title(name: str) -> str:
        examples = opened.page.examples
        if name == "examples" and examples is not None:
            return examples.many.capitalize()
        return by_name[name].title

    key, changed = standing("page", chosen.name, moved)
    st.radio(
        "Page",
        list(by_name),
        format_func=title,
        key=key,
        on_change=changed,
        label_visibility="collapsed",
        width="stretch",
    )
    return chosen


def chosen(opened: Opened) -> None:
    """Which model, run, example and cell the page is about."""
    if state.view().page == "compare":
        _compared(opened)
        return
    lines = []
    if opened.run is not None:
        record = opened.run.record
        lines += [("Study", record.study.replace("-", " ")), ("Run", runs.when(record))]
        lines.append(("Model", opened.run.studied))
    elif opened.source is not None:
        lines.append(("Model", opened.source.name))

    def tell() -> str:
        view = state.view()
        told = list(lines)
        if view.example is not None:
            told.append(("Example", naming.example(opened, view.example)))
        if view.cell is not None:
            told.append(("Cell", naming.cell(view.cell)))
        return markup.chosen([(name, theme.visible(text)) for name, text in told])

    follow.words("chosen", tell)


def buttons() -> None:
    """What the browser does alone (`app/static/page.js`): copy the link, choose light or dark."""
    themes = "".join(
        f'<button class="ob-button" data-theme-choice="{name}" aria-label="{said}" title="{said}">'
        f"{sign}</button>"
        for name, sign, said in (
            ("light", "☀", "Light"),
            ("dark", "☾", "Dark"),
            ("system", "◐", "Light or dark as the system has it"),
        )
    )
    st.html(
        '<div class="ob-buttons ob-page">'
        '<button class="ob-button" data-copy aria-live="polite">Copy link</button></div>'
        f'<div class="ob-buttons ob-page">{themes}</div>'
    )


def _compared(opened: Opened) -> None:
    two = state.view().two
    told = [
        (name, naming.of_view(opened, view) if view is not None else "nothing yet")
        for name, view in (("A", two.a), ("B", two.b))
    ]

    def tell() -> str:
        cell = state.view().cell
        return markup.chosen([*told, ("Cell", naming.cell(cell))] if cell else told)

    follow.words("chosen", tell)


def pin(opened: Opened) -> None:
    """Keeps what is on the screen, to be compared."""
    if opened.source is None or state.view().page == "compare":
        return

    def keep() -> None:
        view = pins.about(state.canonical(state.view()))
        kept = pins.keep(naming.of_view(opened, view), view)
        if not kept:
            st.toast(f"{pins.MOST} states are pinned; remove one on the page Compare.")
            return
        two = state.view().two
        if two.a is None:
            state.change(two=replace(two, a=view))
        elif two.b is None and two.a != view:
            state.change(two=replace(two, b=view))
        st.toast("Pinned; it is on the page Compare.")

    st.button(
        "Pin this",
        key="pin",
        icon=":material/keep:",
        on_click=keep,
        help="Keep what is on the screen, to compare it with another state.",
        width="stretch",
    )
