"""Switches of the screen: controls that stand where the link says, and are written into it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import streamlit as st

from app import state


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
        format_func=words.__getitem__,
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
    st.number_input(label, 0, most, key=name, on_change=changed, width=width)
    return current


def tabs(name: str, words: Mapping[str, str]) -> tuple[str, st.delta_generator.DeltaGenerator]:
    """Tabs, of which only the open one is to be filled; returns which it is, and its place."""
    current = state.view().at(name)
    if current not in words:
        current = next(iter(words))
    names: Sequence[str] = list(words.values())

    def changed() -> None:
        opened = st.session_state[name]
        found = next((key for key, text in words.items() if text == opened), current)
        state.switch(name, found)

    if st.session_state.get(name) != words[current]:
        st.session_state[name] = words[current]
    places = st.tabs(names, key=name, on_change=changed)
    return current, places[names.index(words[current])]
