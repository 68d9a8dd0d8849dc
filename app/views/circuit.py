"""The circuit of one example or of all of its kind: a page of its own."""

from __future__ import annotations

from app.panels import example_patching, example_table
from app.screen import parts
from app.text import markup
from app.views.opened import Opened


def show(opened: Opened) -> None:
    parts.html(markup.title("Circuit"))
    shown = opened.shown
    if shown is None or shown.spec is None:
        parts.html(
            '<div class="ob-empty"><b>There is nothing to find a circuit of.</b><br>Open a run '
            "whose model is on this computer, or a model that brings examples along; or type a "
            "pair of prompts under <b>Any prompt</b>.</div>"
        )
        return
    chosen = example_table.select(shown.examples, shown.table)
    if chosen is not None:
        example_patching.circuits(shown, chosen)
