"""What the session has chosen: one `View`, read from the address once and written back to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import streamlit as st

from app.link import from_query, to_query
from app.selection import Two, View

_KEY = "view"
_STAY = ("asked_for", "waiting", "pins", "standing")


def view() -> View:
    """The current view; at the start of a session the one that the address tells."""
    if _KEY not in st.session_state:
        st.session_state[_KEY] = from_query(st.query_params.to_dict())
    current: View = st.session_state[_KEY]
    return current


def page() -> View:
    """What the page is about, but for the chosen cell, step or layer: these change without a new
    page."""
    current = view()
    probe = dataclasses.replace(current.probe, point=None)
    return dataclasses.replace(current, cell=None, step=None, probe=probe)


def change(**fields: Any) -> None:
    """Replace fields of the view. Called by widgets' callbacks, before the page is drawn."""
    st.session_state[_KEY] = dataclasses.replace(view(), **fields)


def switch(name: str, value: str) -> None:
    """Move a switch of the screen. Called by widgets' callbacks."""
    st.session_state[_KEY] = view().switched(**{name: value})


def go(query: Mapping[str, str]) -> None:
    """Look at what a link tells, as if it had been opened anew; what this session may open and
    waits for stays, and what it has pinned."""
    kept = {name: st.session_state[name] for name in _STAY if name in st.session_state}
    st.session_state.clear()
    st.session_state.update(kept)
    st.session_state[_KEY] = from_query(query)


def agreed() -> set[str]:
    """What this session has agreed to open, besides bundled models."""
    return set(st.session_state.get("asked_for", ()))


def agree(name: str) -> None:
    """Note that this session has agreed to open a model."""
    st.session_state["asked_for"] = {*agreed(), name}


def to_address() -> None:
    """Write the view into the address, so that it can be copied."""
    wanted = to_query(view())
    if st.query_params.to_dict() != wanted:
        st.query_params.from_dict(wanted)


def canonical(view: View) -> View:
    """A state as a link to it is read, without what is compared: so that equal ones are equal."""
    return from_query(to_query(dataclasses.replace(view, two=Two())))
