"""The explorer's page: what `app.server` runs for every session."""

from __future__ import annotations

import sys
from pathlib import Path

import streamlit as st

from app import arguments, state
from app.screen import follow, live, look, parts
from app.text import colours, markup
from app.views import frame

_SIDEBAR = 230  # px; figures in two columns need the rest of a screen of 1280
# A file of our own: Streamlit fetches its symbols for this place from the internet.
_ICON = Path(__file__).parent / "static" / "icon.svg"


def main() -> None:
    st.set_page_config(
        page_title="Obverse",
        page_icon=str(_ICON),
        layout="wide",
        initial_sidebar_state=_SIDEBAR,
        # Streamlit's menu, in which light and dark are kept, is there only if it holds something.
        menu_items={"About": "Obverse, the explorer."},
    )
    parts.html(colours.variables(look.dark()) + markup.CSS)
    # Now, since the page below can take a while, and again at the end, when defaults are chosen.
    state.to_address()
    with parts.in_a_sentence():
        look.start()
        follow.start()
        with live.only_what_is_shown():
            frame.show(arguments.parse(sys.argv[1:]))
    state.to_address()


main()
