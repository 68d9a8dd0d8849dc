"""Switches of the screen: controls that stand where the link says, and are written into it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import streamlit as st

from app import state
from app.text import markup


def choose(name: str, words: Mapping[str, str], label: str, *, help: str | None = None) -> str:
    """A row of buttons, one of which is pressed; returns which.

    Args:
        name: of the switch, in `app.selection.SWITCHES`, and key of the control.
        words: what there is to choose from, with what stands on the buttons.
        label: for those who cannot see it.
    """
    current = state.view().at(name)
    if current not in words:
        current = next(iter(words))

    def changed() -> None:
        state.switch(name, str(st.session_state[name]))

    st.session_state[name] = current
    st.segmented_control(
        label,
        list(words),
        format_func=lambda name: markup.plain(words[name]),
        key=name,
        on_change=changed,
        label_visibility="collapsed",
        required=True,
        help=help,
    )
    return current


def number(name: str, label: str, most: int, *, width: int = 130) -> int:
    """A field for a number from 0 to `most`; returns it."""
    current = min(int(state.view().at(name)), most)

    def changed() -> None:
        state.switch(name, str(st.session_state[name]))

    st.session_state[name] = current
    # As its default, too: else a browser shows 0 until it has looked at the session state.
    st.number_input(label, 0, most, current, key=name, on_change=changed, width=width)
    return current


def tabs(name: str, words: Mapping[str, str]) -> tuple[str, st.delta_generator.DeltaGenerator]:
    """Tabs, of which only the open one is to be filled; returns which it is, and its place."""
    current = state.view().at(name)
    if current not in words:
        current = next(iter(words))
    return row_of_tabs(name, words, current, lambda opened: state.switch(name, opened))


def row_of_tabs(
    key: str, words: Mapping[str, str], current: str, opened: Callable[[str], None]
) -> tuple[str, st.delta_generator.DeltaGenerator]:
    """Tabs of which one is open; returns which, and its place.

    Args:
        opened: called with the one that somebody opens, before the page is drawn.
    """
    told, seen, names = Counter(words.values()), Counter[str](), {}
    for name, text in words.items():  # they are told apart by what stands on them
        seen[text] += 1
        names[name] = text if told[text] == 1 else f"{text} · {seen[text]}"

    def changed() -> None:
        at = st.session_state[key]
        opened(next((name for name, text in names.items() if text == at), current))

    if st.session_state.get(key) != names[current]:
        st.session_state[key] = names[current]
    places = st.tabs(list(names.values()), key=key, on_change=changed)
    return current, places[list(names).index(current)]
