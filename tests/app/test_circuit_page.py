"""Circuits on the page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.compute import circuits
from app.panels import circuit_graph
from app.screen.told import Check
from app.selection import Node
from experiments.records import RunRecord
from interp.circuits.circuit import Circuit
from tests.app.material import HOSTILE
from tests.app.pages import Open, assert_fine, html, root_of, switched

pytestmark = pytest.mark.slow


def test_circuits_are_found_when_they_are_wanted(open_page: Open, record: RunRecord) -> None:
    page = open_page(root_of(record), query={"page": "circuit"})
    assert_fine(page)
    assert "means over 2 pairs" in html(page)
    assert page.select_slider(key="edges").value == 40
    page.select_slider(key="edges").set_value(15).run()
    assert_fine(page)
    assert page.query_params["edges"] == "15"
    switched(page, circuit_of="one")
    page.run()
    assert_fine(page)
    assert "this pair only" in html(page)


def test_a_circuit_whose_check_is_red_is_not_saved(
    open_page: Open, record: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither its numbers nor its drawing, which has a button of its own."""
    drawn: list[dict[str, Any]] = []
    monkeypatch.setattr(circuit_graph, "show", lambda graphs, *more: drawn.extend(graphs))
    query = {"page": "circuit", "circuit-of": "one"}
    open_page(root_of(record), query=query)
    assert [one["wrong"] for one in drawn] == ["", ""]
    drawn.clear()
    red = Check("All edges = model", False, "It is not <b>so</b>.")
    measured = circuits.measured

    def wrong(*given: Any) -> Any:
        return replace(measured(*given), checks=(red,))

    monkeypatch.setattr(circuits, "measured", wrong)
    page = open_page(root_of(record), query=query | {"edges": "10"})
    assert [one["wrong"] for one in drawn] == [f"Nothing of this is exported: {red.said}"] * 2
    assert [str(error.value) for error in page.error if "Nothing of this" in str(error.value)]


def test_an_opened_node_shows_what_it_attends_to_and_writes(
    open_page: Open, record: RunRecord
) -> None:
    query = {"page": "circuit", "example": "0", "node": "forward a1.h1 -1"}
    page = open_page(root_of(record), query=query)
    assert_fine(page)
    assert "Head 1 of block 1" in html(page)
    assert len(page.get("plotly_chart")) == 2  # the clean and the corrupted prompt
    assert "what it writes raises most" in html(page)
    page.segmented_control(key="attention-value").set_value("moved").run()
    assert_fine(page)
    page.session_state["view"] = replace(page.session_state["view"], node=Node("forward", "m0", -1))
    page.run()
    assert_fine(page)
    assert "MLP of block 0" in html(page)
    assert len(page.get("plotly_chart")) == 0
    gone = open_page(root_of(record), query=query | {"node": "forward a9.h1 -1"})
    assert_fine(gone)
    assert "no head 1 in layer 9" in html(gone)


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
    assert len(page.get("plotly_chart")) == 5
    assert page.select_slider(key="edges").value == 40  # of 50 edges
    assert "<img" not in html(page)


def test_a_circuit_that_could_be_noise_is_grey_and_says_so_in_what_is_saved(
    open_page: Open, record: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is saved of the drawing has no page around it that would tell."""
    drawn: list[dict[str, Any]] = []
    monkeypatch.setattr(circuit_graph, "show", lambda graphs, *more: drawn.extend(graphs))
    page = open_page(root_of(record), query={"page": "circuit", "circuit-of": "one"})
    assert_fine(page)
    for one in drawn:
        assert one["grey"]
        assert {edge["colour"] for edge in one["edges"]} == {"#80848c"}
        assert " ".join(one["reason"]) in html(page)
        assert all(len(line) * 6 < one["width"] for line in one["reason"])
    measured = circuits.measured

    def clear(*given: Any) -> Any:
        found = measured(*given)
        return replace(found, effect=replace(found.effect, mean=2.0, low=1.0, high=3.0, reason=""))

    monkeypatch.setattr(circuits, "measured", clear)
    drawn.clear()
    # As where heads share their keys: one edge is a line to each of them.
    targets = Circuit.targets
    monkeypatch.setattr(Circuit, "targets", lambda circuit, d: targets(circuit, d) * 2)
    open_page(root_of(record), query={"page": "circuit", "circuit-of": "one", "edges": "5"})
    assert len(drawn) == 2
    for one in drawn:
        assert not one["grey"]
        assert one["reason"] == []
        assert "#80848c" not in {edge["colour"] for edge in one["edges"]}
        ranks = [edge["rank"] for edge in one["edges"]]
        assert len(ranks) == 10
        assert sorted(set(ranks)) == list(range(5))
