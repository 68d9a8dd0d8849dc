"""One component of a circuit: what it attends to, and what it writes."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import pandas as pd
import streamlit as st
import xarray as xr

from app import resources, state
from app.compute.engine import ModelSpec
from app.compute.writing import Written
from app.screen import parts
from app.text import markup, sentences, snippets
from cache.errors import ObverseError
from experiments.explorer import Pair, Way
from interp.figures import pattern_map
from interp.figures.drawing import theme

_VALUES = {"pattern": "Attention", "moved": "Weighted by what is moved"}
_RUNS = (("clean", "Clean prompt"), ("corrupt", "Corrupted prompt"))


def show(spec: ModelSpec, pairs: Mapping[Way, tuple[Pair, ...]]) -> None:
    """The component that is opened, on the first pair of its circuit."""
    node = state.view().node
    way = next((way for way in pairs if node is not None and way.name == node.way), None)
    if node is None or way is None:
        parts.html(
            markup.hint("Open a head or an MLP of the circuit to see what it reads and writes.")
        )
        return
    pair = pairs[way][0]
    layer, _, head = node.name[1:].partition(".h")
    try:
        found = resources.engine().written(spec, pair, int(layer), int(head) if head else None)
        name = f"Head {head} of layer {layer}" if head else f"MLP of layer {layer}"
        parts.html(
            markup.heading(name, f"{way.title}, on the first of {len(pairs[way])} pairs.")
            if len(pairs[way]) > 1
            else markup.heading(name, f"{way.title}.")
        )
        if head:
            _attention(spec, pair, int(layer), int(head))
        _writing(found, pair)
    except ObverseError as error:
        parts.html(markup.hint(str(error)))


def _attention(spec: ModelSpec, pair: Pair, layer: int, head: int) -> None:
    value = st.segmented_control(
        "What is drawn",
        list(_VALUES),
        default="pattern",
        format_func=_VALUES.__getitem__,
        key="attention-value",
        label_visibility="collapsed",
        required=True,
    )
    prompts = {"clean": pair.clean, "corrupt": pair.corrupt}
    for (run, title), column in zip(_RUNS, st.columns(2, gap="large"), strict=True):
        with column:
            parts.html(f'<div class="ob-small">{title}: “{markup.esc(prompts[run])}”</div>')
            patterns = resources.engine().patterns(spec, prompts[run], layer)
            one = patterns.isel(example=0).sel(layer=layer, head=head)
            parts.figure(
                pattern_map(patterns, layer, head, value=value or "pattern", width=parts.HALF),
                f"attention-{run}",
                data=functools.partial(_rows, one),
                code=snippets.attention(spec, prompts[run], layer, head, value or "pattern"),
                alt=f"Attention of head {head} in layer {layer}, {title.lower()}",
            )


def _rows(one: xr.Dataset) -> pd.DataFrame:
    return one.to_dataframe().reset_index().dropna()


def _writing(found: Mapping[str, Written], pair: Pair) -> None:
    """The tokens that are raised most, and the part in the logits, of both prompts."""
    pieces = []
    for run, title in _RUNS:
        one = found[run]
        rows = "".join(
            f'<span class="t">{markup.esc(theme.shorten(theme.visible(token), 30))}</span>'
            f'<span class="p">{markup.esc(sentences.number(logit))}</span>'
            for token, logit in one.raised
        )
        pieces.append(
            f'<div><div class="ob-small">{title}: what it writes raises most, in logits</div>'
            f'<div class="ob-written">{rows}</div>'
            f'<div class="ob-small">{markup.esc(_share(one, pair))}</div></div>'
        )
    parts.html(f'<div class="ob-two">{"".join(pieces)}</div>')


def _share(one: Written, pair: Pair) -> str:
    return sentences.written(one.share, one.whole, pair.answer, pair.foil, one.among)
