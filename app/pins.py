"""What the session has pinned: states of the page under readable names, for as long as it lasts."""

from __future__ import annotations

from dataclasses import dataclass, replace

import streamlit as st

from app.selection import View

MOST = 30
_KEY = "pins"


@dataclass(frozen=True)
class Pin:
    """A state of the page.

    Attributes:
        name: for people; no other pin has it.
        view: what was chosen, without what is compared.
    """

    name: str
    view: View


def all_pins() -> list[Pin]:
    """In the order in which they were made."""
    pins: list[Pin] = st.session_state.setdefault(_KEY, [])
    return pins


def about(view: View) -> View:
    """A state without what is not looked at in it."""
    return replace(view, example=None) if is_typed(view) else replace(view, ask=None)


def keep(name: str, view: View) -> bool:
    """Pin a state, of which only what it is about is kept; one that is pinned stays as it is.

    Returns:
        False where there is no room for more.
    """
    pins, view = all_pins(), about(view)
    if any(pin.view == view for pin in pins):
        return True
    if len(pins) >= MOST:
        return False
    names = {pin.name for pin in pins}
    told, number = name, 1
    while told in names:
        number += 1
        told = f"{name} ({number})"
    pins.append(Pin(told, view))
    return True


def is_typed(view: View) -> bool:
    """Whether a state is about the user's own prompts, and not about an example: a session keeps
    what was typed while it looks at examples."""
    return view.ask is not None and (view.page == "prompt" or view.example is None)


def remove(pin: Pin) -> None:
    st.session_state[_KEY] = [other for other in all_pins() if other != pin]
