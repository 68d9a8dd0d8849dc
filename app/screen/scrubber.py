"""A slider over the steps of a training: what it moves is moved by the browser, at once.

What is said of each step is made before, so that nothing is asked of the server while the slider
moves; when it rests, the server is told, for the link and for what is drawn of that step alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import streamlit as st

from app.text import markup

_KEY = "scrubber"
_STATIC = Path(__file__).parents[1] / "static"
_component = st.components.v2.component(
    "obverse_scrubber",
    html='<div class="scrubber"></div>',
    css=(_STATIC / "scrubber.css").read_text(encoding="utf-8"),
    js=(_STATIC / "scrubber.js").read_text(encoding="utf-8"),
)


def show(
    name: str,
    steps: Sequence[int],
    step: int,
    figures: Sequence[str],
    words: Mapping[int, str],
    chosen: Callable[[int], None],
) -> None:
    """Put it on the screen. To be called in a fragment, which is all that is drawn anew.

    Args:
        name: of the training; where it is another one, the slider is set to `step`.
        steps: those that can be chosen, in their order.
        step: the one that is chosen.
        figures: keys of figures in which a line marks the step (`follow.step`).
        words: markup for `place`, by step.
        chosen: called with a step, before the fragment is drawn anew.
    """

    def changed() -> None:
        told = dict(st.session_state[_KEY]).get("step")
        if isinstance(told, int | float) and told in steps:
            chosen(int(told))

    data = {
        "name": name,
        "steps": list(steps),
        "step": step,
        "figures": list(figures),
        "words": {str(number): said for number, said in words.items()},
    }
    _component(key=_KEY, data=data, on_step_change=changed, height="content")


def place(said: str) -> None:
    """Where the words stand; those of the chosen step to begin with, as markup."""
    parts = f'<div data-of-step="{markup.esc(_KEY)}">{said}</div>'
    st.html(parts)
