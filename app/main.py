"""The explorer's page: what `app.server` runs for every session."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from app import starting

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
    starting.wait()
    from app.views import frame  # takes seconds at first, which are waited for above

    frame.draw()


main()
