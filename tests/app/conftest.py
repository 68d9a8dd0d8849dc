"""The tiny model and its run, made once."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import plotly.graph_objects as go
import pytest
from streamlit.components.v2 import manifest_scanner
from streamlit.runtime.scriptrunner import script_runner
from streamlit.testing.v1 import AppTest

from app.compute.background import jobs
from app.compute.engine import Engine, ModelSpec
from app.screen import live
from experiments.explorer import Examples, Way
from experiments.records import RunRecord
from experiments.reversal_curse.explorer import page
from interp.loading.load import load_model
from interp.model.model import Model
from tests.app import material
from tests.app.pages import MAIN, Open
from tests.app.slowed import slowed


@pytest.fixture(autouse=True)
def runs_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test computes is not kept in a run that other tests read; see `test_kept.py`."""
    monkeypatch.setattr(jobs, "KEPT_FROM", float("inf"))


@pytest.fixture(autouse=True)
def own_main(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streamlit's test page puts itself in the place of `__main__`, which spawned processes run."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return material.study_once(tmp_path_factory) / "tiny"


@pytest.fixture(scope="session")
def record(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    return material.run_once(tmp_path_factory)


@pytest.fixture(scope="session")
def spec(model_folder: Path) -> ModelSpec:
    return ModelSpec(str(model_folder))


@functools.cache
def loaded(spec: ModelSpec) -> Model:
    """Each model once."""
    return load_model(spec.source)


@pytest.fixture(scope="session")
def examples() -> Examples:
    """What the study tells of its facts."""
    found = page().examples
    assert found is not None
    return found


@pytest.fixture(scope="session")
def ways(examples: Examples) -> dict[str, Way]:
    return {way.name: way for way in examples.ways}


@pytest.fixture(scope="session")
def engine() -> Engine:
    """An engine that keeps what it has computed for other tests."""
    return Engine(loaded)


@pytest.fixture
def fresh() -> Engine:
    """An engine that has computed nothing yet."""
    return Engine(loaded)


@pytest.fixture
def open_page(monkeypatch: pytest.MonkeyPatch) -> Open:
    """Opens the page on a folder of runs, with the address's parameters, and waits for its work.

    The model that the address names counts as one that the user has agreed to, unless told.
    """
    monkeypatch.setattr(live, "PATIENCE", 60.0)

    def run(
        root: Path, *arguments: str, query: dict[str, str] | None = None, agreed: bool = True
    ) -> AppTest:
        monkeypatch.setattr(sys, "argv", ["main.py", "--root", str(root), *arguments])
        page = AppTest.from_file(str(MAIN), default_timeout=120)
        for name, value in (query or {}).items():
            page.query_params[name] = value
        if query and "model" in query and agreed:
            page.session_state["asked_for"] = {query["model"]}
        return page.run()

    return run


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Holds all jobs after each result until it is set."""
    gate = threading.Event()
    monkeypatch.setattr(
        "app.compute.background.jobs.Work", slowed(lambda stop, number: gate.wait(60.0))
    )
    yield gate
    gate.set()


@pytest.fixture
def run_code(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a snippet and gives the figure it shows."""
    shown: list[go.Figure] = []
    monkeypatch.setattr(go.Figure, "show", lambda self: shown.append(self))

    def run(code: str) -> go.Figure:
        exec(compile(code, "snippet", "exec"), {})
        return shown.pop()

    return run


@pytest.fixture(autouse=True, scope="session")
def components_once() -> Iterator[None]:
    """Streamlit looks for components in all that is installed, each time that a page opens."""
    with pytest.MonkeyPatch.context() as patch:
        found = functools.cache(manifest_scanner.scan_component_manifests)
        patch.setattr(manifest_scanner, "scan_component_manifests", found)
        yield


@pytest.fixture(autouse=True, scope="session")
def garbage_as_elsewhere() -> Iterator[None]:
    """Streamlit looks through all objects after each page: a fifth of a second, when it is not in a
    process of its own. Python looks for garbage as in other tests (`tests/conftest.py`)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script_runner, "gc", SimpleNamespace(collect=lambda *_: 0))
        yield


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    with material.one_thread():
        yield
