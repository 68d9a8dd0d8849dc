"""Maps that are drawn while they are computed: on the page, and in the engine behind it."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import streamlit as st
import xarray as xr
from streamlit.testing.v1 import AppTest

from app.compute.background import jobs, requests
from app.compute.engine import Engine, ModelSpec
from app.compute.pairs import build, typed
from app.compute.refining import Refined, trust
from app.compute.work import Work
from app.screen import live
from app.selection import Cell, View
from experiments.explorer import Pair
from interp import load_model, sweep
from tests.app.pages import Open, assert_fine, html

pytestmark = pytest.mark.slow

LONG = 60.0
TEXTS = ("Tom Cruise's mother is", "Cy Dale's mother is", "Mary", "Bea")


@pytest.fixture
def pair() -> Pair:
    return typed(*TEXTS)


def begin(
    engine: Engine, spec: ModelSpec, pair: Pair, site: str, *, run: bool = True
) -> Work[Refined]:
    asked = requests.patching(spec, pair, site, run=run)
    return jobs.Jobs(engine.turns, lambda session: True).ask(asked, "me").work


def exact_patches(spec: ModelSpec, pair: Pair, site: str) -> np.ndarray:
    model = load_model(spec.source)
    patched: np.ndarray = sweep(model, build(model, [pair]), site)["patched"].values
    return patched


@pytest.mark.parametrize("site", ["resid_pre", "z"])
def test_a_refined_map_ends_as_the_sweep(
    fresh: Engine, spec: ModelSpec, pair: Pair, site: str
) -> None:
    end = begin(fresh, spec, pair, site).wait(LONG)
    assert not end.running
    assert end.result is not None
    assert end.done == end.total == end.result.result["exact"].size
    np.testing.assert_allclose(
        end.result.result["patched"].values, exact_patches(spec, pair, site), atol=1e-5
    )
    assert end.result.result["exact"].all()
    assert not end.result.estimate["exact"].any()
    again = begin(fresh, spec, pair, site).wait(LONG)
    assert again.result is end.result


def test_without_runs_a_map_stays_an_estimate(fresh: Engine, spec: ModelSpec, pair: Pair) -> None:
    end = begin(fresh, spec, pair, "resid_pre", run=False).wait(LONG)
    assert end.result is not None
    assert not end.result.result["exact"].any()


def test_others_get_their_turn_while_a_map_is_refined(
    fresh: Engine, spec: ModelSpec, pair: Pair, gate: threading.Event
) -> None:
    work = begin(fresh, spec, pair, "resid_pre")
    with ThreadPoolExecutor(1) as pool:
        lens = pool.submit(fresh.lens, spec, TEXTS[0], None).result(timeout=LONG)
    assert lens.sizes["layer"] == 3
    assert work.stand.running
    work.stop()
    gate.set()
    end = work.wait(LONG)
    assert end.stopped
    # What was stopped is not kept as if it were whole.
    whole = begin(fresh, spec, pair, "resid_pre").wait(LONG)
    assert whole.result is not None
    assert whole.result.result["exact"].all()


def test_trust_compares_only_what_was_run() -> None:
    def result(patched: list[list[float]], exact: list[list[bool]]) -> xr.Dataset:
        return xr.Dataset(
            {
                "patched": (("example", "layer", "head"), [patched]),
                "clean": ("example", [5.0]),
                "corrupt": ("example", [0.0]),
                "exact": (("layer", "head"), exact),
            },
            coords={"layer": [0, 1]},
            attrs={"direction": "denoising"},
        )

    estimate = result([[1.0, 2.0], [-1.0, 9.0]], [[False, False], [False, False]])
    assert trust(Refined(estimate, estimate)) is None
    found = trust(
        Refined(estimate, result([[2.0, 4.0], [1.0, 9.0]], [[True, True], [True, False]]))
    )
    assert found is not None
    assert found.n_cells == 3
    assert found.correlation == pytest.approx(np.corrcoef([1, 2, -1], [2, 4, 1])[0, 1])
    assert found.sign_flips == pytest.approx(1 / 3)


def own(model_folder: Path, **more: str) -> dict[str, str]:
    names = ("clean", "corrupt", "answer", "foil")
    asked = dict(zip(names, TEXTS, strict=True))
    return {"model": str(model_folder), "page": "prompt", **asked, **more}


def chart(page: AppTest, number: int = -1) -> Any:
    return json.loads(page.get("plotly_chart")[number].proto.spec)


def hatched(page: AppTest) -> bool:
    return any(trace.get("name") == "estimated" for trace in chart(page)["data"])


def buttons(page: AppTest) -> list[str]:
    return [button.label for button in page.button]


@pytest.fixture
def estimated(
    open_page: Open,
    gate: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
    model_folder: Path,
    tmp_path: Path,
) -> AppTest:
    """A page on which a map is estimated and not yet refined; from the gate on it is waited for."""
    st.cache_resource.clear()  # an engine that has computed nothing yet
    monkeypatch.setattr(live, "PATIENCE", 0.0)
    page = open_page(tmp_path, query=own(model_folder))
    deadline = time.monotonic() + LONG
    while "Estimating" in progress(page) and time.monotonic() < deadline:
        page.run()
    assert_fine(page)
    return page


def progress(page: AppTest) -> str:
    return " ".join(str(element.proto.text) for element in page.get("progress"))


def test_the_estimate_is_there_at_once_and_exact_values_replace_it(
    estimated: AppTest, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hatched(estimated)
    assert "Cancel" in buttons(estimated)
    finish(gate, monkeypatch)
    estimated.run()
    assert_fine(estimated)
    assert not hatched(estimated)
    assert "Cancel" not in buttons(estimated)
    assert "cells that were run: correlation" in html(estimated)


def test_work_can_be_cancelled_and_taken_up_again(
    estimated: AppTest, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    button(estimated, "Cancel").click()
    finish(gate, monkeypatch)
    estimated.run()
    assert_fine(estimated)
    assert hatched(estimated)
    assert "Cancel" not in buttons(estimated)
    button(estimated, "Run every cell").click().run()
    assert_fine(estimated)
    assert not hatched(estimated)


def test_choosing_something_else_stops_the_work(
    estimated: AppTest, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    (waiting,) = estimated.session_state["waiting"].values()
    view: View = estimated.session_state["view"]
    estimated.session_state["view"] = replace(view, site="z")
    estimated.run()
    assert list(estimated.session_state["waiting"].values()) != [waiting]
    finish(gate, monkeypatch)
    assert waiting.job.work.wait(LONG).stopped
    estimated.run()
    assert_fine(estimated)
    assert not hatched(estimated)


def test_a_chosen_cell_that_was_only_estimated_says_so(
    estimated: AppTest, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    view: View = estimated.session_state["view"]
    estimated.session_state["view"] = replace(view, cell=Cell("clean", 0, position=2))
    estimated.run()
    assert_fine(estimated)
    assert "By estimate, patching the residual stream into block 0 at ‘Cruise’" in html(estimated)
    finish(gate, monkeypatch)
    estimated.run()
    assert "By estimate" not in html(estimated)
    assert "Patching the residual stream into block 0 at ‘Cruise’" in html(estimated)


def test_large_models_are_only_estimated_until_their_cells_are_asked_for(
    open_page: Open, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "SMALL", 0)
    page = open_page(tmp_path, query=own(model_folder, site="mlp_out"))
    assert_fine(page)
    assert hatched(page)
    button(page, "Run every cell").click().run()
    assert_fine(page)
    assert not hatched(page)
    assert "Run every cell" not in buttons(page)


def finish(gate: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let work go on, and have the page wait for it."""
    monkeypatch.setattr(live, "PATIENCE", LONG)
    gate.set()


def button(page: AppTest, label: str) -> Any:
    return next(one for one in page.button if one.label == label)


def test_what_goes_wrong_in_a_fragment_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def script() -> None:
        from types import SimpleNamespace

        from app.compute.work import Work
        from app.screen import live
        from cache.errors import ObverseError

        def for_ever(tell: object) -> object:
            import time

            while True:
                time.sleep(0.01)
                yield 1

        def show() -> None:
            raise ObverseError("The model is gone; open another one.")

        work = Work(for_ever)  # type: ignore[arg-type]
        live.draw([SimpleNamespace(work=work)], show)  # type: ignore[list-item]
        work.stop()

    monkeypatch.setattr(live, "PATIENCE", 0.0)
    page = AppTest.from_function(script, default_timeout=60).run()
    assert not page.exception
    assert [str(error.value) for error in page.error] == ["The model is gone; open another one\\."]


class Going:
    """Work that takes a while, and a place that tells what stands in it."""

    def __init__(self, seconds: float) -> None:
        self.told: list[str] = []

        def steps(progress: Any) -> Any:
            time.sleep(seconds)
            yield 1

        self.work = Work(steps)

    def html(self, text: str) -> None:
        self.told.append(text)

    def empty(self) -> None:
        self.told.append("")


@pytest.mark.parametrize("over", [False, True])
def test_what_is_done_is_told_at_once_in_the_place_that_it_will_take(
    monkeypatch: pytest.MonkeyPatch, over: bool
) -> None:
    going = Going(0.0 if over else 0.3)
    monkeypatch.setattr(live.st, "empty", lambda: going)
    monkeypatch.setattr(live.state, "page", View)
    if over:
        going.work.wait(LONG)
    live.draw([going], lambda: going.told.append("drawn"), doing="Patching <b>", height=321)
    *before, emptied, drawn = going.told
    assert (emptied, drawn) == ("", "drawn")
    assert len(before) == (not over)
    for text in before:
        assert "min-height:321px" in text
        assert "Patching &lt;b&gt; …" in text
