"""The tiny model and its run, made once."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.engine import Engine, ModelSpec
from experiments.records import RunRecord
from interp.model import load_model
from tests.app import material


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return material.make_model(tmp_path_factory.mktemp("explorer") / "tiny")


@pytest.fixture(scope="session")
def record(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    return material.make_run(tmp_path_factory.mktemp("runs"), model_folder)


@pytest.fixture(scope="session")
def spec(model_folder: Path) -> ModelSpec:
    return ModelSpec(str(model_folder))


@pytest.fixture(scope="session")
def engine() -> Engine:
    """An engine that loads each model once."""
    loaded = functools.cache(lambda spec: load_model(spec.source))
    return Engine(loaded)


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    with material.one_thread():
        yield
