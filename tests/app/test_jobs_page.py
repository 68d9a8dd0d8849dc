"""The page of jobs, kept results, models and stores; and what it says of them."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import streamlit as st
import torch
from streamlit.testing.v1 import AppTest

from app.compute.background import brought, jobs
from app.panels.housekeeping import stores
from app.screen import live
from cache.store import ActivationStore
from experiments.records import RunRecord, list_runs
from experiments.run_directory import explored
from interp import load_model
from tests.app.pages import Open, assert_fine, html, root_of, turned_to

pytestmark = pytest.mark.slow

LONG = 60.0
ASK = {
    "clean": "Tom Cruise's mother is",
    "corrupt": "Cy Dale's mother is",
    "answer": "Mary",
    "foil": "Bea",
}


@pytest.fixture(autouse=True)
def nothing_goes_on() -> None:
    """Jobs are shared by a process: what other tests have left running is stopped."""
    from app import resources

    for job in resources.jobs().running():
        job.work.stop()
        job.work.wait(LONG)


@pytest.fixture
def run(record: RunRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run in which everything is kept."""
    monkeypatch.setattr(jobs, "KEPT_FROM", 0.0)
    folder = tmp_path / record.path.relative_to(root_of(record))
    shutil.copytree(record.path, folder)
    st.cache_resource.clear()  # nothing was computed yet
    return folder


def on(page: AppTest, name: str) -> AppTest:
    return turned_to(page, name)


def button(page: AppTest, label: str) -> Any:
    return next(one for one in page.button if one.label == label)


def test_a_map_is_kept_with_the_run_and_read_after_a_restart(
    open_page: Open, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = {"page": "prompt", **ASK}
    page = open_page(tmp_path, query=query)
    assert_fine(page)
    drawn = page.get("plotly_chart")[-1].proto.spec
    (one,), problems = explored.list_all(run)
    assert problems == []
    assert one.asked.kind == "patching"

    # The run is as it was: whole, listed, and the same run.
    record = RunRecord.open(run)
    assert record.damage() == []
    assert [found.path for found in list_runs(tmp_path)] == [run]

    st.cache_resource.clear()
    with monkeypatch.context() as patch:
        patch.setattr(
            "app.compute.background.requests.refined", lambda *_: pytest.fail("computed again")
        )
        page = open_page(tmp_path, query=query)
    assert_fine(page)
    assert page.get("plotly_chart")[-1].proto.spec == drawn
    assert "read from the run directory" in html(page)

    page.button(key="pin").click().run()
    page = on(page, "jobs")
    assert_fine(page)
    assert "Patching map of the residual stream" in html(page)
    assert str(run / "explored") in html(page)
    button(page, "Show").click().run()
    assert_fine(page)
    assert page.query_params["page"] == "prompt"
    assert page.query_params["clean"] == ASK["clean"]
    assert len(page.session_state["pins"]) == 1
    page = on(page, "jobs")
    button(page, "Delete it").click().run()
    assert_fine(page)
    assert "kept in" not in html(page).replace("kept in the run", "")
    assert explored.list_all(run) == ([], [])
    assert "Nothing is kept there yet" in html(page)


def test_a_damaged_file_is_told_and_computed_anew(
    open_page: Open, run: Path, tmp_path: Path
) -> None:
    query = {"page": "prompt", **ASK}
    open_page(tmp_path, query=query)
    (data,) = (run / "explored").glob("*.nc")
    data.write_bytes(data.read_bytes()[:-1])
    st.cache_resource.clear()
    page = open_page(tmp_path, query=query)
    assert_fine(page)
    assert "does not match its checksum" in "".join(str(one.value) for one in page.warning)
    assert "read from the run directory" not in html(page)


def test_a_reload_finds_its_job_going_on(
    open_page: Open, run: Path, tmp_path: Path, gate: threading.Event, monkeypatch: Any
) -> None:
    monkeypatch.setattr(live, "PATIENCE", 0.2)
    query = {"page": "prompt", **ASK}
    open_page(tmp_path, query=query)
    page = open_page(tmp_path, query=query)  # as after a reload: nothing of the session is left
    from app import resources

    (job,) = resources.jobs().running()
    assert any(held.job is job for held in page.session_state["waiting"].values())
    page = on(page, "jobs")
    assert_fine(page)
    assert "asked for here" in html(page)
    assert job.running
    button(page, "Cancel").click().run()
    gate.set()
    assert job.work.wait(LONG).stopped
    page.run()
    assert "cancelled after" in html(page)
    assert explored.list_all(run) == ([], [])


def test_a_models_own_examples_are_asked_as_a_job(
    open_page: Open, model_folder: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    """With the sidebar beside it, and a way to cancel."""
    st.cache_resource.clear()
    monkeypatch.setattr(live, "PATIENCE", 0.2)
    go, make = threading.Event(), brought.request

    def slow(*given: Any) -> Any:
        made = make(*given)

        def work(model: Any, tell: Any) -> Any:
            assert go.wait(LONG)
            yield from made.work(model, tell)

        return replace(made, work=work)

    monkeypatch.setattr(brought, "request", slow)
    page = open_page(tmp_path, query={"model": str(model_folder), "example": "1"})
    assert_fine(page)
    assert "brings nothing along" not in html(page)
    assert "Facts" not in html(page)
    assert [one.label for one in page.main.button] == ["Cancel"]
    assert "number 1" in html(page)
    from app import resources

    (job,) = resources.jobs().running()
    go.set()
    job.work.wait(LONG)
    page.run()
    assert_fine(page)
    assert "Facts" in html(page)
    assert "number 1" not in html(page)


def test_without_a_run_the_page_says_where_results_are(
    open_page: Open, model_folder: Path, tmp_path: Path
) -> None:
    page = open_page(tmp_path, query={"model": str(model_folder), "page": "jobs"})
    assert_fine(page)
    assert "results stay in memory" in html(page)
    assert "Nothing is computed in the background" in html(page)
    assert "memory are free" in html(page)


def test_models_can_be_forgotten(open_page: Open, model_folder: Path, tmp_path: Path) -> None:
    st.cache_resource.clear()
    page = open_page(tmp_path, query={"model": str(model_folder), "page": "prompt"})
    page = on(page, "jobs")
    assert "in float32 on cpu" in html(page)
    button(page, "Forget").click().run()
    assert_fine(page)
    assert "None; a page that needs one loads it." in html(page)


def test_stores_are_found_below_the_root_and_their_damage_is_seen(
    model_folder: Path, tmp_path: Path
) -> None:
    place = tmp_path / "study" / "run" / "<b>store"
    model = load_model(str(model_folder))
    with torch.no_grad(), ActivationStore(place) as store:
        store.get(model, [ASK["clean"]], "resid_post")
    (tmp_path / "link").symlink_to(place)
    assert stores.find(tmp_path) == [place]
    seen = stores.look(str(place))
    assert (seen.wrong, len(seen.holds)) == ((), 1)
    assert seen.size > 0
    assert "resid_post at 2 layers" in seen.holds[0]
    next(place.rglob("*.safetensors")).unlink()
    assert "1 of 1 files" in stores.look(str(place)).wrong[0]
    (place / "store.json").write_text("{}")
    assert stores.look(str(place)).wrong


def test_a_full_disk_is_a_sentence_and_the_result_is_there(
    open_page: Open, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    page = open_page(tmp_path, query={"page": "prompt", **ASK})
    assert_fine(page)
    assert json.loads(page.get("plotly_chart")[-1].proto.spec)["data"]
    said = [str(one.value).replace("\\", "") for one in page.warning]
    assert any(
        one.startswith("The result is in memory only:") and "no space left" in one for one in said
    )
    assert explored.list_all(run) == ([], [])
    assert RunRecord.open(run).damage() == []


def test_what_was_interrupted_is_told_and_begun_again(
    open_page: Open, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = "patching-" + "0" * 32
    folder = run / "explored"
    folder.mkdir(exist_ok=True)
    told = {"title": "A map <b>", "link": {"page": "prompt"} | ASK, "created": "2026-01-01T00:00"}
    (folder / f"{asked}.begun").write_text(json.dumps(told))
    page = open_page(tmp_path, query={"page": "jobs"})
    assert_fine(page)
    assert "Interrupted: begun" in html(page)
    assert "A map &lt;b&gt;" in html(page)
    button(page, "Begin it again").click().run()
    assert_fine(page)
    assert page.query_params["clean"] == ASK["clean"]
    page = on(page, "jobs")
    button(page, "Forget it").click().run()
    assert_fine(page)
    assert "Interrupted" not in html(page)


def test_work_that_takes_long_is_noted_while_it_goes_on(
    open_page: Open, run: Path, tmp_path: Path, gate: threading.Event, monkeypatch: Any
) -> None:
    monkeypatch.setattr(live, "PATIENCE", 0.5)
    page = open_page(tmp_path, query={"page": "prompt", **ASK})
    from app import resources

    (job,) = resources.jobs().running()
    noted = list((run / "explored").glob("*.begun"))
    page = on(page, "jobs")
    assert "Interrupted" not in html(page)
    gate.set()
    assert job.work.wait(LONG).result is not None
    assert len(noted) <= 1
    assert list((run / "explored").glob("*.begun")) == []
    assert len(explored.list_all(run)[0]) == 1
