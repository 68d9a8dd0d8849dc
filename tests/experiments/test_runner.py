from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from cache import files
from experiments.errors import RunError, StorageError
from experiments.records import RunRecord
from experiments.reporter import QuietReporter
from experiments.run_directory.schema import SCHEMA
from experiments.runner import run_study
from experiments.study import Study, Verdict
from tests.experiments import toy
from tests.experiments.sealing import edit

ROOT = Path(__file__).parents[2]


class Ears(QuietReporter):
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.kept_names: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def kept(self, name: str) -> None:
        self.kept_names.append(name)


def run(out: Path | None, config: toy.Config | None = None, **options: Any) -> RunRecord:
    options.setdefault("model", toy.fake_model())
    return run_study(toy.STUDY, config or toy.Config(), out=out, **options)


def values(record: RunRecord) -> dict[str, Any]:
    """Everything a run found, as plain values."""
    return {
        "numbers": record.table("numbers").to_dict("list"),
        "long": record.table("long").to_dict("list"),
        "field": record.dataset("field").to_dict(),
        "verdicts": [verdict.to_dict() for verdict in record.verdicts],
        "report": (record.path / "report.html").read_text(),
    }


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


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


WHOLE = ["numbers", "field", "long 0", "long 2", "long 4", "long 6", "report"]


def test_a_run_leaves_what_the_layout_promises(tmp_path: Path) -> None:
    record = run(tmp_path / "run", seed=3, preset="quick")
    found = {str(p.relative_to(record.path)) for p in record.path.rglob("*") if p.is_file()}
    assert found == {
        ".lock",
        "config.json",
        "provenance.json",
        "report.html",
        "results/field.nc",
        "results/long.parquet",
        "results/numbers.parquet",
        "stages.json",
        "verdicts.json",
    }
    assert json.loads((record.path / "config.json").read_text()) == {
        "schema": SCHEMA,
        "study": "toy",
        "preset": "quick",
        "seed": 3,
        "dtype": "float32",
        "model": "toy",
        "size": 7,
        "facts": None,
        "pair": [1, 2],
    }
    # Readable without this package, and equal to what a generator seeded alike gives.
    expected = toy.Config().size
    assert len(pd.read_parquet(record.path / "results/long.parquet")) == expected
    with xr.open_dataset(record.path / "results/field.nc", engine="h5netcdf") as data:
        assert data.value.shape == (expected, 2)
    (verdict,) = json.loads((record.path / "verdicts.json").read_text())
    mean = np.mean(
        [
            pd.read_parquet(record.path / "results/numbers.parquet").value.mean() * 3,
            record.dataset("field").value.values.mean() * 3,
            pd.read_parquet(record.path / "results/long.parquet").value.mean() * 3,
        ]
    )
    assert verdict["estimate"] == pytest.approx(mean)
    assert verdict["low"] is None
    assert verdict["high"] == 2.5


def test_the_same_settings_give_the_same_directory_and_others_another(tmp_path: Path) -> None:
    first = run(None, root=tmp_path, preset="quick", seed=1)
    assert first.path.parent == tmp_path / "toy"
    assert first.path.name.startswith("toy-quick-1-")
    others = [
        run(None, root=tmp_path, preset="quick", seed=2),
        run(None, root=tmp_path, preset="full", seed=1),
        run(None, toy.Config(size=8), root=tmp_path, preset="quick", seed=1),
        run(None, root=tmp_path, preset="quick", seed=1, dtype="bfloat16"),
        run(None, root=tmp_path, preset="quick", seed=1, model=toy.fake_model(source="a/b")),
    ]
    assert len({record.path for record in [first, *others]}) == 6
    assert others[-1].path.name.startswith("b-quick-1-")
    assert run(None, root=tmp_path, preset="quick", seed=1).path == first.path


def test_a_finished_run_is_not_computed_again(tmp_path: Path, calls: Any) -> None:
    first = run(tmp_path / "run")
    assert calls() == WHOLE
    before = snapshot(first.path)
    ears = Ears()
    again = run(tmp_path / "run", reporter=ears)
    assert calls() == []
    assert snapshot(first.path) == before
    assert again == first
    assert "was finished on" in ears.notes[0]


def test_the_same_seed_gives_the_same_numbers_and_another_others(tmp_path: Path) -> None:
    one, two, other = (run(tmp_path / n, seed=s) for n, s in (("a", 5), ("b", 5), ("c", 6)))
    assert values(one) == values(two)
    stages = [json.loads((run.path / "stages.json").read_text()) for run in (one, two)]
    assert stages[0]["results"] == stages[1]["results"]
    assert stages[0]["documents"] == stages[1]["documents"]
    assert values(one)["numbers"] != values(other)["numbers"]


def test_random_numbers_do_not_depend_on_what_was_drawn_before(tmp_path: Path) -> None:
    drawn: dict[str, list[float]] = {}

    def study(order: list[str]) -> Study[toy.Config]:
        def draw(_: toy.Config, context: Any) -> list[Verdict]:
            for name in order:
                drawn[f"{order} {name}"] = list(context.rng(name).normal(size=3))
            return []

        return Study("draws", "", "", toy.Config, draw)

    run_study(study(["x", "y"]), toy.Config(), out=tmp_path / "a")
    run_study(study(["y", "x"]), toy.Config(), out=tmp_path / "b")
    assert drawn["['x', 'y'] x"] == drawn["['y', 'x'] x"]
    assert drawn["['x', 'y'] x"] != drawn["['x', 'y'] y"]


# --- interruption ---------------------------------------------------------------------------


def start_child(out: Path, pause: str) -> subprocess.Popen[str]:
    """A toy run in another process that waits at `pause`; returns once it got there."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.experiments.toy", str(out)],
        cwd=ROOT,
        env={**os.environ, "TOY_PAUSE": pause},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    line = child.stdout.readline().strip()
    assert line == pause, child.stderr.read() if child.stderr else ""
    return child


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["SIGINT", "SIGKILL"])
@pytest.mark.parametrize("where", ["numbers", "field", "long 4", "report"])
def test_a_killed_run_goes_on_and_finds_the_same(
    tmp_path: Path, calls: Any, how: signal.Signals, where: str
) -> None:
    whole = run(tmp_path / "whole")
    calls()
    child = start_child(tmp_path / "stopped", where)
    child.send_signal(how)
    child.communicate(timeout=30)
    assert calls() == WHOLE[: WHOLE.index(where) + 1]
    stopped = RunRecord.open(tmp_path / "stopped")
    assert not stopped.finished
    assert stopped.verdicts == ()

    ears = Ears()
    resumed = run(tmp_path / "stopped", reporter=ears)
    # It goes on with the very step it was stopped in.
    assert calls() == WHOLE[WHOLE.index(where) :]
    assert resumed.finished
    assert values(resumed) == values(whole)
    assert snapshot(resumed.path).keys() == snapshot(whole.path).keys()
    assert ears.warnings == []
    assert len(resumed.provenance.resumed) == 1
    assert resumed.provenance.started <= str(resumed.provenance.finished)


def test_a_kill_between_a_file_and_its_entry_costs_that_result_only(
    tmp_path: Path, calls: Any
) -> None:
    whole = run(tmp_path / "whole")
    child = start_child(tmp_path / "run", "long 0")
    child.kill()
    child.communicate(timeout=30)
    # As if it had been killed after writing field.nc and before noting it, and midway in a write.
    stages = json.loads((tmp_path / "run/stages.json").read_text())
    del stages["results"]["field"]
    (tmp_path / "run/stages.json").write_text(json.dumps(stages))
    (tmp_path / "run/results" / f"{files.TEMPORARY_PREFIX}abc-long.parquet").write_bytes(b"half")
    calls()
    resumed = run(tmp_path / "run")
    assert calls() == WHOLE[1:]
    assert values(resumed) == values(whole)
    assert snapshot(resumed.path).keys() == snapshot(whole.path).keys()


def test_chunks_of_another_division_are_not_used(tmp_path: Path, calls: Any) -> None:
    child = start_child(tmp_path / "run", "long 4")
    child.kill()
    child.communicate(timeout=30)
    calls()
    stages = json.loads((tmp_path / "run/stages.json").read_text())
    assert len(stages["partial"]["long"]["sha256"]) == 2
    stages["partial"]["long"]["chunk_size"] = 3
    (tmp_path / "run/stages.json").write_text(json.dumps(stages))
    assert values(run(tmp_path / "run")) == values(run(tmp_path / "whole"))
    assert calls()[:4] == ["long 0", "long 2", "long 4", "long 6"]


def test_a_damaged_chunk_is_computed_again_with_all_after_it(tmp_path: Path, calls: Any) -> None:
    child = start_child(tmp_path / "run", "long 6")
    child.kill()
    child.communicate(timeout=30)
    calls()
    (tmp_path / "run/results/.chunks/long/000001.parquet").write_bytes(b"nonsense")
    assert values(run(tmp_path / "run")) == values(run(tmp_path / "whole"))
    assert calls()[:3] == ["long 2", "long 4", "long 6"]


# --- damage ---------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_damaged_result_is_named_and_computed_anew(
    tmp_path: Path, calls: Any, damage: str
) -> None:
    whole = values(run(tmp_path / "run"))
    calls()
    path = tmp_path / "run/results/field.nc"
    if damage == "changed":
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    else:
        path.unlink()
    ears = Ears()
    repaired = run(tmp_path / "run", reporter=ears)
    assert calls() == ["field", "report"]
    assert len(ears.warnings) == 1
    assert "field.nc" in ears.warnings[0]
    assert ears.kept_names == ["numbers", "long"]
    assert values(repaired) == whole
    assert repaired.damage() == []


def test_lost_verdicts_are_found_again_from_the_results(tmp_path: Path, calls: Any) -> None:
    whole = values(run(tmp_path / "run"))
    calls()
    (tmp_path / "run/verdicts.json").unlink()
    assert values(run(tmp_path / "run")) == whole
    assert calls() == ["report"]


def test_results_without_provenance_are_not_trusted(tmp_path: Path) -> None:
    run(tmp_path / "run")
    (tmp_path / "run/provenance.json").write_text("{")
    before = (tmp_path / "run/stages.json").read_bytes()
    with pytest.raises(RunError, match=r"provenance\.json' is damaged"):
        run(tmp_path / "run")
    assert (tmp_path / "run/stages.json").read_bytes() == before


def test_a_manifest_cannot_point_outside_of_its_directory(tmp_path: Path) -> None:
    run(tmp_path / "run")
    (tmp_path / "victim.parquet").write_text("precious")
    path = tmp_path / "run/stages.json"
    stages = json.loads(path.read_text())
    stages["results"]["../../victim"] = stages["results"]["numbers"]
    path.write_text(json.dumps(stages))
    with pytest.raises(RunError, match="is damaged"):
        run(tmp_path / "run")
    assert run(tmp_path / "run", fresh=True).finished
    assert (tmp_path / "victim.parquet").read_text() == "precious"


def test_results_that_the_study_no_longer_makes_are_dropped(tmp_path: Path) -> None:
    run(tmp_path / "run")
    (tmp_path / "run/verdicts.json").unlink()
    fewer = Study("toy", "", "", toy.Config, lambda config, context: [])
    record = run_study(fewer, toy.Config(), out=tmp_path / "run", model=toy.fake_model())
    assert record.names() == []
    assert not (tmp_path / "run/results/numbers.parquet").exists()


# --- refusals -------------------------------------------------------------------------------


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
        "revision": None,
    }


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

    import interp.model.model

    monkeypatch.setattr(interp.model.model, "load_model", load_model)
    config = toy.Config(model=str(folder))
    run(tmp_path / "run", config, model=None)
    run(tmp_path / "run", config, model=None)
    assert loaded == [str(folder)]
    later = time.time() + 10
    os.utime(folder / "config.json", (later, later))
    run(tmp_path / "run", config, model=None)
    assert loaded == [str(folder)] * 2
    fingerprint = "b" * 32
    with pytest.raises(RunError, match="not the model"):
        run(tmp_path / "run", config, model=None)


# --- provenance -----------------------------------------------------------------------------


def test_provenance_says_what_and_not_who(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER", "ada-the-user")
    monkeypatch.setenv("SOME_TOKEN", "secret-in-the-environment")
    record = run(tmp_path / "run")
    text = (record.path / "provenance.json").read_text()
    import getpass
    import platform
    import socket

    for private in ("ada-the-user", "secret-in", str(tmp_path), str(ROOT), socket.gethostname()):
        assert private not in text
    assert getpass.getuser() not in json.loads(text).values()
    assert record.provenance.versions["python"] == platform.python_version()
    assert record.provenance.versions["numpy"] == np.__version__
    assert record.provenance.device == {"type": "cpu"}
    assert record.provenance.model is not None
    assert record.provenance.model["fingerprint"] == "f" * 32


def test_a_change_of_versions_is_told_on_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = start_child(tmp_path / "run", "report")
    child.kill()
    child.communicate(timeout=30)
    path = tmp_path / "run/provenance.json"
    versions = json.loads(path.read_text())["versions"]
    edit(path, versions={**versions, "numpy": "0.1"})
    ears = Ears()
    record = run(tmp_path / "run", reporter=ears)
    assert [w for w in ears.warnings if "numpy was 0.1" in w]
    assert record.provenance.versions["numpy"] == "0.1"
    assert record.provenance.resumed[0]["versions"]["numpy"] == np.__version__


def test_the_git_revision_is_only_that_of_a_checkout_of_this_package(tmp_path: Path) -> None:
    """A copy of the package inside another project's checkout has no revision; one of its own has.

    Run in copies, so that the test says the same in a checkout and in an archive.
    """
    if shutil.which("git") is None:
        pytest.skip("needs git")
    project = tmp_path / "project"
    site = project / "site-packages"
    for package in ("cache", "experiments"):
        shutil.copytree(ROOT / package, site / package, ignore=shutil.ignore_patterns("bundled"))

    def git(where: Path, *arguments: str) -> str:
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        return subprocess.run(
            ["git", "-C", str(where), *identity, *arguments],
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    def revision() -> Any:
        script = (
            "import json; from experiments.run_directory.provenance import code_revision\n"
            "print(json.dumps(code_revision()))"
        )
        ended = subprocess.run(
            [sys.executable, "-c", script], cwd=site, check=True, capture_output=True, text=True
        )
        return json.loads(ended.stdout)

    git(project, "init", "-q")
    git(project, "commit", "-q", "--allow-empty", "-m", "x")
    assert revision() is None
    git(site, "init", "-q")
    git(site, "add", ".")
    git(site, "commit", "-q", "-m", "x")
    head = git(site, "rev-parse", "HEAD").strip()
    assert revision() == {"revision": head, "changed": False}
    with open(site / "experiments/errors.py", "a") as file:
        file.write("# changed\n")
    assert revision()["changed"] is True
