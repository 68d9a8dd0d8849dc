"""What follows the chosen cell: its frames in figures, and what is said of it beside them.

A click redraws neither the page nor a figure (whose zoom would be lost): a fragment of the page
answers it with where the frames lie now and what the words say, and the browser puts both in place.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import streamlit as st
from streamlit.runtime.scriptrunner_utils.script_requests import ScriptRequestType
from streamlit.runtime.scriptrunner_utils.script_run_context import ThreadState, get_script_run_ctx

from app import state
from app.clicks import clicked
from app.compute.engine import Replaced
from app.selection import View
from app.text import markup
from cache.errors import ObverseError

Place = tuple[int, int]
Mark = dict[str, Any]
_KEY = "follow"
_SCRIPT = (Path(__file__).parents[1] / "static" / "follow.js").read_text(encoding="utf-8")
_component = st.components.v2.component("obverse_follow", js=_SCRIPT)


@dataclass
class Followers:
    """By name: where the chosen cell lies in a figure, what a click into it chooses, and what
    tells of it in words.

    Attributes:
        run: counts how often the page was drawn.
        page: what it is about.
    """

    run: int = 0
    page: View | None = None
    marks: dict[str, Callable[[], Mark]] = field(default_factory=dict)
    choices: dict[str, Callable[[Place], None]] = field(default_factory=dict)
    words: dict[str, Callable[[], str]] = field(default_factory=dict)


def start() -> None:
    """Stand at the beginning of the page and wait for clicks; they are answered when all of it is
    drawn."""
    before, page = _followers(), state.page()
    # A page that is drawn anew before it was whole still has figures of the last time, and clicks.
    choices = dict(before.choices) if before.page == page else {}
    st.session_state[_KEY] = Followers(before.run + 1, page, choices=choices)
    st.fragment(_wait)()


def cells(name: str, selected: Callable[[], Place | None], choose: Callable[[Place], None]) -> None:
    """The cells of a figure can be chosen; its key is `name`."""
    followers = _followers()
    followers.choices[name] = choose
    _mark(name, lambda: {"cell": selected()})


def layers(name: str) -> None:
    """The layers of a figure lie along its horizontal axis."""

    def mark() -> Mark:
        cell = state.view().cell
        return {"x": None if cell is None else cell.layer}

    _mark(name, mark)


def step(name: str, chosen: Callable[[], int | None]) -> None:
    """The steps of a training lie along the horizontal axis of a figure."""
    _mark(name, lambda: {"x": chosen()})


def words(name: str, tell: Callable[[], str]) -> None:
    """Markup made by `app.text.markup` that is told anew whenever another cell is chosen.

    Args:
        tell: makes it; may raise Replaced, which leaves what was told before.
    """
    followers = _followers()
    followers.words[name] = tell
    try:
        said = tell()
    except Replaced:  # the page is drawn anew in a moment
        said = ""
    # The number of the run has the browser put this in place of what a click has put there.
    st.html(f'<div data-words="{markup.esc(name)}" data-run="{followers.run}">{said}</div>')


def _mark(name: str, mark: Callable[[], Mark]) -> None:
    followers = _followers()
    followers.marks[name] = mark
    where = markup.esc(json.dumps(mark()))
    st.html(
        f'<i data-figure="{markup.esc(name)}" data-mark="{where}" data-run="{followers.run}"></i>'
    )


def _wait() -> None:
    # At the beginning of the page there is nothing yet to tell.
    followers, told = _followers(), {}
    state.to_address()
    for name, tell in list(followers.words.items()):
        try:
            told[name] = tell()
        except Replaced:
            continue
        except ObverseError as error:  # the model's folder is gone, say
            told[name] = markup.hint(str(error))
    marks = {name: mark() for name, mark in list(followers.marks.items())}
    answer = {"marks": marks, "words": told, "run": followers.run}
    _component(key="clicks", data=answer, on_click_change=_clicked)


def replaced() -> bool:
    """Whether a newer click of this session waits, so that nobody will see what is made now."""
    context = get_script_run_ctx()
    requests = None if context is None else context.script_requests
    if requests is None or requests._state is not ScriptRequestType.RERUN:
        return False
    waiting = requests._rerun_data.fragment_id_queue
    return not waiting or ThreadState.get().fragment_id in waiting


def _clicked() -> None:
    told = clicked(dict(st.session_state["clicks"]).get("click"))
    if told is not None and told[0] in _followers().choices:
        _followers().choices[told[0]](told[1])


def _followers() -> Followers:
    followers: Followers = st.session_state.setdefault(_KEY, Followers())
    return followers
