"""Circuits on the page."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.records import RunRecord
from tests.app.material import HOSTILE
from tests.app.pages import Open, assert_fine, html, root_of

pytestmark = pytest.mark.slow


def test_circuits_are_found_when_they_are_wanted(open_page: Open, record: RunRecord) -> None:
    page = open_page(root_of(record), query={"page": "circuit"})
    assert "edges do" not in html(page)
    page.toggle(key="circuit").set_value(True).run()
    assert_fine(page)
    assert len(page.get("plotly_chart")) == 2
    assert page.query_params["edges"] == "40"
    page.select_slider(key="edges").set_value(15).run()
    assert_fine(page)
    assert page.query_params["edges"] == "15"
    assert "this pair only" in html(page)
    page.session_state["patch-of"] = "mean"
    page.run()
    assert_fine(page)
    assert "means over 2 pairs" in html(page)
    page.toggle(key="circuit").set_value(False).run()
    assert "edges" not in page.query_params
    assert len(page.get("plotly_chart")) == 0


def test_a_link_to_a_circuit_of_any_size_opens(
    open_page: Open, model_folder: Path, tmp_path: Path
) -> None:
    query = {
        "model": str(model_folder),
        "page": "prompt",
        "clean": "Tom Cruise's mother is",
        "corrupt": f"Ann {HOSTILE}'s mother is",
        "answer": "Mary",
        "foil": "Bea",
        "edges": "999999",
    }
    page = open_page(tmp_path, query=query)
    assert_fine(page)
    assert len(page.get("plotly_chart")) == 4
    assert page.select_slider(key="edges").value == 40  # of 50 edges
    assert "<img" not in html(page)
