"""The explorer's page: what `app.server` runs for every session."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import streamlit as st

from app import arguments, state
from app.screen import follow, live, look, parts
from app.text import colours, markup
from app.views import frame
from cache.errors import ObverseError

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
    try:
        look.start()
        follow.start()
        with live.only_what_is_shown():
            frame.show(arguments.parse(sys.argv[1:]))
    except ObverseError as error:
        parts.error(error)
    except Exception as error:  # whatever it is, the user gets a sentence and the log the rest
        logging.getLogger("obverse").exception("The page could not be drawn")
        parts.error(
            f"This went wrong unexpectedly ({type(error).__name__}); the terminal says more. "
            "Choose something else or reload the page."
        )
    state.to_address()


main()
