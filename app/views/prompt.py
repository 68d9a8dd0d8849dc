"""Whatever the user asks: one prompt, or two that differ in one thing."""

from __future__ import annotations

import dataclasses
import functools

import streamlit as st
import xarray as xr

from app import resources, state
from app.compute import pairs
from app.compute.engine import ModelSpec
from app.panels import circuit, lens_kinds, patching
from app.panels import lens as lens_panel
from app.panels.inside import tabs
from app.runs import Run
from app.screen import later, live, parts
from app.screen.asked import Asked
from app.screen.shown import brought
from app.selection import SITES, Ask
from app.text import markup, snippets
from app.views.opened import Opened
from cache.errors import ObverseError
from experiments.explorer import Pair, Way
from interp.figures.drawing import theme

_COLOURS = {"clean": theme.OKABE_ITO[0], "corrupt": theme.OKABE_ITO[1]}
_TITLES = {"clean": "Prompt", "corrupt": "Second prompt (corrupted)"}
_WAYS = {name: Way(name, title, _COLOURS[name]) for name, title in _TITLES.items()}
_BOTH = Way("clean", "Clean against corrupted prompt", _COLOURS["clean"])
FORM = {f"ask-{name}": name for name in ("clean", "answer", "corrupt", "foil")}
"""The fields of the form, by their keys."""

_EXAMPLE = Ask(
    "The Eiffel Tower is in the city of", "The Colosseum is in the city of", "Paris", "Rome"
)


def show_page(opened: Opened) -> None:
    """The page."""
    parts.html(markup.title("Any prompt"))
    if opened.model is None:
        parts.html(
            '<div class="ob-empty"><b>No model is open.</b><br>Choose one at the left.</div>'
        )
        return
    show(opened.model, opened.run)


def show(spec: ModelSpec, run: Run | None = None) -> None:
    """A form, and below it what the model makes of what was typed.

    Args:
        run: the run that is open, which may hold lenses of the model, and keeps results.
    """
    ask = _form(spec)
    if ask is None:
        parts.html(
            '<div class="ob-empty"><b>A prompt is enough.</b><br>With an answer its rank is '
            "followed; with a second prompt that differs in one thing, and what follows that, "
            "activations are patched.</div>"
        )
        return
    if not ask.clean.strip():
        parts.error("The prompt is empty; type one.")
        return
    try:
        pairs.check_length(ask.clean, ask.answer, ask.foil)
        if ask.corrupt.strip() and ask.answer.strip() and ask.foil.strip():
            _compare(spec, pairs.typed(ask.clean, ask.corrupt, ask.answer, ask.foil), run)
        else:
            _alone(spec, ask, run)
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
        left.text_input("Prompt", key="ask-clean")
        left.text_input("Answer (may be left empty)", key="ask-answer")
        right.text_input("Second prompt, to patch into (may be left empty)", key="ask-corrupt")
        right.text_input("Foil: what the answer is held against", key="ask-foil")
        st.form_submit_button("Look", type="primary", on_click=submitted)
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


def _alone(spec: ModelSpec, ask: Ask, run: Run | None) -> None:
    """What a single prompt allows; the rest is said to be missing."""
    prompt, answer, foil = (ask.clean.rstrip(" "), *map(pairs.answer_typed, (ask.answer, ask.foil)))
    engine = resources.engine()
    with st.spinner("Loading the model …", show_time=True):
        tokens = engine.tokens(spec, prompt, {})
    parts.strip(tokens, "clean")
    lens = lens_panel.computed(spec, prompt, answer)
    left, right = st.columns(2, gap="large")
    with left:
        _likeliest(lens, "clean")
    with right:
        parts.html(markup.heading("What each layer would say"))
        chosen = lens_kinds.choose(spec, (), None if run is None else run.record.path)
        if chosen is not None:
            read = lens_kinds.read(spec, chosen, prompt, answer)
            (fig,) = lens_panel.drawn([read], parts.width(2))
            lens_panel.show(spec, read, "clean", prompt, answer, fig, chosen=chosen)
    tabs.show(spec, [Asked(_WAYS["clean"], prompt, answer, foil)])
    missing = [
        name
        for name, text in (
            ("an answer", ask.answer),
            ("a second prompt that differs in one thing", ask.corrupt),
            ("a foil, what follows the second prompt", ask.foil),
        )
        if not text.strip()
    ]
    parts.html(
        markup.heading("Which activations carry the answer")
        + markup.hint(f"To patch activations there is missing: {'; '.join(missing)}.")
    )
    _offer_swapped(ask)


def _offer_swapped(ask: Ask) -> None:
    """A second prompt for sentences with two names: the same with the names swapped."""
    other = pairs.swapped(ask.clean, ask.answer, ask.foil)
    if other is None or ask.corrupt.strip():
        return

    def use() -> None:
        state.change(ask=dataclasses.replace(ask, corrupt=other), cell=None)
        st.session_state["ask-corrupt"] = other

    parts.html(
        '<div class="ob-small">Both names stand in the prompt. With them swapped the other one is '
        f"right: “{markup.esc(other)}”</div>"
    )
    st.button("Patch into the prompt with the names swapped", key="swap", on_click=use)


def _likeliest(lens: xr.Dataset, way: str) -> None:
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


def _compare(spec: ModelSpec, pair: Pair, run: Run | None) -> None:
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
            lenses[way] = lens_panel.computed(spec, prompt, answer)
            _likeliest(lenses[way], way)
    parts.html(markup.heading("What each layer would say"))
    chosen = lens_kinds.choose(spec, (), None if run is None else run.record.path)
    if chosen is not None:
        read = [lens_kinds.read(spec, chosen, *side[:2]) for side in sides.values()]
        figures = lens_panel.drawn(read, parts.width(2))
        for (way, (prompt, answer, _)), lens, fig, column in zip(
            sides.items(), read, figures, st.columns(2, gap="large"), strict=True
        ):
            with column:
                lens_panel.show(spec, lens, way, prompt, answer, fig, chosen=chosen)
    # Of both prompts the same is read, so that they can be compared.
    asked = [
        Asked(
            _WAYS[way],
            prompt,
            pair.answer,
            pair.foil,
            {pair.span: pair.words[side]},
            pair if way == "clean" else None,
        )
        for way, (prompt, _, side) in sides.items()
    ]
    # Last: what it computes would keep the map waiting.
    later.draw("inside", "", 640, lambda: tabs.show(spec, asked, span=pair.span))
    _patching(spec, pair, run)


def _patching(spec: ModelSpec, pair: Pair, run: Run | None) -> None:
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
            refining = live.refine(spec, pair, site, f"own-{pair.clean}-{pair.corrupt}", run)
            live.draw(
                [refining],
                functools.partial(_map, spec, pair, site, value, refining),
                doing="Patching",
                height=420,
            )
    circuit.toggled(spec, {_BOTH: (pair,)}, width=parts.width(1), run=run)


def _map(spec: ModelSpec, pair: Pair, site: str, value: str, refining: live.Refining) -> None:
    refined = refining.refined
    if refined is not None:
        code = snippets.patching(spec, pair, site, patching.settings(value, 0, None))
        one = patching.of_pair("clean", refined.result, 0, pair, spec, code, refined)
        limit = patching.reach([one], value)
        parts.html(patching.prompts(one))
        patching.show(one, spec, value, patching.drawn(one, value, limit, parts.width(1)))
    live.progress(refining)
