"""What the runner refuses, and leaves as it was."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from experiments.errors import RunError, StorageError
from experiments.organisms.bundled import reversal_curse
from experiments.records import RunRecord
from experiments.runner import run_study
from experiments.study import Study, Verdict
from tests.experiments import toy
from tests.experiments.running import ROOT, WHOLE, run, snapshot, start_child, values

pytestmark = pytest.mark.slow


def test_a_directory_of_another_run_is_refused_untouched(tmp_path: Path) -> None:
    run(tmp_path / "run")
    before = snapshot(tmp_path)
    with pytest.raises(RunError, match=r"other settings \(seed 0, not 1\).*--out.*--fresh"):
        run(tmp_path / "run", seed=1)
    with pytest.raises(RunError, match="size 7, not 8"):
        run(tmp_path / "run", toy.Config(size=8))
    another = Study("other", "", "", toy.Config, toy.run)
    for fresh in (False, True):
        with pytest.raises(RunError, match="holds a run of the study 'toy', not 'other'"):
            run_study(another, toy.Config(), out=tmp_path / "run", fresh=fresh)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("name", ["notes.txt", "config.json"])
def test_a_folder_of_something_else_is_refused_untouched(
    tmp_path: Path, fresh: bool, name: str
) -> None:
    (tmp_path / name).write_text('{"model_type": "llama"}')
    before = snapshot(tmp_path)
    with pytest.raises(RunError, match="choose"):
        run(tmp_path, fresh=fresh)
    assert snapshot(tmp_path) == before


def test_an_empty_folder_is_fine_and_a_file_is_not(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / "empty").finished
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="is a file"):
        run(tmp_path / "file")
    with pytest.raises(StorageError, match="not a folder"):
        run(tmp_path / "file" / "run")


def test_another_model_is_refused_on_resume_and_after(tmp_path: Path) -> None:
    child = start_child(tmp_path / "run", "field")
    child.kill()
    child.communicate(timeout=30)
    other = toy.fake_model(fingerprint="0" * 32)
    with pytest.raises(RunError, match=r"not the model.*--fresh.*--out"):
        run(tmp_path / "run", model=other)
    run(tmp_path / "run")
    with pytest.raises(RunError, match="not the model"):
        run(tmp_path / "run", model=other)
    assert run(tmp_path / "run", model=other, fresh=True).provenance.model == {
        "source": "toy",
        "name": "toy",
        "fingerprint": "0" * 32,
        "tokenizer": "e" * 32,
        "revision": None,
    }


def test_another_tokenizer_is_another_model(tmp_path: Path) -> None:
    run(tmp_path / "run")
    other = toy.fake_model(tokenizer="0" * 32)
    with pytest.raises(RunError, match=r"tokenizer of 'toy' is not the one.*--fresh"):
        run(tmp_path / "run", model=other)
    assert run(tmp_path / "run").finished
    assert run(tmp_path / "run", model=other, fresh=True).finished


def test_a_changed_input_file_is_refused(tmp_path: Path) -> None:
    facts = tmp_path / "facts.csv"
    facts.write_text("a,b\n")
    config = toy.Config(facts=str(facts))
    record = run(tmp_path / "run", config)
    assert list(record.provenance.inputs) == ["facts"]
    assert run(tmp_path / "run", config).finished
    facts.write_text("a,c\n")
    with pytest.raises(RunError, match="'facts' changed since"):
        run(tmp_path / "run", config)
    assert run(tmp_path / "run", config, fresh=True).finished


def test_a_changed_file_of_a_given_folder_is_refused(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "pairs.csv").write_text("a,b\n")

    def read(config: toy.Config, context: Any) -> list[Verdict]:
        context.input_file("pairs.csv", Path(str(config.facts)) / "pairs.csv")
        return []

    def again() -> RunRecord:
        study = Study("toy", "", "", toy.Config, read)
        return run_study(study, toy.Config(facts=str(data)), out=tmp_path / "run")

    first = again()
    assert again().provenance.finished == first.provenance.finished
    (data / "pairs.csv").write_text("a,c\n")
    with pytest.raises(RunError, match=r"'pairs\.csv' changed since"):
        again()
    shutil.rmtree(data)
    assert again().provenance.finished == first.provenance.finished


def test_a_folder_that_is_called_as_a_bundled_model_is_not_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def read(config: toy.Config, context: Any) -> list[Verdict]:
        context.input_file("facts.csv", reversal_curse() / "facts.csv")
        return []

    study, config = Study("toy", "", "", toy.Config, read), toy.Config(model="reversal-curse")
    first = run_study(study, config, out=tmp_path / "run")
    for name in ("reversal-curse", "custom"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "facts.csv").write_text("of another organism")
    again = run_study(study, config, out=tmp_path / "run")
    assert again.provenance.finished == first.provenance.finished


@pytest.mark.parametrize("first", [True, False], ids=["removed", "added"])
def test_a_file_that_came_or_went_meanwhile_is_noticed(tmp_path: Path, first: bool) -> None:
    path = tmp_path / "words.json"

    def put(there: bool) -> None:
        if there:
            path.write_text("{}")
        else:
            path.unlink(missing_ok=True)

    def read(config: toy.Config, context: Any) -> list[Verdict]:
        if path.exists():
            context.input_file("words.json", path)
        else:
            context.no_input_file("words.json")
        return []

    def again() -> RunRecord:
        study = Study("toy", "", "", toy.Config, read)
        return run_study(study, toy.Config(facts="x"), out=tmp_path / "run")

    put(first)
    again()
    (tmp_path / "run/verdicts.json").unlink()  # as if it had been stopped
    put(not first)
    with pytest.raises(RunError, match=r"'words\.json' changed since"):
        again()
    put(first)
    assert again().finished


def test_two_processes_cannot_share_a_directory(tmp_path: Path) -> None:
    child = start_child(tmp_path / "run", "long 2")
    before = snapshot(tmp_path)
    try:
        for fresh in (False, True):
            with pytest.raises(RunError, match=f"in use by process {child.pid}"):
                run(tmp_path / "run", fresh=fresh)
        assert snapshot(tmp_path) == before
    finally:
        child.kill()
        child.communicate(timeout=30)
    assert run(tmp_path / "run").finished


def test_fresh_removes_the_runners_files_and_no_others(tmp_path: Path, calls: Any) -> None:
    run(tmp_path / "run")
    (tmp_path / "run/notes.txt").write_text("mine")
    (tmp_path / "run/results/mine.parquet").write_text("mine too")
    calls()
    record = run(tmp_path / "run", toy.Config(size=8), fresh=True)
    assert calls() == WHOLE
    assert len(record.table("numbers")) == 8
    assert (tmp_path / "run/notes.txt").read_text() == "mine"
    assert (tmp_path / "run/results/mine.parquet").read_text() == "mine too"


def test_a_full_disk_is_one_sentence_and_the_run_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: Any
) -> None:
    """The kernel refuses to write more than 3 kB a file, as a full disk would."""
    script = (
        "import resource, sys; from pathlib import Path; from cache.errors import StorageError\n"
        "from tests.experiments import toy; from experiments.runner import run_study\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\n"
        "try: run_study(toy.STUDY, toy.Config(), out=Path(sys.argv[1]), model=toy.fake_model())\n"
        "except StorageError as error: print(error)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "run")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "field.nc' cannot be written" in ended.stdout
    assert calls() == ["numbers", "field"]
    assert values(run(tmp_path / "run")) == values(run(tmp_path / "whole"))
    assert calls()[0] == "field"


def test_a_study_that_refuses_at_once_leaves_no_directory(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"missing\.csv' cannot be read"):
        run(tmp_path / "run", toy.Config(facts=str(tmp_path / "missing.csv")))
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_after_the_first_result_keeps_it(tmp_path: Path) -> None:
    def refuse(config: toy.Config, context: Any) -> list[Verdict]:
        toy.run(config, context)
        raise RunError("No.")

    study = Study("toy", "", "", toy.Config, refuse)
    with pytest.raises(RunError, match=r"No\."):
        run_study(study, toy.Config(), out=tmp_path / "run", model=toy.fake_model())
    assert RunRecord.open(tmp_path / "run").names() == ["numbers", "field", "long"]


def test_a_negative_seed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="seed is -1"):
        run(tmp_path / "run", seed=-1)
    assert not (tmp_path / "run").exists()


def test_a_finished_run_opens_from_a_read_only_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "run")

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was written")

    opened = os.open

    def reading(path: Any, flags: int, *rest: Any) -> int:
        assert not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT), path
        return opened(path, flags, *rest)

    monkeypatch.setattr(os, "open", reading)
    monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.setattr(Path, "mkdir", refuse)
    assert run(tmp_path / "run").finished


def test_a_model_folder_that_changed_after_the_run_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "organism"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    os.utime(folder / "config.json", (0, 0))
    loaded: list[str] = []
    fingerprint = "a" * 32

    def load_model(source: str, **_: object) -> Any:
        loaded.append(source)
        return toy.fake_model(fingerprint, source)

    monkeypatch.setattr("interp.load_model", load_model)
    config = toy.Config(model=str(folder))
    time.sleep(1.1)  # runs note their start in whole seconds
    run(tmp_path / "run", config, model=None)
    run(tmp_path / "run", config, model=None)
    assert loaded == [str(folder)]
    later = time.time() + 10
    os.utime(folder / "config.json", (later, later))
    run(tmp_path / "run", config, model=None)
    assert loaded == [str(folder)] * 2
    # Another model put into its place, whose files are older than the run.
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text("{}")
    os.utime(other / "config.json", (0, 0))
    folder.rename(tmp_path / "away")
    other.rename(folder)
    fingerprint = "b" * 32
    with pytest.raises(RunError, match="not the model"):
        run(tmp_path / "run", config, model=None)
