"""Attention of one head, on one prompt or on two side by side."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import pandas as pd
import streamlit as st
import xarray as xr

from app import resources
from app.compute.engine import About, ModelSpec
from app.screen import parts, switch
from app.screen.told import ONE_PROMPT, Told
from app.text import markup, snippets
from interp.figures import pattern_map

_VALUES = {"pattern": "Attention", "moved": "Weighted by what is moved"}
_SHOWS = {
    "pattern": "Which tokens the head reads at each token; each row adds up to 1.",
    "moved": "Attention times the length of what it moves: tokens that the head looks at only "
    "because nothing is to be moved from there are pale.",
}


def choose(about: About) -> tuple[int, int]:
    """The layer and head that the user looks at."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        layer = switch.number("attention-layer", "Block", about.n_layers - 1)
        head = switch.number("attention-head", "Head", about.n_heads - 1)
    return layer, head


def show(spec: ModelSpec, prompts: Mapping[str, tuple[str, str]], layer: int, head: int) -> None:
    """The patterns.

    Args:
        prompts: title and text of each prompt, by a name for its figure.

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
            parts.figure(
                pattern_map(
                    patterns,
                    layer,
                    head,
                    value="moved" if value == "moved" else "pattern",
                    width=parts.width(max(2, len(prompts))),
                ),
                f"attention-{name}",
                data=functools.partial(_rows, patterns, layer, head),
                code=snippets.attention(spec, prompt, layer, head, value),
                alt=f"Attention of head {head} in block {layer}, {title.lower()}",
                told=Told(_SHOWS[value], n="1 prompt", interval=ONE_PROMPT),
            )


def _rows(patterns: xr.Dataset, layer: int, head: int) -> pd.DataFrame:
    return patterns.sel(layer=layer, head=head).to_dataframe().reset_index().dropna()
