"""Attention of one head, on one prompt or on two side by side."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import pandas as pd
import streamlit as st
import xarray as xr

from app import resources
from app.compute.engine import About, ModelSpec
from app.screen import parts
from app.text import markup, snippets
from interp.figures import pattern_map

_VALUES = {"pattern": "Attention", "moved": "Weighted by what is moved"}


def choose(about: About) -> tuple[int, int]:
    """The layer and head that the user looks at."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        layer = st.number_input("Layer", 0, about.n_layers - 1, key="attention-layer", width=130)
        head = st.number_input("Head", 0, about.n_heads - 1, key="attention-head", width=130)
    return int(layer), int(head)


def show(spec: ModelSpec, prompts: Mapping[str, tuple[str, str]], layer: int, head: int) -> None:
    """The patterns.

    Args:
        prompts: title and text of each prompt, by a name for its figure.

    Raises:
        SiteError, ModelError: the model does not show its attention.
    """
    value = st.segmented_control(
        "What is drawn",
        list(_VALUES),
        default="pattern",
        format_func=_VALUES.__getitem__,
        key="attention-value",
        label_visibility="collapsed",
        required=True,
    )
    value = value or "pattern"
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
                    width=parts.HALF,
                ),
                f"attention-{name}",
                data=functools.partial(_rows, patterns, layer, head),
                code=snippets.attention(spec, prompt, layer, head, value),
                alt=f"Attention of head {head} in layer {layer}, {title.lower()}",
            )


def _rows(patterns: xr.Dataset, layer: int, head: int) -> pd.DataFrame:
    return patterns.sel(layer=layer, head=head).to_dataframe().reset_index().dropna()
