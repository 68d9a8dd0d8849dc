"""The frame of every page: what is open, the sidebar, and the page that is shown."""

from __future__ import annotations

import contextlib
import sys

import streamlit as st

from app import arguments, resources, runs, state
from app.arguments import Arguments
from app.screen import follow, live, look, parts
from app.screen.shown import NotYet
from app.text import colours, markup
from app.views import opening, sidebar
from app.views.opened import Opened
from interp.figures.drawing import theme


def draw() -> None:
    """Draw the page; what goes wrong is told in a sentence."""
    parts.html(colours.variables(look.dark()) + markup.CSS)
    # Now, since the page below can take a while, and again at the end, when defaults are chosen.
    state.to_address()
    with parts.in_a_sentence():
        look.start()
        follow.start()
        with live.only_what_is_shown(), resources.engine().one_look():
            show(arguments.parse(sys.argv[1:]))
    state.to_address()


def show(given: Arguments) -> None:
    """Draw what is open, the sidebar and the page that is shown."""
    found, problems = runs.find(given.root, given.run)
    with st.sidebar:
        sidebar.brand()
        source = opening.choose(found)
        place = st.container()
    missing = opening.missing()
    if missing is not None:
        instead = "" if source is None else " What is shown is of another one."
        parts.error(f"There is no run '{missing}' here; choose one from the list.{instead}")
    # Beside what is open, other directories are nobody's concern.
    if missing is not None or source is None or state.view().page == "start":
        for problem in problems:
            parts.warning(problem)
    if source == opening.OTHER:
        opening.other()
        return
    if source is not None and source.kind == "model" and not opening.agreed(source.name):
        opening.ask(source.name)
        return
    run = None
    if source is not None and source.kind == "run":
        run = resources.run(found[source.name])
    opened = Opened(given.root, source, run, found)
    _ = opened.usual_page  # now: what is wrong with it is said here, and not in the sidebar
    with place:
        page = sidebar.pages(opened)
        told = st.container()
        sidebar.buttons()
    # In the browser's tab and its history: which page of what.
    names = [page.title, "" if source is None else source.name, "Obverse"]
    st.set_page_config(page_title=" · ".join(theme.visible(name) for name in names if name))
    look.page_begins()
    # What goes wrong on the page leaves the sidebar as it is.
    with parts.in_a_sentence(), contextlib.suppress(NotYet):
        page.show(opened)
    # Now: a page chooses what nobody has chosen.
    with told:
        sidebar.chosen(opened)
        sidebar.pin(opened)
