"""What goes on inside: the same tabs for facts and for any prompt, switched by links."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.compute import lenses
from app.screen.told import Check
from app.selection import Cell
from experiments.records import RunRecord
from interp import TunedLens, load_model, logit_lens
from tests.app.pages import Open, assert_fine, html, numbers, root_of, switched

pytestmark = pytest.mark.slow


def test_a_link_opens_a_tab_with_its_switches(open_page: Open, record: RunRecord) -> None:
    query = {"inside": "attribution", "attribution-by": "head", "against": "alone"}
    page = open_page(root_of(record), query=query | {"example": "3"})
    assert_fine(page)
    drawn = {chart.key for chart in page.get("plotly_chart")}
    ways = ("forward", "reverse")
    assert {f"attribution-{kind}-{way}" for kind in ("bars", "map") for way in ways} <= drawn
    assert not any(key.startswith(("attention-", "heads-")) for key in drawn)
    assert html(page).count("✓ Contributions sum") == 4
    assert "minus that of" not in html(page)
    assert {name: page.query_params[name] for name in query} == query
    page.segmented_control(key="against").set_value("foil").run()
    assert_fine(page)
    assert "against" not in page.query_params
    assert "minus that of" in html(page)
    assert "the logit of the first token of ‘" in html(page)  # names have several


def test_one_head_or_all_of_a_block_are_drawn(open_page: Open, record: RunRecord) -> None:
    page = open_page(root_of(record), query={"attention-of": "all", "attention-layer": "1"})
    assert_fine(page)
    assert not any(field.key == "attention-head" for field in page.number_input)
    (chart,) = (one for one in page.get("plotly_chart") if one.key == "attention-forward")
    drawn = json.loads(chart.proto.spec)
    assert [trace["name"] for trace in drawn["data"]] == ["head 0", "head 1"]
    page.segmented_control(key="attention-of").set_value("one").run()
    assert_fine(page)
    assert page.number_input(key="attention-head").value == 0
    assert "attention-of" not in page.query_params


def test_every_score_of_heads_is_drawn(open_page: Open, record: RunRecord) -> None:
    page = open_page(root_of(record), query={"inside": "heads", "site": "z"})
    for score in ("patching", "attribution", "to_span", "previous_token", "induction"):
        switched(page, head_score=score)
        page.run()
        assert_fine(page)
        drawn = [chart.key for chart in page.get("plotly_chart") if chart.key.startswith("heads-")]
        if score == "induction":  # no token comes twice
            assert drawn == []
            assert html(page).count("No token comes twice") == 2
        else:
            assert drawn == ["heads-forward", "heads-reverse"]
    view = page.session_state["view"].switched(inside="attention", attention_layer="1")
    page.session_state["view"] = replace(view, cell=Cell("forward", 1, head=1))
    page.run()
    assert_fine(page)
    assert page.number_input(key="attention-layer").value == 1


def test_answer_and_foil_are_read_by_first_tokens_and_as_a_whole(
    open_page: Open, model_folder: Path, tmp_path: Path
) -> None:
    query = {"model": str(model_folder), "page": "prompt", "inside": "metric"}
    sentence = {"clean": "Mary is Tom's mother, Tom's son is", "answer": "Mary", "foil": "Tom"}
    page = open_page(tmp_path, query=query | sentence)
    assert_fine(page)
    assert "By first tokens the answer is" in html(page)
    assert {"lead", "lens-clean"} == {chart.key for chart in page.get("plotly_chart")}
    page.button(key="swap").click().run()
    assert_fine(page)
    assert page.query_params["corrupt"] == "Tom is Mary's mother, Mary's son is"
    assert {"lens-corrupt", "patching-clean-resid_pre"} <= {
        chart.key for chart in page.get("plotly_chart")
    }
    page.text_input(key="ask-foil").set_value("Mary Lee Pfeiffer")
    page.button[0].click().run()
    assert "begin with the same token" in page.warning[0].value


def test_a_lens_that_is_missing_is_fitted_and_kept_with_the_run(
    open_page: Open,
    record: RunRecord,
    model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lenses, "STEPS", 2)
    folder = tmp_path / "reversal-curse" / "copy"
    shutil.copytree(record.path, folder)
    page = open_page(tmp_path, query={"lens": "tuned"})
    assert_fine(page)
    assert "There is no tuned lens of this model yet" in html(page)
    assert not any(chart.key.startswith("lens-") for chart in page.get("plotly_chart"))
    # What the run has stored is through another lens, and says so.
    assert "There is no tuned lens of this model yet to read them through." in html(page)
    page.button(key="fit-tuned").click().run()
    job = page.session_state["lens-asked"]
    assert job.work.wait(60).error is None
    page.run()
    assert_fine(page)
    assert (folder / "work" / "lens-tuned" / "lens.json").is_file()
    drawn = {chart.key for chart in page.get("plotly_chart")}
    assert {"lens-forward", "lens-reverse", "ranks", "ranks-all"} <= drawn
    assert "TunedLens.load" in "\n".join(str(code.value) for code in page.code)
    assert html(page).count("✓ Last layer = model") == 3  # two maps, and the ranks
    told = "The tuned lens was fitted on the study’s examples and their answers."
    assert html(page).count(told) == 4
    (all_facts,) = (one for one in page.get("plotly_chart") if one.key == "ranks-all")
    drawn_now = json.loads(all_facts.proto.spec)
    assert drawn_now["layout"]["title"]["text"] == "All 3 facts of its kind, tuned lens"
    model = load_model(str(model_folder))
    lens = TunedLens.load(folder / "work" / "lens-tuned", model)
    facts = record.table("facts")
    kind = facts[facts["split"] == "forward"]
    read = logit_lens(
        model,
        kind["forward_prompt"].tolist(),
        kind["forward_answer"].tolist(),
        lens=lens,
        k=1,
        positions="last",
    )
    (line,) = (trace for trace in drawn_now["data"] if trace["name"] == "forward")
    medians = np.median(read["answer_rank"].values[:, :, 0], axis=0)
    np.testing.assert_allclose(numbers(line["y"]), np.log10(1 + medians), atol=1e-6)


def test_the_circuit_page_chooses_its_example(open_page: Open, record: RunRecord) -> None:
    page = open_page(root_of(record), query={"page": "circuit", "circuit-of": "one"})
    assert_fine(page)
    assert page.selectbox(key="example").value == 0
    page.selectbox(key="example").set_value(3).run()
    assert_fine(page)
    assert page.query_params["example"] == "3"
    assert html(page).count("✓ All edges = model") == 2


def test_a_red_badge_stops_the_export_of_its_figure_alone(
    open_page: Open, record: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    def red(*given: object) -> tuple[Check, ...]:
        return (Check("Sham near 0", False, "The metric moves by <b>9</b>."),)

    monkeypatch.setattr("app.panels.patching.checked", red)
    page = open_page(root_of(record))
    assert not page.exception
    stopped = [str(error.value) for error in page.error if "Nothing of this" in str(error.value)]
    assert len(stopped) == 3  # both maps, and their difference
    assert "<b>9" not in html(page)
    assert html(page).count("✗ Sham near 0") == 3
    saved = " ".join(button.proto.id for button in page.get("download_button"))
    assert "lens-forward-csv" in saved
    assert "patching-forward" not in saved
    assert "contrast-" not in saved
