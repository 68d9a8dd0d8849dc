"""Parts of a page below what is looked at first: they are drawn when they are scrolled to, and else
when the browser has nothing else to do."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import streamlit as st

from app import resources, state
from app.screen import look, parts
from app.text import markup

_KEY = "later"
_SCRIPT = (Path(__file__).parents[1] / "static" / "later.js").read_text(encoding="utf-8")
_component = st.components.v2.component("obverse_later", js=_SCRIPT, isolate_styles=False)


def draw(name: str, title: str, height: int, show: Callable[[], None]) -> None:
    """Call `show` when the browser asks for it; until then there is a heading and an empty place.

    What is changed inside has the whole page drawn again, as if it stood elsewhere. Whoever looks
    at another page, example or question begins anew. Without a browser all is drawn at once.

    Args:
        name: of the part, on its page.
        title: its heading, which `show` draws itself; empty where it has none.
        height: px that it will take, about, so that what is below stays where it is.
    """
    about = state.page()

    def part() -> None:
        if state.page() != about:
            st.rerun()
        # In a place of its own: a spinner of `show` in the same one would keep it, unseen.
        place = st.empty()
        with parts.in_a_sentence():
            if not look.in_browser() or name in _drawn():
                with resources.engine().one_look():
                    show()
            else:
                with place.container():
                    _wait(name, title, height)

    st.fragment(part)()


def _wait(name: str, title: str, height: int) -> None:
    if title:
        parts.html(markup.heading(title))
    _component(
        key=f"{_KEY}-{name}",
        data={"height": height},
        on_seen_change=lambda: _drawn().add(name),
        height="content",
    )


def _drawn() -> set[str]:
    """The parts that are drawn, of the page and of the example or question that is looked at."""
    view = state.view()
    about: Hashable = (view.page, view.source, view.example, view.ask)
    kept: dict[str, Any] = st.session_state.setdefault(_KEY, {})
    if kept.get("about") != about:
        kept.update(about=about, names=set())
    names: set[str] = kept["names"]
    return names
