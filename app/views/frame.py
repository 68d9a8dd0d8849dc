"""The frame of every page: what is open, the sidebar, and the page that is shown."""

from __future__ import annotations

import streamlit as st

from app import resources, runs
from app.arguments import Arguments
from app.screen import parts
from app.views import opening, sidebar
from app.views.opened import Opened
from interp.figures.drawing import theme


def show(arguments: Arguments) -> None:
    """Draw everything."""
    found, problems = runs.find(arguments.root, arguments.run)
    with st.sidebar:
        sidebar.brand()
        source = opening.choose(found)
        place = st.container()
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
    opened = Opened(arguments.root, source, run, found)
    _ = opened.usual_page  # now: what is wrong with it is said here, and not in the sidebar
    with place:
        page = sidebar.pages(opened)
        told = st.container()
        sidebar.buttons()
    # In the browser's tab and its history: which page of what.
    names = [page.title, "" if source is None else source.name, "Obverse"]
    st.set_page_config(page_title=" · ".join(theme.visible(name) for name in names if name))
    page.show(opened)
    # Now: a page chooses what nobody has chosen.
    with told:
        sidebar.chosen(opened)
        sidebar.pin(opened)
