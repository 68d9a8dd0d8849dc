"""How the page is looked at: by day or by night, and on how wide a screen."""

from __future__ import annotations

import time
from pathlib import Path

import streamlit as st

from app import state
from app.browser_files import later_modules

_SCRIPT = (Path(__file__).parents[1] / "static" / "page.js").read_text(encoding="utf-8")
_component = st.components.v2.component("obverse_page", js=_SCRIPT)

_USUAL = 1014  # px beside the sidebar on a screen of 1280
_NARROWEST, _WIDEST = 700, 4000  # px; the browser's word is not taken for everything
_MATTERS = 0.08  # of the width; for less, nothing is drawn again
_AHEAD = 0.25  # s that a browser gets to show the heading of its first page
_BEGUN = "page-begun"
_KEY, _WIDTH, _COOKIE = "look", "page-width", "obverse_width"


def dark() -> bool:
    """Whether the page is dark, as its reader or the reader's system has chosen."""
    return bool(st.context.theme.type == "dark")


def width() -> int:
    """px of the page beside the sidebar; of a screen of 1280 where the browser has not told it.

    The browser remembers it, so that the next visit is drawn at once as wide as it is looked at.
    """
    if _WIDTH not in st.session_state:
        st.session_state[_WIDTH] = _sensible(st.context.cookies.get(_COOKIE)) or _USUAL
    return int(st.session_state[_WIDTH])


def start() -> None:
    """Stand at the beginning of the page and see to its landmarks and to what buttons do that are
    the browser's alone: copying the link, light and dark, what words mean."""

    def changed() -> None:
        told = dict(st.session_state[_KEY]).get("width")
        wide = _sensible(told)
        if wide is not None and abs(wide - width()) > _MATTERS * width():
            st.session_state[_WIDTH] = wide

    data: dict[str, object] = {
        "width": width(),
        "narrowest": _NARROWEST,
        "matters": _MATTERS,
        "cookie": _COOKIE,
    }
    data["dark"] = dark()
    data["later"] = later_modules(state.view().page or "")
    # What is dark comes with every message of the browser; this one has it send one.
    _component(key=_KEY, data=data, on_width_change=changed, on_dark_change=lambda: None)


def page_begins() -> None:
    """The sidebar is drawn, and now the page, which begins with its heading."""
    st.session_state.setdefault(_BEGUN, time.monotonic())


def let_heading_ahead() -> None:
    """Wait, before the first figure of a visit, until the browser has had time to show the heading.

    What draws figures takes it a second to read, in which it shows nothing else: a figure that
    comes with the heading would have that wait.
    """
    begun = st.session_state.get(_BEGUN)
    if begun is None:
        return
    st.session_state[_BEGUN] = None  # not again in this visit
    if in_browser():
        time.sleep(max(0.0, begun + _AHEAD - time.monotonic()))


def in_browser() -> bool:
    """Whether there is one that looks at the page."""
    return isinstance(st.context.headers.get("User-Agent"), str)


def _sensible(told: object) -> int | None:
    try:
        wide = int(str(told))
    except ValueError:
        return None
    return wide if _NARROWEST <= wide <= _WIDEST else None
