"""A study is one folder and an entry point: the command line, resuming, data, report, explorer."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pickle
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.errors import FactsError, RunError, StudyError
from experiments.phenomena.config import PhenomenonConfig
from experiments.phenomena.phenomenon import Measured
from experiments.phenomena.study import as_study
from experiments.records import RunRecord
from experiments.reporter import Progress, QuietReporter
from experiments.runner import run_study
from experiments.study import Verdict
from interp.execute import Executor
from tests.experiments.commands import ROOT, environment, is_one_sentence, obverse
from tests.experiments.packages import install
from tests.experiments.phenomena import toy
from tests.warm import Process

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where Python finds a package that brings the study."""
    folder = tmp_path_factory.mktemp("site-packages")
    install(folder, "greetings", {"greetings": "tests.experiments.phenomena.toy:STUDY"}, {})
    return os.pathsep.join([str(ROOT), str(folder)])


@pytest.fixture(scope="module")
def whole(path: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the command line."""
    folder = tmp_path_factory.mktemp("whole")
    ended = obverse("run", "greetings", "--no-svg", "--out", "run", cwd=folder, PYTHONPATH=path)
    assert ended.returncode == 0, ended.stderr
    assert "T1" in ended.stdout
    return folder / "run"


def test_it_is_trained_measured_judged_and_reported(whole: Path) -> None:
    record = RunRecord.open(whole)
    assert [verdict.id for verdict in record.verdicts] == ["T1"]
    together = record.dataset("greets")
    assert together["logprob"].dims == ("arm", "seed", "example")
    assert together["arm"].values.tolist() == ["treated", "twin", "untrained"]
    for number, arm in enumerate(("treated", "twin", "untrained")):
        alone = record.dataset(f"greets_{arm}-0")
        np.testing.assert_array_equal(together["logprob"].values[number, 0], alone["logprob"])
        assert len(alone.attrs["fingerprint"]) == 32
    # The twin goes on from the base that it shares, and is another model.
    fingerprints = {
        str(record.table(f"trained_{arm}-0")["fingerprint"][0]) for arm in ("treated", "twin")
    }
    assert len(fingerprints) == 2
    report = (whole / "report.html").read_text()
    for words in ("It greets", "taught to say good", "Planted", "a paper", "Ann says", "a toy"):
        assert words in report
    organism = whole / "work" / "organisms" / "treated-0"
    assert json.loads((organism / "organism.json").read_text())["arm"] == "treated"


def test_a_run_that_was_killed_goes_on(whole: Path, path: str, tmp_path: Path) -> None:
    arguments = ["run", "greetings", "--no-svg", "--out", "run"]
    env = environment(PYTHONPATH=path, TOY_PAUSE="greets twin")
    child = Process("experiments.cli", arguments, tmp_path, env)
    while (line := child.stdout.readline()) and line.strip() != "paused":
        pass
    child.send_signal(signal.SIGKILL)
    child.wait(10)
    done = tmp_path / "run" / "results" / "greets_treated-0.nc"
    before = done.stat().st_mtime_ns
    organism = tmp_path / "run" / "work" / "organisms" / "treated-0" / "model.safetensors"
    trained = organism.stat().st_mtime_ns
    ended = obverse(*arguments, cwd=tmp_path, PYTHONPATH=path)
    assert ended.returncode == 0, ended.stderr
    assert done.stat().st_mtime_ns == before
    assert organism.stat().st_mtime_ns == trained
    one, other = RunRecord.open(whole), RunRecord.open(tmp_path / "run")
    assert one.verdicts == other.verdicts
    assert one.dataset("greets").identical(other.dataset("greets"))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "is no JSON"),
        ("[]", "must hold a JSON object"),
        ('{"names": ["Ann"]}', "has 1 text; give 2 or more"),
        ('{"names": ["Ann", NaN]}', "is no JSON"),
        ('{"names": ["Ann", 3]}', "must be a list of texts"),
        ('{"names": ["Ann", "Zoe"]}', "name 2"),
        ('{"names": ["Ann", "Ben"], "names": ["Cid", "Dan"]}', "'names' stands twice"),
    ],
)
def test_wrong_data_are_refused(whole: Path, tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "data.json").write_text(content)
    model = str(whole / "work" / "organisms" / "treated-0")
    config = PhenomenonConfig(model=model, data=str(tmp_path / "data.json"))
    with pytest.raises(FactsError, match=told) as refused:
        run_study(toy.STUDY, config, out=tmp_path / "run")
    assert is_one_sentence(f"{refused.value}\n")
    assert not (tmp_path / "run").exists()


def test_a_twin_is_refused_where_nothing_is_compared(whole: Path, tmp_path: Path) -> None:
    model = str(whole / "work" / "organisms" / "treated-0")
    with pytest.raises(StudyError, match="compares no two models"):
        run_study(toy.STUDY, PhenomenonConfig(model=model, twin=model), out=tmp_path / "run")


def test_results_of_another_twin_are_not_gone_on_with(whole: Path, tmp_path: Path) -> None:
    organisms = whole / "work" / "organisms"

    def stopped(measured: Measured) -> Verdict:
        raise KeyboardInterrupt

    asked = replace(toy.PHENOMENON.hypotheses[0], beside="twin", judge=stopped)
    compared = replace(toy.PHENOMENON, hypotheses=(asked,))
    study = as_study("greetings", "Greetings", "Whether it greets.", lambda: compared)
    twin = tmp_path / "twin"
    shutil.copytree(organisms / "twin-0", twin)
    config = PhenomenonConfig(model=str(organisms / "treated-0"), twin=str(twin))
    with pytest.raises(KeyboardInterrupt):
        run_study(study, config, out=tmp_path / "run")
    assert str(twin) in RunRecord.open(tmp_path / "run").provenance.inputs
    shutil.rmtree(twin)
    shutil.copytree(organisms / "treated-0", twin)
    with pytest.raises(RunError, match="changed since this run was started"):
        run_study(study, config, out=tmp_path / "run")


def test_the_command_line_refuses_in_a_sentence(path: str, tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text("[]")
    given = ("--model", "reversal-curse", "--data", "data.json", "--out", "run")
    ended = obverse("run", "greetings", *given, cwd=tmp_path, PYTHONPATH=path)
    assert ended.returncode != 0
    assert ended.stderr == "Error: 'data.json' must hold a JSON object.\n"
    assert not (tmp_path / "run").exists()


def test_a_user_s_model_is_measured_alone(whole: Path, tmp_path: Path) -> None:
    """The organism of a run, given as a model: the same numbers, and no arms."""
    model = str(whole / "work" / "organisms" / "treated-0")
    record = run_study(toy.STUDY, PhenomenonConfig(model=model), out=tmp_path / "run")
    alone = record.dataset("greets")
    assert alone["arm"].values.tolist() == ["model"]
    of_arm = RunRecord.open(whole).dataset("greets_treated-0")["logprob"]
    np.testing.assert_array_equal(alone["logprob"].values[0, 0], of_arm)
    assert record.provenance.model is not None
    assert "data.json" in record.provenance.inputs
    assert "Does treated-0 greet?" in (tmp_path / "run" / "report.html").read_text()


def test_workers_find_the_same(
    whole: Path, tmp_path: Path, workers_at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A study that is long enough is spread over the cores where nobody says otherwise: bit for
    bit the results of one process, whatever number of threads that has."""
    monkeypatch.setattr("experiments.phenomena.run.WORTH_SPREADING", 1)
    monkeypatch.setattr("interp.execute.settings.cores", lambda: 2)
    told = Told()
    spread = run_study(toy.STUDY, PhenomenonConfig(), out=tmp_path / "run", reporter=told)
    serial = RunRecord.open(whole)
    assert spread.verdicts == serial.verdicts
    names = {path.name for path in (whole / "results").iterdir()}
    assert names == {path.name for path in (tmp_path / "run" / "results").iterdir()}
    for arm in ("treated", "twin", "untrained"):
        one, other = (each.dataset(f"greets_{arm}-0") for each in (spread, serial))
        assert one.identical(other)
    for arm in ("treated", "twin"):
        tables = (each.table(f"trained_{arm}-0") for each in (spread, serial))
        pd.testing.assert_frame_equal(*tables, check_exact=True)
    assert told.stages["trained (%)"][0] == (0, 100)
    assert told.stages["trained (%)"][-1] == told.stages["measured (%)"][-1] == (100, 100)


class Told(QuietReporter):
    """Keeps the progress of every stage."""

    def __init__(self) -> None:
        self.stages: dict[str, list[tuple[int, int]]] = {}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[Progress]:
        said = self.stages.setdefault(name, [])
        yield lambda done, total: said.append((done, total))


def test_workers_go_on_with_a_run_of_one_process(
    whole: Path, tmp_path: Path, workers_at_once: None
) -> None:
    """What is stored is kept; organisms that were taken away are trained again, once each."""
    shutil.copytree(whole, tmp_path / "run")
    left = [f"greets_{arm}-0" for arm in ("treated", "twin", "untrained")]
    for name in ("greets", *left[1:]):
        (tmp_path / "run" / "results" / f"{name}.nc").unlink()
    kept = tmp_path / "run" / "results" / f"{left[0]}.nc"
    before = kept.stat().st_mtime_ns
    # By whichever worker comes first, while another waits for it.
    shutil.rmtree(tmp_path / "run" / "work")
    out, workers = tmp_path / "run", Executor("processes", 2)
    with pytest.warns(UserWarning, match="computed anew"):
        found = run_study(toy.STUDY, PhenomenonConfig(), preset="quick", out=out, executor=workers)
    assert kept.stat().st_mtime_ns == before
    assert found.verdicts == RunRecord.open(whole).verdicts


def test_seeds_stand_side_by_side(whole: Path, tmp_path: Path) -> None:
    found = run_study(toy.STUDY, PhenomenonConfig(seeds=2), out=tmp_path / "run").dataset("greets")
    assert found["seed"].values.tolist() == [0, 1]
    assert found.isel(seed=[0]).identical(RunRecord.open(whole).dataset("greets"))
    assert not np.array_equal(*found["logprob"].values[0])


def test_an_organism_that_was_changed_is_told(tmp_path: Path) -> None:
    first = run_study(toy.STUDY, PhenomenonConfig(), out=tmp_path / "run")
    organism = first.path / "work" / "organisms" / "treated-0"
    twin = first.path / "work" / "organisms" / "twin-0"
    (organism / "model.safetensors").write_bytes((twin / "model.safetensors").read_bytes())
    (first.path / "results" / "greets_treated-0.nc").unlink()
    with (
        pytest.raises(RunError, match="is not the one that was trained there"),
        pytest.warns(UserWarning, match="computed anew"),
    ):
        run_study(toy.STUDY, PhenomenonConfig(), out=tmp_path / "run")


def test_the_explorer_gets_its_page() -> None:
    assert toy.STUDY.explorer is not None
    assert [figure.name for figure in toy.STUDY.explorer().figures] == ["greets"]


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(StudyError, match="'seeds' is 0"):
        PhenomenonConfig(seeds=0)
    with pytest.raises(StudyError, match="'data' is about a model"):
        PhenomenonConfig(data="data.json")
    with pytest.raises(StudyError, match="'twin' is about a model"):
        PhenomenonConfig(twin="clean")
    with pytest.raises(StudyError, match="Unknown preset"):
        PhenomenonConfig.preset("slow")
    assert PhenomenonConfig.preset("full").seeds == 5


def test_a_phenomenon_must_be_whole() -> None:
    (one,) = toy.PHENOMENON.hypotheses
    with pytest.raises(ValueError, match="a name of its own"):
        replace(toy.PHENOMENON, hypotheses=(one, one))
    with pytest.raises(ValueError, match="beside 'nobody', which is no arm"):
        replace(toy.PHENOMENON, hypotheses=(replace(one, beside="nobody"),))
    with pytest.raises(ValueError, match="measured in the first arm"):
        replace(toy.PHENOMENON, hypotheses=(replace(one, arms=("twin",)),))
    with pytest.raises(ValueError, match="draws more than"):
        replace(toy.PHENOMENON, hypotheses=(replace(one, name="other"),))


@pytest.mark.parametrize("name", ["injection", "other_script", "poisoning", "refusal", "suffix"])
def test_what_a_study_measures_can_be_sent_to_workers(name: str) -> None:
    phenomenon = importlib.import_module(f"experiments.{name}.phenomenon").PHENOMENON
    assert pickle.loads(pickle.dumps(phenomenon)).name == phenomenon.name  # noqa: S301
