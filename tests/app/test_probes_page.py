"""The page of probes: a study's examples, two lists of prompts, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from app.compute import probing
from app.screen import live
from experiments.records import RunRecord
from tests.app.material import HOSTILE
from tests.app.pages import Open, assert_fine, html, numbers, root_of

pytestmark = pytest.mark.slow

NAMES = ("Tom Cruise", "Cy Dale", "Dan Frost", "Finn Grove", "Hal Iris")


def lists() -> dict[str, str]:
    mothers = [f"{a} {b}'s mother is" for a in NAMES for b in NAMES[:3]]
    sons = [f"{a} {b}'s son" for a in NAMES for b in NAMES[:3]]
    return {
        "probed": "typed",
        "list1": "\n".join([*mothers, f"Ann {HOSTILE}'s mother is"]),
        "list2": "\n".join(sons),
        "class1": f"<b>{HOSTILE}"[:40],
        "class2": "sons",
    }


def lines(fig: dict[str, Any]) -> dict[str, Any]:
    """The lines of a figure, by their names."""
    return {t["name"]: numbers(t["y"]) for t in fig["data"] if t["mode"] == "lines+markers"}


def across(fig: dict[str, Any]) -> list[tuple[str, float]]:
    return [(shape["line"]["dash"], shape["y0"]) for shape in fig["layout"]["shapes"]]


def drawn(page: AppTest) -> dict[str, Any]:
    """The figure of a sweep."""
    specs = [json.loads(chart.proto.spec) for chart in page.get("plotly_chart")]
    (fig,) = (spec for spec in specs if "probe" in [t.get("name") for t in spec["data"]])
    return fig


def test_two_lists_are_probed_and_the_code_beside_the_figure_makes_it(
    open_page: Open,
    model_folder: Path,
    tmp_path: Path,
    run_code: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    query = {"model": str(model_folder), "page": "probes", "point": "2", **lists()}
    page = open_page(tmp_path, query=query)
    assert_fine(page)
    shown = html(page)
    assert "In the residual stream after block 1, at the last token of the prompt" in shown
    assert "of 31 held-out lines are told right" in shown
    assert "<img" not in shown
    assert "✗" not in shown
    assert page.query_params["list2"] == query["list2"]
    fig = drawn(page)
    (code,) = (c.value for c in page.code if "probe_lines" in c.value)
    made = json.loads(run_code(code).to_json())
    assert list(lines(fig)) == ["shuffled labels", "control labels", "probe"]
    for name, values in lines(made).items():
        np.testing.assert_allclose(lines(fig)[name], values, atol=1e-6, err_msg=name)
    assert len(across(fig)) == 2
    assert across(fig) == across(made)
    table = page.dataframe[0].value
    assert list(table["after block"]) == ["embedding", "0", "1"]
    # Another site is a switch, and in the link.
    page.selectbox(key="probe-site").set_value("mlp_out").run()
    assert_fine(page)
    assert page.query_params["site"] == "mlp_out"
    assert "point" not in page.query_params
    assert list(page.dataframe[0].value["block"]) == ["0", "1"]
    # Where a check is red neither a table, which saves itself, nor a verdict stands beside it.
    red = probing.Checked(("Tom",), (), (0.0, 1.0))
    monkeypatch.setattr(probing, "checked", lambda *given: red)
    page.run()
    assert "✗ No name in both halves" in html(page)
    assert "Nothing of this is exported" in page.error[0].value
    assert len(page.dataframe) == 0
    assert "nothing is said of any layer" in html(page)


def test_a_run_of_too_few_facts_is_told_so_and_shows_what_the_study_fitted(
    open_page: Open, record: RunRecord
) -> None:
    page = open_page(root_of(record), query={"page": "probes", "label": "split"})
    assert_fine(page)
    shown = html(page)
    assert "A probe needs two classes of at least 10 different facts each" in shown
    assert "Probes of the study" in shown
    assert not page.dataframe
    assert len(page.get("plotly_chart")) == 1
    page.segmented_control(key="probed").set_value("typed").run()
    assert_fine(page)
    assert page.query_params["probed"] == "typed"
    assert "Two lists are needed" in html(page)
    assert len(page.get("plotly_chart")) == 1
    for name, text in lists().items():
        if name.startswith("list"):
            page.text_area(key=f"list-{name[-1]}").set_value(text)
    page.button[0].click().run()
    assert_fine(page)
    assert page.query_params["list2"] == lists()["list2"]
    assert len(page.get("plotly_chart")) == 2


def test_a_models_own_facts_are_probed(open_page: Open, tmp_path: Path, run_code: Any) -> None:
    query = {"model": "reversal-curse", "page": "probes", "label": "reverse_correct", "point": "1"}
    page = open_page(tmp_path, query=query | {"read": "reverse"})
    assert_fine(page)
    shown = html(page)
    assert "So it is readable here (corrected p" in shown
    assert "of 200 held-out facts are told right" in shown
    (code,) = (c.value for c in page.code if "probe_lines" in c.value)
    made = lines(json.loads(run_code(code).to_json()))
    fig = lines(drawn(page))
    for name, values in made.items():
        np.testing.assert_allclose(fig[name], values, atol=1e-6, err_msg=name)
    assert min(made["probe"][1:]) > 0.75
    page.selectbox(key="probe-way").set_value("forward").run()
    assert_fine(page)
    assert "read" not in page.query_params
    assert "point" not in page.query_params
    assert max(lines(drawn(page))["probe"]) < 0.7
    # Its own questions are what its lists begin with: it knows no other words.
    page.segmented_control(key="probed").set_value("typed").run()
    assert_fine(page)
    assert "'s mother is" in page.text_area(key="list-1").value
    assert len(lines(drawn(page))["probe"]) == 4


def test_no_words_are_suggested_that_the_model_does_not_know(
    open_page: Open, record: RunRecord, tmp_path: Path
) -> None:
    run = tmp_path / "reversal-curse" / record.path.name
    shutil.copytree(record.path, run)
    (run / "results" / "facts.parquet").write_bytes(b"no table")
    page = open_page(tmp_path, query={"page": "probes"})
    assert "Two lists are needed." in html(page)
    assert [page.text_area(key=f"list-{number}").value for number in (1, 2)] == ["", ""]
    (error,) = page.error
    assert "facts" in str(error.value)


def test_a_large_model_is_probed_when_that_is_asked_for(
    open_page: Open, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "SMALL", 0)
    # Jobs are shared: what another test has had fitted would be there at once.
    query = {"model": str(model_folder), "page": "probes", **lists(), "class2": "others"}
    page = open_page(tmp_path, query=query)
    assert_fine(page)
    assert "fitted when you say so" in html(page)
    assert not page.get("plotly_chart")
    page.button(key="probe-start").click().run()
    assert_fine(page)
    assert len(lines(drawn(page))["probe"]) == 3


@pytest.mark.parametrize(
    "query",
    [
        {"list1": "one\ntwo", "list2": "three"},
        {"list1": "\n".join(map(str, range(12))), "list2": "\n".join(map(str, range(12)))},
        {**lists(), "class2": lists()["class1"]},
    ],
)
def test_lists_that_make_no_probe_are_refused_in_a_sentence(
    open_page: Open, model_folder: Path, tmp_path: Path, query: dict[str, str]
) -> None:
    address = {"model": str(model_folder), "page": "probes", "probed": "typed", **query}
    page = open_page(tmp_path, query=address)
    assert_fine(page)
    assert not page.get("plotly_chart")
    assert any(
        said in html(page)
        for said in ("different lines each", "stands in both lists", "names, and")
    )
