"""Runs that lack their model, were sent by somebody, are unfinished, or damaged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from app import resources
from experiments.records import RunRecord
from tests.app.pages import Open, assert_fine, html
from tests.experiments.sealing import edit

pytestmark = pytest.mark.slow


def copy(record: RunRecord, root: Path) -> Path:
    folder = root / "reversal-curse" / "copy"
    shutil.copytree(record.path, folder)
    return folder


def test_without_its_model_a_run_shows_what_it_stored(
    open_page: Open, record: RunRecord, tmp_path: Path
) -> None:
    folder = copy(record, tmp_path)
    edit(folder / "config.json", model=str(tmp_path / "gone"))
    page = open_page(tmp_path)
    assert_fine(page)
    assert "Only what the run stored can be shown" in page.warning[0].value
    # The scatter, the ranks of the split, and both maps of a fact that the run has patched, with
    # their difference.
    assert len(page.get("plotly_chart")) == 5


def test_a_run_that_somebody_sent_fetches_no_model(
    open_page: Open, record: RunRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy(record, tmp_path)
    edit(folder / "config.json", model="somebody/something")
    asked: list[str] = []
    monkeypatch.setattr(resources.engine(), "about", lambda spec: asked.append(spec.source))
    page = open_page(tmp_path)
    assert_fine(page)
    assert "is no folder of this computer" in page.warning[0].value
    assert asked == []


def test_a_model_with_other_weights_is_told(
    open_page: Open, record: RunRecord, tmp_path: Path
) -> None:
    folder = copy(record, tmp_path)
    provenance = json.loads((folder / "provenance.json").read_text())
    edit(folder / "provenance.json", model=provenance["model"] | {"fingerprint": "0" * 32})
    page = open_page(tmp_path)
    assert_fine(page)
    assert "is not known to be the one that was studied" in page.warning[0].value
    # Once, where two of its questions are compared.
    sides = {name: f"run=reversal-curse/copy&example={n}" for name, n in (("a", 0), ("b", 4))}
    page = open_page(tmp_path, query={"page": "compare"} | sides)
    assert_fine(page)
    assert [str(one.value) for one in page.warning if "studied" in str(one.value)] == [
        str(page.warning[0].value)
    ]


def test_an_unfinished_run_says_how_to_go_on(
    open_page: Open, record: RunRecord, tmp_path: Path
) -> None:
    folder = copy(record, tmp_path)
    edit(folder / "provenance.json", finished=None)
    (folder / "verdicts.json").unlink()
    edit(folder / "stages.json", results={})
    page = open_page(tmp_path)
    assert_fine(page)
    assert "is not finished" in page.warning[0].value
    assert "has no results yet" in html(page)


def test_a_changed_result_is_an_error_in_one_sentence(
    open_page: Open, record: RunRecord, tmp_path: Path
) -> None:
    folder = copy(record, tmp_path)
    with (folder / "results" / "facts.parquet").open("ab") as file:
        file.write(b"x")
    page = open_page(tmp_path)
    assert not page.exception
    assert all("does not match its checksum" in error.value for error in page.error)
    assert page.error
    for name, title in (("study", "Stored tables"), ("prompt", "Any prompt"), ("jobs", "Running")):
        page.radio(key="page").set_value(name).run()
        assert not page.exception
        assert len(page.error) == 1  # once, however much of the page it is about
        assert title in html(page)


def test_a_figure_whose_numbers_are_damaged_leaves_the_rest(
    open_page: Open, record: RunRecord, tmp_path: Path
) -> None:
    folder = copy(record, tmp_path)
    (folder / "results" / "lens_forward.nc").write_bytes(b"x")
    page = open_page(tmp_path, query={"page": "study", "figure": "ranks"})
    assert not page.exception
    assert "lens" in page.error[0].value
    assert len(page.error) == 1
    assert "Stored tables" in html(page)


def test_a_damaged_run_does_not_hide_the_others(
    open_page: Open, record: RunRecord, tmp_path: Path
) -> None:
    copy(record, tmp_path)
    broken = tmp_path / "reversal-curse" / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{")
    page = open_page(tmp_path)
    assert_fine(page)
    assert [str(warning.value) for warning in page.warning] == []
    assert "Tom Cruise" in html(page)
    for query in ({"page": "start"}, {"run": "reversal-curse/broken"}):
        page = open_page(tmp_path, query=query)
        assert any("broken" in str(warning.value) for warning in page.warning)
