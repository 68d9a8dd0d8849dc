"""Runs are written so that a kill, a reader and a link do no harm."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cache import files
from experiments.errors import StorageError
from experiments.records import RunRecord
from experiments.run_directory import provenance
from experiments.runner import run_study
from tests.experiments import toy
from tests.experiments.damaging import FILES, run, said

pytestmark = pytest.mark.slow


class Killed(BaseException):
    """As SIGKILL: nothing that tidies up after an error may be relied on."""


def test_a_kill_between_any_two_steps_leaves_a_run_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every renaming and every removal of a file is the last thing that is done."""

    def small(out: Path) -> RunRecord:
        return run_study(toy.STUDY, toy.Config(size=3), out=out, model=toy.fake_model())

    expected = small(tmp_path / "whole")
    replace = os.replace
    steps = 0
    last = 0

    def counted(act: Callable[..., None]) -> Callable[..., None]:
        def wrapper(*arguments: Any, **options: Any) -> None:
            nonlocal steps
            act(*arguments, **options)
            steps += 1
            if steps == last:
                raise Killed

        return wrapper

    monkeypatch.setattr(files.os, "replace", counted(replace))
    monkeypatch.setattr(Path, "unlink", counted(Path.unlink))
    # What is on the disk after a power cut is the file system's matter; this is about the order.
    monkeypatch.setattr(files, "flush", lambda _: None)
    monkeypatch.setattr(provenance, "code_revision", lambda: None)
    monkeypatch.setattr(provenance, "package_versions", dict)
    for judged in (False, True):
        for last in itertools.count(1):
            out = tmp_path / f"{judged}-{last}"
            if judged:  # a finished run whose verdicts were lost
                shutil.copytree(expected.path, out)
                os.unlink(out / "verdicts.json")
            steps = 0
            try:
                small(out)
            except Killed:
                steps = -(10**6)
            else:
                break
            if (out / "provenance.json").exists() and not judged:
                assert RunRecord.open(out).verdicts in ((), expected.verdicts)
            ended = small(out)
            assert ended.verdicts == expected.verdicts
            assert ended.damage() == []
        assert last > 5 + 15 * (not judged)


def test_a_run_that_is_at_work_can_be_opened_at_any_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a reader sees after each step of the writer is a run, never damage."""
    replace = os.replace
    opened: list[bool] = []

    def watched(*arguments: Any) -> None:
        replace(*arguments)
        if (tmp_path / "run/provenance.json").exists():
            opened.append(RunRecord.open(tmp_path / "run").finished)

    monkeypatch.setattr(files.os, "replace", watched)
    run(tmp_path / "run")
    assert opened[-1]
    assert not opened[0]
    assert len(opened) > 15


@pytest.mark.parametrize("name", [*FILES, "report.html", "results/field.nc", ".lock"])
def test_nothing_is_written_through_a_link(tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    run(tmp_path / "run")
    path = tmp_path / "run" / name
    path.unlink()
    path.symlink_to(victim)
    for options in ({}, {"fresh": True}):
        said(lambda options=options: run(tmp_path / "run", **options))
        assert victim.read_text() == "precious"


def test_a_hard_link_as_lock_is_left_alone(bad: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (bad / ".lock").unlink()
    os.link(victim, bad / ".lock")
    with pytest.raises(StorageError, match="hard link"):
        run(bad, fresh=True)
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("name", ["results", "results/.chunks", "results/.chunks/long"])
@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_that_is_a_link_out_is_refused(tmp_path: Path, name: str, fresh: bool) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    names = ["numbers.parquet", "000000.parquet", ".partial-1", "long.parquet"]
    for one in names:
        (outside / one).write_text("precious")
    record = run(tmp_path / "run")
    path = record.path / name
    if name == "results":
        shutil.rmtree(path)
    else:
        (record.path / "results/long.parquet").unlink()
        path.parent.mkdir(exist_ok=True)
    path.symlink_to(outside)
    with pytest.raises(StorageError, match=r"symbolic link"):
        run(tmp_path / "run", fresh=fresh)
    assert [(outside / one).read_text() for one in names] == ["precious"] * len(names)
    assert len(list(outside.iterdir())) == len(names)
    if name == "results":
        assert all("behind a symbolic link" in one for one in record.damage()[:3])


@pytest.mark.parametrize("name", ["a\0b", "x" * 300, "file/run", "dangling", "\udcff"])
def test_a_folder_that_cannot_be_is_one_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("precious")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    refusal = said(lambda: run(tmp_path / name))
    assert bool(refusal) == (name != "\udcff")
    assert not (tmp_path / "nowhere").exists()
