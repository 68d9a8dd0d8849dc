"""The user's own pair of prompts."""

from __future__ import annotations

import functools

import streamlit as st
import xarray as xr

from app import resources, state
from app.compute import pairs
from app.compute.engine import ModelSpec
from app.panels import circuit, patching
from app.panels import lens as lens_panel
from app.screen import live, parts
from app.screen.shown import brought
from app.selection import SITES, Ask
from app.text import markup, snippets
from app.views.opened import Opened
from cache.errors import ObverseError
from experiments.explorer import Pair, Way
from interp.figures.drawing import theme

_COLOURS = {"clean": theme.OKABE_ITO[0], "corrupt": theme.OKABE_ITO[1]}
_TITLES = {"clean": "Clean prompt", "corrupt": "Corrupted prompt"}
_BOTH = Way("clean", "Clean against corrupted prompt", _COLOURS["clean"])
FORM = {f"ask-{name}": name for name in ("clean", "answer", "corrupt", "foil")}
"""The fields of the form, by their keys."""

_EXAMPLE = Ask(
    "The Eiffel Tower is in the city of", "The Colosseum is in the city of", "Paris", "Rome"
)


def show_page(opened: Opened) -> None:
    """The page."""
    if opened.model is None:
        parts.html(
            '<div class="ob-empty"><b>No model is open.</b><br>Choose one at the left.</div>'
        )
        return
    show(opened.model)


def show(spec: ModelSpec) -> None:
    """A form, and below it what the model makes of the two prompts."""
    ask = _form(spec)
    if ask is None:
        parts.html(
            '<div class="ob-empty"><b>Two prompts that differ in one thing.</b><br>'
            "The clean one is followed by the answer, the corrupted one by the foil. "
            "Change them as you like and press <b>Compare</b>.</div>"
        )
        return
    try:
        pair = pairs.typed(ask.clean, ask.corrupt, ask.answer, ask.foil)
        _compare(spec, pair)
    except ObverseError as error:
        parts.error(error)


def _form(spec: ModelSpec) -> Ask | None:
    """The prompts to compare; None until the user has asked."""
    if any(key not in st.session_state for key in FORM):
        # What the fields start with stands in their state: a default that changes with what was
        # asked would make new fields of them, and what was typed meanwhile would be lost.
        ask = state.view().ask or _suggestion(spec)
        st.session_state.update({key: getattr(ask, name) for key, name in FORM.items()})

    def submitted() -> None:
        texts = {name: str(st.session_state[key]) for key, name in FORM.items()}
        state.change(ask=Ask(**texts), cell=None)

    with st.form("ask"):
        left, right = st.columns(2, gap="large")
        left.text_input("Clean prompt", key="ask-clean")
        left.text_input("Answer", key="ask-answer")
        right.text_input("Corrupted prompt", key="ask-corrupt")
        right.text_input("Foil: what follows the corrupted prompt", key="ask-foil")
        st.form_submit_button("Compare", type="primary", on_click=submitted)
    return state.view().ask


def _suggestion(spec: ModelSpec) -> Ask:
    """A pair of the examples that the model brings along, or one that any English model knows."""
    shown = brought(spec)
    if shown is None or len(shown.table) < 2:
        return _EXAMPLE
    way = shown.examples.ways[0]
    try:
        pair = resources.engine().pair(spec, shown.examples, shown.table, 0, way, shown.settings)
    except ObverseError:
        return _EXAMPLE
    return Ask(pair.clean, pair.corrupt, pair.answer.strip(), pair.foil.strip())


def _compare(spec: ModelSpec, pair: Pair) -> None:
    engine = resources.engine()
    with st.spinner("Loading the model …", show_time=True):
        engine.aligned(spec, pair)  # refuses what cannot be aligned before anything is drawn
    lenses: dict[str, xr.Dataset] = {}
    sides = {"clean": (pair.clean, pair.answer, 0), "corrupt": (pair.corrupt, pair.foil, 1)}
    for (way, (prompt, answer, side)), column in zip(
        sides.items(), st.columns(2, gap="large"), strict=True
    ):
        with column:
            parts.html(markup.way(_TITLES[way], _COLOURS[way]))
            tokens = engine.tokens(spec, prompt, {pair.span: pair.words[side]})
            parts.strip(tokens, way)
            lens = lenses[way] = lens_panel.computed(spec, prompt, answer)
            names, probabilities = lens_panel.last_tokens(lens)
            parts.html(
                markup.next_tokens(
                    names,
                    probabilities,
                    colour=_COLOURS[way],
                    answer=lens_panel.first_token(lens),
                    heading="likeliest next tokens",
                )
            )
    parts.html(markup.heading("What each layer would say"))
    for way, column in zip(sides, st.columns(2, gap="large"), strict=True):
        with column:
            lens_panel.show(spec, lenses[way], way, *sides[way][:2])
    _patching(spec, pair)


def _patching(spec: ModelSpec, pair: Pair) -> None:
    parts.html(
        markup.heading(
            "Which activations carry the answer",
            "Each cell puts one activation of the clean run into the corrupted run, and reads by "
            "how much the answer’s first token gains on the foil’s, in logits.",
        )
    )
    _, value = patching.controls()

    def changed() -> None:
        label = st.session_state["own-site"]
        site = next((s for s in SITES if patching.SITE_NAMES[s] == label), "resid_pre")
        state.change(site=site, cell=None)

    if "own-site" not in st.session_state:
        st.session_state["own-site"] = patching.SITE_NAMES[state.view().site]
    names = [patching.SITE_NAMES[site] for site in SITES]
    for site, tab in zip(SITES, st.tabs(names, key="own-site", on_change=changed), strict=True):
        if site != state.view().site:
            continue
        with tab:
            refining = live.refine(spec, pair, site, f"own-{pair.clean}-{pair.corrupt}")
            live.draw([refining], functools.partial(_map, spec, pair, site, value, refining))
    circuit.toggled(spec, {_BOTH: (pair,)}, width=parts.WHOLE)


def _map(spec: ModelSpec, pair: Pair, site: str, value: str, refining: live.Refining) -> None:
    refined = refining.refined
    if refined is not None:
        code = snippets.patching(spec, pair, site, patching.settings(value, 0, None))
        one = patching.of_pair("clean", refined.result, 0, pair, spec, code, refined)
        limit = patching.reach([one], value)
        patching.show(one, spec, value, limit, width=parts.WHOLE)
    live.progress(refining)
