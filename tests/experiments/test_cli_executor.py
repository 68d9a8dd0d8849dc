"""The options that say where to compute."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.experiments.commands import is_one_sentence, toy

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers", "2"], "The serial executor has no 2 workers"),
        (["--executor", "processes", "--address", "10.0.0.1:6379"], "has no address"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_made(
    tmp_path: Path, options: list[str], message: str
) -> None:
    ended = toy("run", "toy", *options, cwd=tmp_path)
    assert ended.returncode == 2
    assert message in ended.stderr
    assert is_one_sentence(ended.stderr)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("value", [["--executor", "threads"], ["--workers", "0"]])
def test_what_no_executor_takes_is_a_usage_error(tmp_path: Path, value: list[str]) -> None:
    ended = toy("run", "toy", *value, cwd=tmp_path)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr


def test_a_run_is_the_same_run_under_another_executor(tmp_path: Path) -> None:
    first = toy("run", "toy", cwd=tmp_path, RAY_ADDRESS="10.0.0.1:6379")
    assert first.returncode == 0, first.stderr
    second = toy("run", "toy", "--executor", "processes", "--workers", "2", cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    assert "was finished" in second.stdout
    assert len(list((tmp_path / "runs/toy").iterdir())) == 1


def test_the_help_describes_them(tmp_path: Path) -> None:
    said = toy("run", "--help", cwd=tmp_path).stdout
    for words in ("--executor", "serial|processes|ray", "--workers", "--address", "RAY_ADDRESS"):
        assert words in said
