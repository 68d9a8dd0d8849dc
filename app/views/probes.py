"""What can be read at which layer: of a study's examples, or of two lists of prompts."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING, Any

import streamlit as st

from app import resources, state
from app.compute.engine import ModelSpec
from app.compute.probing import typed
from app.panels import study_figures
from app.panels.patching import SITE_NAMES
from app.panels.probes import sweep
from app.runs import Run
from app.screen import parts
from app.screen.shown import Shown
from app.selection import LONGEST_NAME, LONGEST_TEXT, SITES
from app.text import markup
from app.views.opened import Opened
from cache.errors import ObverseError
from experiments.labelled import LEAST, labelled, labels_of

if TYPE_CHECKING:
    from interp.model.model import Model

FORM = (
    *("probed", "probe-label", "probe-way", "probe-place", "probe-site"),
    *("class-1", "class-2", "list-1", "list-2"),
)
"""The page's controls, by their keys."""

_PLACES = {"subject": "Last token of what is asked about", "last": "Last token of the prompt"}
_NAMES = ("animals", "things")
_SUGGESTED = 20  # lines of a model's own examples


def _lines(words: str) -> str:
    # They end alike, so that their last token says nothing by itself.
    return "\n".join(f"The {word} was very" for word in words.split())


_WORDS = (
    _lines(
        "dog cat bird fish frog bear duck horse cow pig rabbit mouse lion fox bunny puppy kitten "
        "turtle snake monkey"
    ),
    _lines(
        "ball car box book cup bed chair table door hat boat bike house shoe toy cake train doll "
        "truck lamp"
    ),
)


def show(opened: Opened) -> None:
    """The page."""
    parts.html(
        markup.title(
            "What can be read where",
            "At each layer a linear probe learns a label from some examples and is tested on "
            "others, beside random labels. What is readable need not be used.",
        )
    )
    if opened.run is None and opened.model is None:
        parts.html(
            '<div class="ob-empty"><b>No model is open.</b><br>Choose one at the left.</div>'
        )
        return
    shown = opened.shown
    if opened.model is None:
        parts.html(
            markup.hint("The model of this run cannot be loaded, so that no probe can be fitted.")
        )
    elif shown is not None and not _typed(shown):
        _of_examples(shown, opened.model)
    else:
        _of_lists(opened.model, shown, opened.run)
    if opened.run is not None and opened.page.probes:
        parts.html(markup.heading("Probes of the study"))
        study_figures.show(opened.run, opened.page.probes)


def _typed(shown: Shown) -> bool:
    """Whether the user's own lists are probed, and the control that says so."""
    names = {"examples": f"The {shown.examples.many}", "typed": "Two lists of prompts"}

    def changed() -> None:
        _change(typed=st.session_state["probed"] == "typed", point=None)

    st.session_state["probed"] = "typed" if state.view().probe.typed else "examples"
    st.segmented_control(
        "What is probed",
        list(names),
        format_func=names.__getitem__,
        key="probed",
        on_change=changed,
        label_visibility="collapsed",
        required=True,
    )
    return state.view().probe.typed


def _of_examples(shown: Shown, spec: ModelSpec) -> None:
    offered = {label.name: label.title for label in labels_of(shown.examples, shown.table)}
    ways = {way.name: way for way in shown.examples.ways}
    if not offered:
        parts.html(
            '<div class="ob-empty"><b>There is nothing to be told apart.</b><br>All '
            f"{markup.esc(shown.examples.many)} have the same labels.</div>"
        )
        return
    probe = state.view().probe
    label = probe.label if probe.label in offered else next(iter(offered))
    way = ways[probe.way if probe.way in ways else next(iter(ways))]
    place = probe.place if way.about else "last"
    left, middle, right, last = st.columns([5, 4, 5, 4], vertical_alignment="bottom", gap="small")
    with left:
        _choose("What is asked for", "probe-label", offered, label, "label")
    with middle:
        titles = {name: one.title for name, one in ways.items()}
        _choose("Which prompts are read", "probe-way", titles, way.name, "way")
    with right:
        places = _PLACES if way.about else {"last": _PLACES["last"]}
        _choose("At which token", "probe-place", places, place, "place")
    with last:
        _site()
    try:
        asked = labelled(shown.examples, shown.table, label, way.name, subject=place == "subject")
        sweep.show(
            spec,
            asked,
            state.view().site,
            many=shown.examples.many,
            where=_PLACES[place].lower(),
            code=sweep.code_of_table(spec, shown, label, way.name, place == "subject"),
            run=shown.run,
        )
    except ObverseError as error:
        _refused(error)


def _of_lists(spec: ModelSpec, shown: Shown | None, run: Run | None) -> None:
    probe = state.view().probe
    lists, names = probe.lists, probe.names
    if lists is None:
        suggested = _suggestion(spec, shown)
        lists, names = suggested or (None, names)
    if "list-1" not in st.session_state:
        for number, name, text in zip((1, 2), names, lists or ("", ""), strict=True):
            st.session_state.update({f"class-{number}": name, f"list-{number}": text})

    def submitted() -> None:
        both = [(st.session_state[f"class-{i}"], st.session_state[f"list-{i}"]) for i in (1, 2)]
        _change(names=tuple(n for n, _ in both), lists=tuple(t for _, t in both), point=None)

    with st.form("probe"):
        for number, column in enumerate(st.columns(2, gap="large"), 1):
            column.text_input("Class", key=f"class-{number}", max_chars=LONGEST_NAME)
            column.text_area(
                f"Its prompts, one in each line (at least {LEAST})",
                key=f"list-{number}",
                max_chars=LONGEST_TEXT,
                height=190,
            )
        st.form_submit_button("Probe these", type="primary", on_click=submitted)
    left, _ = st.columns([4, 14])
    with left:
        _site()
    if lists is None:
        parts.html(
            '<div class="ob-empty"><b>Two lists are needed.</b><br>Write at least '
            f"{LEAST} prompts of either class, one in each line, in words that the model knows."
            "</div>"
        )
        return
    try:
        asked, again = typed(*lists, names)
        if again:
            parts.html(markup.hint(f"{again} lines that stand there twice are read once."))
        sweep.show(
            spec,
            asked,
            state.view().site,
            many="lines",
            where="last token of the prompt",
            code=sweep.code_of_lists(spec, asked),
            run=run,
        )
    except ObverseError as error:
        _refused(error)


def _suggestion(
    spec: ModelSpec, shown: Shown | None
) -> tuple[tuple[str, str], tuple[str, str]] | None:
    """Lists to begin with and their names: of the model's own examples, or of words that any
    English model knows; None where there are examples, but too few, and where the model does not
    know these words."""
    if shown is None:
        known = resources.engine().compute(spec, ("knows", "usual words"), _knows)
        return (_WORDS, _NAMES) if known else None
    way, offered = shown.examples.ways[0], labels_of(shown.examples, shown.table)
    for label in offered:
        with contextlib.suppress(ObverseError):
            found = labelled(shown.examples, shown.table, label.name, way.name, subject=False)
            first, second = found.classes[:2]
            each = [
                [p for p, one in zip(found.prompts, found.labels, strict=True) if one == name]
                for name in (first, second)
            ]
            one, other = ("\n".join(prompts[:_SUGGESTED]) for prompts in each)
            return (one, other), (first[:LONGEST_NAME], second[:LONGEST_NAME])
    return None


def _knows(model: Model) -> bool:
    """Whether a model can read the lists that stand there at first."""
    from interp.prompts.tokens import tokenise

    try:
        tokenise(model, [line for words in _WORDS for line in words.splitlines()])
    except ObverseError:
        return False
    return True


def _refused(error: ObverseError) -> None:
    parts.html(f'<div class="ob-empty">{markup.esc(error)}</div>')


def _choose(title: str, key: str, names: dict[str, str], current: str, field: str) -> None:
    usual = next(iter(names))

    def changed() -> None:
        chosen = st.session_state[key]
        _change(**{field: "" if chosen == usual and field != "place" else chosen, "point": None})

    st.session_state[key] = current
    st.selectbox(title, list(names), format_func=names.__getitem__, key=key, on_change=changed)


def _site() -> None:
    def changed() -> None:
        state.change(site=st.session_state["probe-site"], cell=None)
        _change(point=None)

    st.session_state["probe-site"] = state.view().site
    st.selectbox(
        "At which site",
        list(SITES),
        format_func=SITE_NAMES.__getitem__,
        key="probe-site",
        on_change=changed,
    )


def _change(**fields: Any) -> None:
    state.change(probe=dataclasses.replace(state.view().probe, **fields))
