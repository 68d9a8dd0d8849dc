"""A model without a run: its own facts if it brings some, and the user's prompts."""

from __future__ import annotations

import streamlit as st

from app import resources, state
from app.compute.engine import ModelSpec
from app.text import markup
from app.views import detail, fact_table, own, parts
from app.views.study import Study


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
    with resources.progress("Asking for every fact") as tell:
        facts = engine.facts(spec, tell)
    if facts is None:
        parts.html(
            markup.hint("This model brings no facts along (facts.csv); ask it your own questions.")
        )
        own.show(spec)
        return
    parts.html(markup.heading("Facts"))
    fact = fact_table.show(facts)
    if fact is not None:
        detail.show(Study(spec, facts, None), fact)
