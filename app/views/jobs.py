"""What is computed now, and what is kept: jobs, results, models, stores."""

from __future__ import annotations

import streamlit as st

from app.panels.housekeeping import kept, memory, running, stores
from app.screen import parts
from app.text import markup
from app.views.opened import Opened


def show(opened: Opened) -> None:
    """Draw it; no model is loaded for it."""
    parts.html(markup.title("Cache and jobs", "What is computed now, and what is kept and where."))
    running.show()
    kept.show(opened.run)
    left, right = st.columns(2, gap="large")
    with left:
        memory.show()
    with right:
        stores.show(opened.root)
