"""Controls that other things move, too: a button, a click into a figure, a link."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import streamlit as st

_KEY = "standing"


def standing(
    name: str,
    current: Hashable,
    moved: Callable[[Any], None],
    *,
    told: Any = None,
    read: Callable[[Any], Hashable] = lambda told: told,
) -> tuple[str, Callable[[], None]]:
    """Have a control stand at `current`; to be called right before it is drawn.

    A browser tells with every press where all of its controls stand. One that has not yet heard
    that something else has moved a control tells where that stood before, which would move it back:
    so what something else has moved is a new control, and nobody listens to the old one.

    Args:
        name: of the control.
        current: where it is to stand.
        moved: called with where somebody has put it.
        told: how its state says where it is to stand, if not as `current` does.
        read: the inverse; None where its state says nothing that can be meant, and then it stays.

    Returns:
        Its `key` and its `on_change`.
    """
    controls: dict[str, tuple[int, Hashable]] = st.session_state.setdefault(_KEY, {})
    number, last = controls.get(name, (0, current))
    if last != current:
        number += 1
    controls[name] = number, current
    key = f"{name}-{number}" if number else name

    def changed() -> None:
        controls: dict[str, tuple[int, Hashable]] = st.session_state.setdefault(_KEY, {})
        if controls.get(name, (number, None))[0] != number:
            return
        at = read(st.session_state[key])
        if at is not None:
            controls[name] = number, at
            moved(at)

    st.session_state[key] = current if told is None else told
    return key, changed
