"""What the explorer has kept in the directory of the run that is open."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import streamlit as st

from app import state
from app.link import to_query
from app.runs import Run
from app.screen import parts
from app.selection import View
from app.text import markup
from cache.errors import ObverseError
from cache.sizes import show_size
from experiments.numbers import duration
from experiments.run_directory import begun, explored
from experiments.run_directory.explored import Explored
from experiments.run_directory.layout import EXPLORED

_LISTED = 20
_PROBLEM = "kept-problem"


def show(run: Run | None) -> None:
    """The results with their sizes, and buttons to see them again or to delete them."""
    parts.html(
        markup.heading(
            "Kept with this run",
            "What took half a second or more is written into the run's folder, beside its own "
            "results, and is read from there instead of being computed again.",
        )
    )
    if run is None:
        parts.html(
            markup.hint("No run is open, so results stay in memory and go when the explorer ends.")
        )
        return
    directory = run.record.path
    if (problem := st.session_state.pop(_PROBLEM, None)) is not None:
        parts.error(problem)
    found, problems = explored.list_all(directory)
    for problem in problems:
        parts.warning(problem)
    _interrupted(directory)
    parts.html(f'<pre class="ob-path">{markup.esc(directory / EXPLORED)}</pre>')
    if not found:
        parts.html(markup.hint("Nothing is kept there yet."))
        return
    for one in found[:_LISTED]:
        _row(directory, one)
    size = show_size(sum(one.bytes for one in found))
    more = f"; the newest {_LISTED} are listed" if len(found) > _LISTED else ""
    with st.container(horizontal=True, vertical_alignment="center"):
        results = "One result" if len(found) == 1 else f"{len(found):,} results"
        parts.html(markup.hint(f"{results}, {size} in all{more}."))
        names = tuple(one.name for one in found)
        _delete(directory, names, f"all {len(found):,}", "all")


def _row(directory: Path, one: Explored) -> None:
    when = datetime.fromisoformat(one.created).astimezone().strftime("%d %b %Y %H:%M")
    about = f"{one.model} · {when} · {show_size(one.bytes)} · took {duration(one.seconds)}"
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        parts.html(markup.item(one.title, f"{about} · Obverse {one.asked.version}"))
        # The run may have had another name when this was stored.
        link = {name: text for name, text in one.link.items() if name not in ("run", "model")}
        here = to_query(View(source=state.view().source))
        st.button("Show", key=f"see-{one.name}", on_click=state.go, args=(here | link,))
        _delete(directory, (one.name,), "it", one.name)


def _interrupted(directory: Path) -> None:
    """What was computed when the explorer ended, with a way to begin it again."""
    for one in begun.interrupted(directory):
        when = datetime.fromisoformat(one.created).astimezone().strftime("%d %b %Y %H:%M")
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            about = f"Interrupted: begun {when}, and the explorer ended before it was done."
            parts.html(markup.item(one.title, about))
            link = {name: text for name, text in one.link.items() if name not in ("run", "model")}
            here = to_query(View(source=state.view().source))
            st.button(
                "Begin it again", key=f"anew-{one.name}", on_click=state.go, args=(here | link,)
            )
            st.button(
                "Forget it",
                key=f"forget-{one.name}",
                on_click=begun.dismiss,
                args=(directory, one.name),
            )


def _delete(directory: Path, names: tuple[str, ...], what: str, key: str) -> None:
    with st.popover(
        "Delete" if len(names) == 1 else "Delete all", type="tertiary", icon=":material/delete:"
    ):
        parts.html(markup.hint("It would have to be computed again. The run itself stays."))
        st.button(f"Delete {what}", key=f"delete-{key}", on_click=_forget, args=(directory, names))


def _forget(directory: Path, names: tuple[str, ...]) -> None:
    try:
        for name in names:
            explored.forget(directory, name)
    except ObverseError as error:
        st.session_state[_PROBLEM] = str(error)
