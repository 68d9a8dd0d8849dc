"""Attention of one head or of a block's, on one prompt or on two side by side."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Literal

import pandas as pd
import plotly.graph_objects as go
import streamlit as st
import xarray as xr

from app import resources, state
from app.compute.engine import About, ModelSpec
from app.screen import parts, switch
from app.screen.told import ONE_PROMPT, Told
from app.text import markup, snippets
from interp.figures import pattern_grid, pattern_map

_OF = {"one": "One head", "all": "All heads of the block"}
_VALUES = {"pattern": "Attention", "moved": "Weighted by what is moved"}
_SHOWS = {
    "pattern": "Which tokens a head reads at each token; each row adds up to 1.",
    "moved": "Attention times the length of what it moves: tokens that a head looks at only "
    "because nothing is to be moved from there are pale.",
}
_CONTROL = "none: where a head looks is not what it does"


def choose(about: About) -> tuple[int, int | None]:
    """The layer and head that the user looks at; None for all heads of the layer."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        layer = switch.number("attention-layer", "Block", about.n_layers - 1)
        if state.view().at("attention-of") == "all":
            head = None
        else:
            head = switch.number("attention-head", "Head", about.n_heads - 1)
        switch.choose("attention-of", _OF, "Which heads")
    return layer, head


def show(
    spec: ModelSpec, prompts: Mapping[str, tuple[str, str]], layer: int, head: int | None
) -> None:
    """The patterns.

    Args:
        prompts: title and text of each prompt, by a name for its figure.
        head: None for all heads of the layer, on one scale.

    Raises:
        SiteError, ModelError: the model does not show its attention.
    """
    value = switch.choose("attention-value", _VALUES, "What is drawn")
    for (name, (title, prompt)), column in zip(
        prompts.items(), st.columns(max(2, len(prompts)), gap="large"), strict=False
    ):
        with column:
            parts.html(f'<div class="ob-small">{markup.esc(title)}: “{markup.esc(prompt)}”</div>')
            patterns = resources.engine().patterns(spec, prompt, layer)
            which = "all heads" if head is None else f"head {head}"
            parts.figure(
                _drawn(patterns, layer, head, value, parts.width(max(2, len(prompts)))),
                f"attention-{name}",
                data=functools.partial(_rows, patterns, layer, head),
                code=snippets.attention(spec, prompt, layer, head, value),
                alt=f"Attention of {which} in block {layer}, {title.lower()}",
                told=Told(_SHOWS[value], "1 prompt", ONE_PROMPT, _CONTROL),
            )


def _drawn(patterns: xr.Dataset, layer: int, head: int | None, value: str, width: int) -> go.Figure:
    drawn: Literal["pattern", "moved"] = "moved" if value == "moved" else "pattern"
    if head is None:
        return pattern_grid(patterns, layer, value=drawn, width=width)
    return pattern_map(patterns, layer, head, value=drawn, width=width)


def _rows(patterns: xr.Dataset, layer: int, head: int | None) -> pd.DataFrame:
    chosen = patterns.sel(layer=layer) if head is None else patterns.sel(layer=layer, head=head)
    return chosen.to_dataframe().reset_index().dropna()
