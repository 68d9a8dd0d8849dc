"""One example, asked in all ways: prompts, next tokens, layers, ranks, and patches."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import pandas as pd
import streamlit as st
import xarray as xr

from app import resources
from app.compute.engine import ModelSpec, Token
from app.panels import all_ranks, example_patching, lens_kinds
from app.panels import lens as lens_panel
from app.panels.inside import tabs
from app.panels.lens_kinds import LOGIT, Chosen
from app.screen import follow, later, parts
from app.screen.asked import Asked
from app.screen.shown import Shown
from app.screen.told import ONE_PROMPT, Check, Told, together
from app.text import lens_snippets, markup
from cache.errors import ObverseError
from experiments.explorer import Way
from interp.figures import rank_lines
from interp.figures.drawing import numbers

_LAYERS = "What each layer would say"
_RANKS = "Where the answer comes up"
_INSIDE = "What goes on inside"


def show(shown: Shown, example: int) -> None:
    """Everything about one example. Where the model is missing, what the run stores is shown."""
    row = shown.table.iloc[shown.row(example)]
    parts.html(markup.heading(*shown.examples.heading(row)))
    ways = shown.examples.ways
    lenses: dict[Way, xr.Dataset] = {}
    for way, column in zip(ways, st.columns(len(ways), gap="large"), strict=True):
        with column:
            lens = _question(shown, row, way)
            if lens is not None:
                lenses[way] = lens
    title = _LAYERS if shown.spec is not None and lenses else _RANKS
    later.draw("layers", title, 1050, lambda: _through(shown, row, lenses))
    later.draw(
        "patching", example_patching.TITLE, 1160, lambda: example_patching.show(shown, example)
    )
    if shown.spec is not None:
        later.draw("inside", _INSIDE, 700, lambda: _inside(shown, example, row))


def _through(shown: Shown, row: pd.Series, lenses: Mapping[Way, xr.Dataset]) -> None:
    """What stands at each layer: the lens that is chosen, and the answer's rank in it."""
    chosen, read = LOGIT, dict(lenses)
    if shown.spec is not None and lenses:
        found = _layers(shown, shown.spec, row, lenses)
        chosen, read = found or (chosen, {})
    _ranks(shown, row, read, chosen)


def _inside(shown: Shown, example: int, row: pd.Series) -> None:
    parts.html(markup.heading(_INSIDE))
    if shown.spec is not None:
        asked = [_asked(shown, example, row, way) for way in shown.examples.ways]
        tabs.show(shown.spec, asked)


def _asked(shown: Shown, example: int, row: pd.Series, way: Way) -> Asked:
    """The question with the foil that patching compares the answer with."""
    prompt, answer = asked(row, way)
    pair = None
    with contextlib.suppress(ObverseError):  # what is wrong with it stands where it is patched
        pair = example_patching.pair_of(shown, example, way)
    about = {"subject": str(row[way.about])} if way.about else {}
    stored = example_patching.stored_heads(shown, example, way)
    foil = None if pair is None else pair.foil
    return Asked(way, prompt, answer, foil, about, pair, stored)


def _question(shown: Shown, row: pd.Series, way: Way) -> xr.Dataset | None:
    """The prompt of one way, what the model says, and the likeliest next tokens."""
    prompt, answer = asked(row, way)
    parts.html(markup.way(way.title, way.colour))
    if shown.spec is None:
        parts.html(markup.strip([Token(word) for word in prompt.split()]))
        parts.html(_said(row, way))
        return None
    about = {"subject": str(row[way.about])} if way.about else {}
    with st.spinner("Loading the model …", show_time=True):
        tokens = resources.engine().tokens(shown.spec, prompt, about)
    parts.strip(tokens, way.name)
    parts.html(_said(row, way))
    lens = lens_panel.computed(shown.spec, prompt, answer)
    names, probabilities = lens_panel.last_tokens(lens)
    parts.html(
        markup.next_tokens(
            names,
            probabilities,
            colour=way.colour,
            answer=lens_panel.first_token(lens),
            heading="likeliest next tokens",
        )
    )
    return lens


def asked(row: pd.Series, way: Way) -> tuple[str, str]:
    """The prompt and the right answer."""
    return str(row[f"{way.name}_prompt"]), str(row[f"{way.name}_answer"])


def _said(row: pd.Series, way: Way) -> str:
    """What the model answers, and where the right answer stands."""
    answer = asked(row, way)[1].strip()
    if row[f"{way.name}_correct"]:
        mark = markup.right("right")
        text = f"says “{markup.esc(answer)}”"
    else:
        mark = markup.wrong("wrong")
        said = str(row.get(f"{way.name}_said", "") or "").strip()
        text = f"says “{markup.esc(said)}”, " if said else ""
        rank = numbers.rank(int(row[f"{way.name}_rank"]))
        text += f"the answer “{markup.esc(answer)}” starts at rank {rank}"
    return f'<div class="ob-said">{mark} &nbsp; {text}</div>'


def _layers(
    shown: Shown, spec: ModelSpec, row: pd.Series, plain: Mapping[Way, xr.Dataset]
) -> tuple[Chosen, dict[Way, xr.Dataset]] | None:
    """The heatmaps of the lens that is chosen; that lens and what it reads, if it is there."""
    parts.html(markup.heading(_LAYERS))
    run = None if shown.run is None else shown.run.record.path
    chosen = lens_kinds.choose(spec, _texts(shown), run)
    if chosen is None:
        return None
    lenses = dict(plain)
    if chosen.lens is not None:
        with st.spinner("Reading the layers …", show_time=True):
            lenses = {way: lens_kinds.read(spec, chosen, *asked(row, way)) for way in plain}
    columns = st.columns(len(lenses), gap="large")
    figures = lens_panel.drawn(lenses.values(), parts.width(len(lenses)))
    for (way, lens), fig, column in zip(lenses.items(), figures, columns, strict=True):
        with column:
            prompt, answer = asked(row, way)
            lens_panel.show(spec, lens, way.name, prompt, answer, fig, chosen=chosen)
    return chosen, lenses


def _texts(shown: Shown) -> tuple[str, ...]:
    """Every example asked in every way, with its answer."""
    table, names = shown.table, [way.name for way in shown.examples.ways]
    return tuple(
        f"{prompt}{answer}."
        for name in names
        for prompt, answer in zip(table[f"{name}_prompt"], table[f"{name}_answer"], strict=True)
    )


def _read_right(
    spec: ModelSpec, row: pd.Series, lenses: Mapping[Way, xr.Dataset], chosen: Chosen
) -> tuple[Check, ...]:
    """The checks of the lenses that ranks were read through: where one is red, so are these."""
    found = {
        way.title: [lens_panel.checked(spec, lens, asked(row, way)[0], chosen)]
        for way, lens in lenses.items()
    }
    return together(found)


def _ranks(shown: Shown, row: pd.Series, lenses: Mapping[Way, xr.Dataset], chosen: Chosen) -> None:
    """The answer's rank from layer to layer: in this example, and in all of its kind."""
    examples, example = shown.examples, int(row[shown.examples.key])
    of_this = {way.name: lens for way, lens in lenses.items()}
    of_all = all_ranks.stored(shown, example)
    if not of_this and not of_all:
        return
    parts.html(markup.heading(_RANKS, "Rank of the answer’s first token after the whole prompt."))
    chance = None
    if shown.spec is not None:
        chance = resources.engine().about(shown.spec).d_vocab
    columns = st.columns(2, gap="large")
    if of_this and shown.spec is not None:
        with columns[0]:
            parts.figure(
                rank_lines(
                    of_this, title=f"This {examples.one}, {chosen.name.lower()}", chance=chance
                ),
                "ranks",
                data=lambda: all_ranks.table(of_this),
                code=lens_snippets.ranks(
                    shown.spec, {way.name: asked(row, way) for way in lenses}, chosen.through
                ),
                alt=f"Rank of the answer by layer, this {examples.one} in all ways",
                told=Told(
                    f"Rank of the answer’s first token, read after each block.{chosen.note}",
                    "1 prompt a line",
                    ONE_PROMPT,
                    "the median rank of a random guess (dotted)",
                    _read_right(shown.spec, row, lenses, chosen),
                ),
            )
            follow.layers("ranks")
    with columns[1 if of_this else 0]:
        all_ranks.show(shown, example, chosen, of_all, chance=chance)
