"""Runs of the toy study to be damaged, and what a run has computed."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
import typer.testing

from experiments.runner import run_study
from tests.experiments import toy


@pytest.fixture(scope="session", autouse=True)
def one_command() -> Iterator[None]:
    """Typer makes the commands out of the functions once, not each time that one is called."""
    with pytest.MonkeyPatch.context() as patch:
        made = functools.cache(typer.main.get_command)
        patch.setattr(typer.main, "get_command", made)
        patch.setattr(typer.testing, "_get_command", made)
        yield


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole")
    return run_study(toy.STUDY, toy.Config(), out=root / "run", model=toy.fake_model()).path


@pytest.fixture
def bad(whole: Path, tmp_path: Path) -> Path:
    """A finished run, to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "runs" / "bad"))


@pytest.fixture
def calls(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Returns what was computed since it was last asked."""
    log = tmp_path_factory.mktemp("log") / "log"
    monkeypatch.setenv("TOY_LOG", str(log))

    def read() -> list[str]:
        lines = log.read_text().split("\n")[:-1] if log.exists() else []
        log.unlink(missing_ok=True)
        return lines

    return read
