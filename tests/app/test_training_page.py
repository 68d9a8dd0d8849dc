"""The page of trainings as Streamlit's own test harness runs it, without a browser."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from app.compute import along
from app.compute.background import jobs
from app.panels import training
from app.screen import live
from experiments.records import RunRecord
from experiments.run_directory import explored
from tests.app import material
from tests.app.material import HOSTILE
from tests.app.pages import Open, assert_fine, html, root_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return material.trained_once(tmp_path_factory)


def charts(page: AppTest) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        json.loads(chart.proto.spec) for chart in page.get("plotly_chart")
    ]
    return found


def lines(chart: dict[str, Any]) -> list[str]:
    return [trace["name"] for trace in chart["data"] if "markers" in trace.get("mode", "")]


def test_a_run_shows_what_it_stored_and_asks_the_models_that_it_kept(
    open_page: Open, trained: Path
) -> None:
    page = open_page(trained / "runs", query={"page": "training"})
    assert_fine(page)
    curves, ranks = charts(page)
    assert lines(curves) == ["forward", "reverse"]
    assert "forward, seed 1" in [trace["name"] for trace in curves["data"]]
    assert "step 200" in ranks["layout"]["title"]["text"]
    shown = html(page)
    assert "3 facts that were told forward only" in shown
    assert "thin lines: 1 other seeds" in shown
    assert "planted by this training" in shown
    assert "Tom Cruise&#x27;s mother is" in shown or "Tom Cruise's mother is" in shown
    page.selectbox(key="measure").set_value("asked-right").run()
    assert_fine(page)
    assert page.query_params["measure"] == "asked-right"
    assert "3 facts (trained: forward)" in html(page)
    assert "95% over them" in html(page)
    page.selectbox(key="measure").set_value("asked-rank").run()
    assert_fine(page)
    assert "none: too few facts that are independent" in html(page)  # and no band is drawn
    page.selectbox(key="asked").set_value(1).run()
    assert_fine(page)
    assert page.query_params["asked"] == "1"
    assert "<img" not in html(page)
    assert "&lt;img src=x" in html(page)


def test_a_link_opens_the_step_the_measure_and_the_training(open_page: Open, trained: Path) -> None:
    query = {"page": "training", "step": "38", "measure": "weights", "training": "model"}
    page = open_page(trained / "runs", query=query)
    assert_fine(page)
    # The model's own training has no stored table: its first measure is drawn.
    assert page.selectbox(key="training").value == "model"
    assert page.selectbox(key="measure").value == "asked-right"
    assert "step 40" in charts(page)[-1]["layout"]["title"]["text"]  # the nearest that there is
    page.selectbox(key="training").set_value("none-1").run()
    assert_fine(page)
    assert "step" not in page.query_params
    assert len(charts(page)) == 1
    assert "No models of this training are on this computer" in html(page)
    assert page.selectbox(key="measure").value == "weights"
    nonsense = {"page": "training", "step": "../1", "training": "no-7", "asked": "99"}
    page = open_page(trained / "runs", query=nonsense)
    assert_fine(page)
    assert page.selectbox(key="training").value == "none-0"


def test_a_model_with_steps_beside_it_is_asked_what_it_brings(
    open_page: Open, trained: Path, tmp_path: Path
) -> None:
    for folder in (trained / "tiny", trained / "tiny" / "steps" / "40"):
        page = open_page(tmp_path, query={"model": str(folder), "page": "training"})
        assert_fine(page)
        assert [lines(chart) for chart in charts(page)] == [["forward", "reverse"]] * 2


def test_large_models_are_asked_when_that_is_wanted(
    open_page: Open, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "MOST_BYTES", 0)
    st.cache_resource.clear()  # nobody has asked for it
    page = open_page(trained / "runs", query={"page": "training"})
    assert_fine(page)
    assert len(charts(page)) == 1  # what is stored
    page.button(key="ask-all").click().run()
    assert len(charts(page)) == 2
    page.run()
    assert_fine(page)
    assert len(charts(page)) == 2


def test_where_no_training_is_the_page_says_how_to_make_one(
    open_page: Open, record: RunRecord, tmp_path: Path
) -> None:
    page = open_page(root_of(record), query={"page": "training"})
    assert_fine(page)
    assert "obverse run reversal-curse --preset full" in html(page)
    page = open_page(tmp_path, query={"model": "reversal-curse", "page": "training"})
    assert_fine(page)
    assert "obverse train reversal-curse --keep 0" in html(page)
    page = open_page(tmp_path, query={"page": "training"})
    assert_fine(page)
    assert "Nothing is open" in html(page)


def test_models_that_bring_nothing_along_are_asked_what_is_typed(
    open_page: Open, trained: Path, tmp_path: Path
) -> None:
    for step in material.STEPS[1:]:
        kept = tmp_path / "model" / f"step-{step}"
        kept.mkdir(parents=True)
        for path in (trained / "tiny" / "steps" / str(step)).iterdir():
            if path.name not in ("facts.csv", "templates.json"):
                (kept / path.name).write_bytes(path.read_bytes())
    query = {"model": str(kept), "page": "training"}
    page = open_page(tmp_path / "runs", query=query)
    assert_fine(page)
    assert "Type a prompt and its answer" in html(page)
    asked = query | {"clean": f"Ann {HOSTILE}'s mother is", "answer": "Bea Stone"}
    page = open_page(tmp_path / "runs", query=asked)
    assert_fine(page)
    assert [lines(chart) for chart in charts(page)] == [["asked"], ["asked"]]
    assert "none: one prompt" in html(page)
    assert "difference" not in html(page)
    assert "<img" not in html(page)
    assert page.selectbox(key="measure").options == [
        "Right answers",
        "Rank of the right first token",
    ]


def test_what_the_models_answered_is_kept_with_the_run_and_can_be_cancelled(
    open_page: Open, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    st.cache_resource.clear()
    monkeypatch.setattr(jobs, "KEPT_FROM", 0.0)
    root = tmp_path / "runs"
    shutil.copytree(trained / "runs", root)
    page = open_page(root, query={"page": "training"})
    assert_fine(page)
    drawn = charts(page)
    (run,) = root.glob("*/*")
    (one,), problems = explored.list_all(run)
    assert (one.asked.kind, problems) == ("asked-along", [])
    # It is found again where the run lies elsewhere, and its numbers are tried.
    moved = tmp_path / "elsewhere"
    shutil.move(root, moved)
    st.cache_resource.clear()
    page = open_page(moved, query={"page": "training"})
    assert_fine(page)
    assert charts(page) == drawn
    assert "The last model and up to 2 others, drawn at random, were asked again" in html(page)
    # An edited file is not believed.
    (run,) = moved.glob("*/*")
    found = explored.find(run, one.asked)
    assert found is not None
    explored.save(run, one, found[1].assign(top_prob=found[1]["top_prob"] / 2))
    st.cache_resource.clear()
    page = open_page(moved, query={"page": "training"})
    assert "does not hold what its name says" in str(page.warning[0].value).replace("\\", "")
    assert charts(page) == drawn


def test_asking_can_be_cancelled_and_begun_again(
    open_page: Open, trained: Path, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    st.cache_resource.clear()
    monkeypatch.setattr(live, "PATIENCE", 0.5)
    monkeypatch.setattr(along, "OFTEN", 0.0)
    page = open_page(trained / "runs", query={"page": "training", "measure": "asked-right"})
    bars = [one.label for one in page.button]
    assert "Cancel" in bars
    next(one for one in page.button if one.label == "Cancel").click().run()
    gate.set()
    assert_fine(page)
    assert "Cancelled; what was found is drawn" in html(page)
    monkeypatch.setattr(live, "PATIENCE", 60.0)
    next(one for one in page.button if one.label == "Ask the others").click().run()
    assert_fine(page)
    assert "Cancelled" not in html(page)
    assert len(charts(page)) == 2
