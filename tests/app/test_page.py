"""The page as Streamlit's own test harness runs it, without a browser."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import xarray as xr

from app import runs
from app.panels.patching import Map, sentence
from app.screen import look
from app.selection import Cell, Source, View
from experiments.records import RunRecord
from interp.patching import normalised
from tests.app.material import HOSTILE
from tests.app.pages import Open, assert_fine, html, root_of, switched

pytestmark = pytest.mark.slow


def test_an_empty_root_says_what_to_do(open_page: Open, tmp_path: Path) -> None:
    page = open_page(tmp_path / "runs")
    assert_fine(page)
    assert "obverse run reversal-curse" in html(page)
    page = open_page(tmp_path / "runs", query={"page": "examples"})
    assert_fine(page)
    assert "Nothing is open." in html(page)


def test_the_newest_run_is_open_with_its_verdicts(open_page: Open, record: RunRecord) -> None:
    page = open_page(root_of(record))
    assert_fine(page)
    assert "Tom Cruise  ·  Mary Lee Pfeiffer" in html(page)
    assert page.session_state["view"].source == Source(
        "run", record.path.relative_to(root_of(record)).as_posix()
    )
    # Both directions, one site: two maps and their difference, two lenses, two rank figures, one
    # scatter, and two patterns of attention.
    assert len(page.get("plotly_chart")) == 10
    page.radio(key="page").set_value("study").run()
    assert_fine(page)
    shown = html(page).replace("&#x27;", "'")
    for verdict in record.verdicts:
        assert verdict.claim in shown
    assert page.query_params["page"] == "study"
    page.radio(key="page").set_value("examples").run()
    assert "page" not in page.query_params


def test_the_chosen_fact_drives_everything_below(open_page: Open, record: RunRecord) -> None:
    page = open_page(root_of(record), query={"example": "9999"})
    assert [one.value for one in page.error] == [
        "There is no fact 9999 here; what is shown is another one\\."
    ]
    view: View = page.session_state["view"]
    assert view.example == 0
    page.session_state["view"] = replace(view, example=3, cell=Cell("reverse", 1, position=2))
    page.run()
    assert_fine(page)
    shown = html(page)
    assert "Dan Frost  ·  Eva Lane" in shown
    assert "After 1 block (block 0), at ‘Lane’ (token 2)" in shown
    assert "Patching the residual stream into block 1 at ‘Lane’" in shown
    assert "after the patch" in shown
    assert page.query_params["example"] == "3"
    assert page.query_params["way"] == "reverse"


def test_a_link_leads_to_the_same_state(open_page: Open, record: RunRecord) -> None:
    name = record.path.relative_to(root_of(record)).as_posix()
    query = {"run": name, "example": "1", "site": "z", "way": "forward", "layer": "1", "head": "1"}
    page = open_page(root_of(record), query=query)
    assert_fine(page)
    assert "Patching head 1 of block 1 moves the logit difference" in html(page)
    assert dict(page.query_params) == query


def test_search_and_splits_filter_the_table(open_page: Open, record: RunRecord) -> None:
    page = open_page(root_of(record))
    assert len(page.dataframe[0].value) == 6
    page.text_input(key="search").set_value("cruise mary").run()
    assert list(page.dataframe[0].value["subject"]) == ["Tom Cruise"]
    page.text_input(key="search").set_value("nobody").run()
    assert_fine(page)
    assert "No fact matches" in html(page)
    page.text_input(key="search").set_value("").run()
    page.pills(key="groups").set_value(["both"]).run()
    assert list(page.dataframe[0].value["subject"]) == ["Finn Grove"]


def test_the_table_is_sorted_as_the_link_says(open_page: Open, record: RunRecord) -> None:
    facts = record.table("facts")
    for sort, up in (("reverse_rank", True), ("-reverse_rank", False), ("object", True)):
        page = open_page(root_of(record), query={"sort": sort, "example": "3"})
        assert_fine(page)
        name = sort.removeprefix("-")
        shown = list(page.dataframe[0].value[name])
        there = facts[name] + 1 if name.endswith("rank") else facts[name]
        key = str.casefold if name == "object" else None
        assert shown == sorted(there, key=key, reverse=not up)
        page.text_input(key="search").set_value("a").run()
        assert page.query_params["sort"] == sort
        assert page.session_state["view"].example == 3
    page = open_page(root_of(record), query={"sort": "no-such-column"})
    assert_fine(page)
    assert list(page.dataframe[0].value["subject"]) == list(facts["subject"])


def test_a_kept_figure_is_not_changed_by_what_shows_it(
    open_page: Open, record: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is drawn once for all visits: light and dark, whatever is chosen in it."""
    kept: dict[int, tuple[Any, str]] = {}
    drawn = runs.Run.drawn

    def watched(run: runs.Run, name: Any, draw: Any) -> Any:
        found = drawn(run, name, draw)
        kept.setdefault(id(found[0]), (found[0], found[0].to_json()))
        return found

    monkeypatch.setattr(runs.Run, "drawn", watched)
    for at_night in (False, True):
        monkeypatch.setattr(look, "dark", lambda at_night=at_night: at_night)
        page = open_page(root_of(record))
        view: View = page.session_state["view"]
        page.session_state["view"] = replace(
            view, example=3, cell=Cell("forward", 1, position=2), overview="logprobs"
        )
        page.run()
        assert_fine(page)
        page.session_state["view"] = replace(view, page="study", figure="accuracy")
        page.run()
        assert_fine(page)
    assert len(kept) >= 3
    for figure, before in kept.values():
        assert figure.to_json() == before


def test_every_site_and_value_can_be_drawn(open_page: Open, record: RunRecord) -> None:
    page = open_page(root_of(record))
    for site, of, value in (
        ("attn_out", "mean", "raw"),
        ("mlp_out", "one", "normalised"),
        # Heads have an axis of their own: every value of both.
        *(("z", of, value) for of in ("mean", "one") for value in ("raw", "normalised", "change")),
    ):
        page.session_state["view"] = replace(page.session_state["view"], site=site)
        switched(page, patch_of=of, patch_value=value)
        page.run()
        assert_fine(page)
        assert len(page.get("plotly_chart")) == (9 if site == "z" else 10)


def test_no_share_is_shown_of_an_effect_that_could_be_none(
    open_page: Open, record: RunRecord
) -> None:
    """Two pairs of a model that knows nothing: neither the mean nor one of them has a share."""
    page = open_page(root_of(record), query={"example": "0", "edges": "20"})
    switched(page, patch_value="normalised")
    for of in ("mean", "one"):
        switched(page, patch_of=of)
        page.session_state["view"] = replace(
            page.session_state["view"], cell=Cell("forward", 0, position=2)
        )
        page.run()
        assert_fine(page)
        assert "Patching the residual stream into block 0" in html(page)
        assert "of the way" not in html(page)
        figures = {
            chart.proto.id: json.loads(chart.proto.spec) for chart in page.get("plotly_chart")
        }
        (drawn,) = (fig for key, fig in figures.items() if "patching-forward" in key)
        assert "No share can be told" in json.dumps(drawn["layout"], ensure_ascii=False)
    switched(page, circuit_of="one")
    page.radio(key="page").set_value("circuit").run()
    assert_fine(page)
    assert "of what the whole model does" not in html(page)
    assert "No share can be told" in html(page)
    assert "this pair only, on which it was also found" in html(page)


def test_the_mean_map_and_its_sentence_tell_the_same_share() -> None:
    rng = np.random.default_rng(0)
    corrupt = rng.normal(size=8)
    clean = corrupt + 4 + rng.normal(size=8) / 4
    patched = (corrupt + (clean - corrupt) * rng.uniform(0.5, 0.9, size=8))[:, None, None]
    result = xr.Dataset(
        {
            "patched": (("example", "layer", "head"), patched),
            "clean": ("example", clean),
            "corrupt": ("example", corrupt),
        },
        coords={"layer": [0], "head": [0]},
        attrs={"site": "z", "metric": "logit_diff", "unit": "logits", "direction": "denoising"},
    )
    share = float(normalised(result).mean("example")[0, 0])
    said = sentence(Map("forward", result, None, None, {}, ""), (0, 0))
    assert said is not None
    assert f"{round(100 * share)}% of the way" in said
    # A cell that one pair has is no mean, and of one pair there is no share.
    rare = result.assign(patched=result["patched"].where(result["corrupt"] == corrupt[0]))
    said = sentence(Map("forward", rare, None, None, {}, ""), (0, 0))
    assert said is not None
    assert said.startswith("Of 1 pair. ")
    assert "%" not in said.partition("95%")[0]
    assert "of the way" not in said
    shuffled = result.assign(clean=("example", corrupt - rng.normal(size=8)))
    said = sentence(Map("forward", shuffled, None, None, {}, ""), (0, 0))
    assert said is not None
    assert "%" not in said
    assert "No share can be told" in said


def test_hostile_names_reach_the_page_as_text_only(open_page: Open, record: RunRecord) -> None:
    page = open_page(root_of(record), query={"example": "1"})
    assert_fine(page)
    assert "<img" not in html(page)
    assert "Ann &lt;img src=x onerror=alert(1)&gt;" in html(page)
    assert all("<img" not in str(element.value) for element in page.markdown)
    figures = [json.loads(chart.proto.spec) for chart in page.get("plotly_chart")]
    drawn = json.dumps([[figure["data"], figure["layout"]] for figure in figures])
    assert HOSTILE not in drawn
    assert "&lt;img src=x onerror=alert(1)&gt;" in drawn


def test_the_list_stands_where_the_page_does_however_often_it_is_drawn(
    open_page: Open, record: RunRecord, model_folder: Path
) -> None:
    """A browser that is told once only has the first of the list when that page is replaced."""
    query = {"model": str(model_folder), "page": "start"}
    page = open_page(root_of(record), query=query)
    for _ in range(2):
        (chosen,) = page.sidebar.selectbox
        assert chosen.proto.set_value
        assert (chosen.value.kind, chosen.value.name) == ("model", str(model_folder))
        assert chosen.proto.raw_value == f"Model: {model_folder.name}"
        page.run()


def test_a_link_to_a_run_that_is_gone_is_told(open_page: Open, record: RunRecord) -> None:
    page = open_page(root_of(record), query={"run": "../../etc"})
    assert not page.exception
    for _ in range(2):  # until another one is chosen
        assert "There is no run" in page.error[0].value
        assert "of another one" in page.error[0].value
        assert "Tom Cruise" in html(page)
        page.run()
    (chosen,) = page.sidebar.selectbox
    chosen.set_value(chosen.options[1]).run()
    assert_fine(page)


def test_a_run_given_on_the_command_line_is_opened_first(
    open_page: Open, record: RunRecord, tmp_path: Path
) -> None:
    page = open_page(tmp_path, "--run", str(record.path))
    assert_fine(page)
    assert "Tom Cruise  ·  Mary Lee Pfeiffer" in html(page)


def test_ranks_are_those_of_the_report(open_page: Open, record: RunRecord) -> None:
    page = open_page(root_of(record), query={"example": "0"})
    stored = record.table("facts").set_index("fact")
    shown = page.dataframe[0].value
    assert list(shown["reverse_rank"]) == [rank + 1 for rank in stored["reverse_rank"]]
    row = stored.loc[0]
    assert not row["reverse_correct"]
    assert f"starts at rank {row['reverse_rank'] + 1:,}<" in html(page)


def test_an_unexpected_error_is_a_sentence_too(
    open_page: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: Any, **named: Any) -> None:
        raise ZeroDivisionError("secret <b>")

    monkeypatch.setattr("app.runs.find", fail)
    page = open_page(tmp_path)
    assert not page.exception
    assert "ZeroDivisionError" in page.error[0].value
    assert "secret" not in page.error[0].value


def test_what_goes_wrong_on_a_page_leaves_the_sidebar(
    open_page: Open, record: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: Any, **named: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("app.panels.example.show", fail)
    page = open_page(root_of(record))
    assert not page.exception
    (error,) = page.error
    assert "ZeroDivisionError" in error.value
    assert "Pin this" in [one.label for one in page.sidebar.button]


def test_nothing_of_torch_is_imported_to_show_what_lies_on_disk() -> None:
    code = (
        "import sys, app.views.frame, interp.figures as f; "
        "print([m for m in ('torch', 'transformers', 'transformer_lens') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("model", "told"),
    [("gpt2", "gpt2"), (None, "organisms of its own"), ("", "organisms of its own")],
)
def test_a_study_that_trained_its_models_says_so(model: str | None, told: str) -> None:
    record = SimpleNamespace(config={"model": model})
    run = runs.Run(cast(RunRecord, record))
    assert run.studied == told
    assert run.model.source == (model or "")  # nothing is looked for where there is none
