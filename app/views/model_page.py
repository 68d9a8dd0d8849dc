"""A model without a run: the examples that it brings for a study, and the user's prompts."""

from __future__ import annotations

import streamlit as st

from app import resources, state
from app.compute.engine import ModelSpec
from app.text import markup
from app.views import example, example_table, own, parts
from app.views.shown import brought


def show(spec: ModelSpec) -> None:
    """Draw it. Raises ModelError where the model cannot be loaded."""
    engine = resources.engine()
    with st.spinner("Loading the model …", show_time=True):
        about = engine.about(spec)
    size = f"{about.n_parameters / 1e6:,.1f} million parameters"
    parts.html(
        f'<div class="ob-title">{markup.esc(about.name)}</div>'
        f'<div class="ob-meta">{about.n_layers} layers · {about.n_heads} heads · {size}</div>'
    )
    if state.view().page == "yours":
        own.show(spec)
        return
    shown = brought(spec)
    if shown is None:
        parts.html(
            markup.hint("This model brings nothing along to be asked; ask it your own questions.")
        )
        own.show(spec)
        return
    parts.html(markup.heading(shown.examples.many.capitalize()))
    chosen = example_table.show(shown.examples, shown.table)
    if chosen is not None:
        example.show(shown, chosen)
