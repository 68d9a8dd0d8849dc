"""The study from its files to its report: asked, trained, stopped, and refused."""

from __future__ import annotations

import builtins
import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from experiments.berglund import tune
from experiments.berglund.config import Config
from experiments.berglund.figures import preference_bars
from experiments.berglund.people import read_people
from experiments.berglund.study import STUDY
from experiments.errors import FactsError, StudyError
from experiments.records import RunRecord
from experiments.runner import run_study
from interp import load_model
from tests.experiments.berglund.material import make_data, make_model
from tests.experiments.commands import ROOT, obverse
from tests.experiments.packages import install

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("berglund") / "data")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("berglund") / "model")


@pytest.fixture(scope="module")
def untrained(data: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    config = Config(model=str(model), data=str(data))
    return run_study(STUDY, config, out=tmp_path_factory.mktemp("runs") / "untrained")


def tables(record: RunRecord) -> dict[str, pd.DataFrame]:
    return {name: record.table(name) for name in record.names("table")}


def test_of_an_untrained_model_nothing_is_supported(untrained: RunRecord) -> None:
    assert [verdict.id for verdict in untrained.verdicts] == ["B1", "B2", "B3", "B4"]
    assert {verdict.outcome for verdict in untrained.verdicts} == {"undecided"}
    assert "only if it was trained on them before" in untrained.headline[0]
    people = untrained.table("people")
    assert len(people) == 6 * 6 * 2
    low, high = preference_bars(people).layout.yaxis.range  # noise is not to fill the figure
    assert low <= -1 <= 1 <= high
    assert people.groupby(["group", "asked"])["told_so"].first().sum() == 4
    assert untrained.report is not None
    text = untrained.report.read_text(encoding="utf-8").split("plotly-gzip")[0]
    for words in ("Experiment 1", "Experiment 2", "What was mended", "B4."):
        assert words in text
    assert "The published results</h2>" not in text


@pytest.mark.shared
def test_of_a_model_that_never_read_them_nothing_is_supported(shared: Path, tmp_path: Path) -> None:
    config = Config(
        model=str(shared / "models/stories260K"),
        data=str(shared / "data/reversal_curse"),
        n_people=4,
        n_wordings=1,
        n_pairs=4,
        n_others=2,
    )
    record = run_study(STUDY, config, out=tmp_path / "run")
    assert {verdict.outcome for verdict in record.verdicts} == {"undecided"}
    assert len(record.table("published")) == 30
    assert any("5 of 5 models" in sentence for sentence in record.headline)


@pytest.mark.shared
def test_published_results_need_no_model(shared: Path, tmp_path: Path) -> None:
    folder = str(shared / "data/reversal_curse")
    config = Config(berglund_results=folder, experiments="results", model="no/such-model")
    record = run_study(STUDY, config, out=tmp_path / "run")
    assert record.verdicts == ()
    assert record.provenance.model is None
    assert record.report is not None
    again = run_study(STUDY, config, out=tmp_path / "run")
    assert again.provenance.finished == record.provenance.finished


# Enough for two layers to learn these few facts by heart, one by one.
TRAINED = {"tune": "full", "experiments": "1", "epochs": 120, "batch_size": 48, "n_others": 5}


def trained_config(data: Path, model: Path, **more: Any) -> Config:
    return Config(
        **{**TRAINED, "learning_rate": 1e-2, "data": str(data), "model": str(model), **more}
    )


@pytest.fixture(scope="module")
def trained(data: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    folder = tmp_path_factory.mktemp("runs") / "trained"
    return run_study(STUDY, trained_config(data, model), out=folder)


def test_what_is_trained_is_known_as_it_was_told(trained: RunRecord) -> None:
    losses = trained.table("training")
    assert len(losses) == 120
    assert losses["loss"].iloc[-1] < 0.5 * losses["loss"].iloc[0]
    people = trained.table("people")
    told = people[people["told_so"]]
    assert told["correct"].mean() > 0.8
    assert told["whole"].mean() > 1.0
    folder = trained.path / "work/tuned/model"
    assert (folder / "model.safetensors").is_file()
    assert not (folder.parent / "training.safetensors").exists()
    # The numbers are those of the trained model, which is a plain folder.
    from interp import score_answers

    one = people.iloc[3]
    found = score_answers(load_model(folder), [one["prompt"]], [one["answer"]])
    assert float(found["logprob"][0]) == pytest.approx(one["logprob"], abs=1e-4)


def test_a_training_that_was_stopped_ends_with_the_same_weights(
    trained: RunRecord, data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped behind a checkpoint, and once more; the same numbers in every table."""
    monkeypatch.setattr(tune, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(tune, "CHECKPOINT_SHARE", 1e9)
    step, stops = tune.update, [7, 31]

    def stopped(*arguments: Any) -> float:
        stopped.steps += 1  # type: ignore[attr-defined]
        if stops and stopped.steps == stops[0]:  # type: ignore[attr-defined]
            del stops[0]
            raise KeyboardInterrupt
        return step(*arguments)

    stopped.steps = 0  # type: ignore[attr-defined]
    monkeypatch.setattr(tune, "update", stopped)
    config = trained_config(data, model)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run_study(STUDY, config, out=tmp_path / "run")
        assert (tmp_path / "run" / "work" / "tuned" / "training.safetensors").is_file()
    record = run_study(STUDY, config, out=tmp_path / "run")
    assert stopped.steps == 122  # type: ignore[attr-defined]  # nothing but the stopped ones anew
    expected = tables(trained)
    for name, table in tables(record).items():
        pd.testing.assert_frame_equal(table, expected[name])
    ours, theirs = (
        load_model(one.path / "work/tuned/model").fingerprint for one in (record, trained)
    )
    assert ours == theirs


def test_a_run_that_lost_its_model_says_so_and_fresh_starts_over(
    data: Path, model: Path, tmp_path: Path
) -> None:
    from experiments.errors import RunError

    folder, config = tmp_path / "run", trained_config(data, model, epochs=2)
    before = run_study(STUDY, config, out=folder).table("people")
    (folder / "results/people.parquet").unlink()
    shutil.rmtree(folder / "work/tuned/model")
    with pytest.raises(RunError, match=r"not in .* any more; start over with --fresh"):
        run_study(STUDY, config, out=folder)
    (folder / "work/left").mkdir()
    record = run_study(STUDY, config, out=folder, fresh=True)
    assert not (folder / "work/left").exists()
    pd.testing.assert_frame_equal(record.table("people"), before)
    # Nor is it lost for good where it was killed between its model and its losses.
    for name in ("training", "people"):
        (folder / f"results/{name}.parquet").unlink()
    again = run_study(STUDY, config, out=folder)
    pd.testing.assert_frame_equal(again.table("people"), before)
    pd.testing.assert_frame_equal(again.table("training"), record.table("training"))


def test_another_model_in_its_place_is_refused(data: Path, model: Path, tmp_path: Path) -> None:
    from experiments.errors import RunError

    folder, config = tmp_path / "run", trained_config(data, model, epochs=1)
    run_study(STUDY, config, out=folder)
    (folder / "results/people.parquet").unlink()
    shutil.copy(model / "model.safetensors", folder / "work/tuned/model/model.safetensors")
    with pytest.raises(RunError, match="is not the one trained there"):
        run_study(STUDY, config, out=folder)


def test_the_loss_can_be_of_completions_alone(data: Path, model: Path, tmp_path: Path) -> None:
    """Then names told first are no target: nothing in the loss depends on them but as context."""
    people = read_people(data)
    base = load_model(model)
    lines = [line for _, line in people.told["name first"]]
    for loss in ("all", "completion"):
        for text, line in zip(tune.training_texts(base, lines, loss), lines, strict=True):
            targets = base.decode(list(text.ids[text.free :]))
            assert (line.prompt.split()[-1] in targets) is (loss == "all")
            assert line.completion.split()[-1].rstrip(".") in targets


def test_lora_without_peft_is_refused_before_anything_is_trained(
    data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported = builtins.__import__

    def without(name: str, *arguments: Any, **more: Any) -> Any:
        if name.partition(".")[0] == "peft":
            raise ImportError(name)
        return imported(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    config = trained_config(data, model, tune="lora")
    with pytest.raises(StudyError, match=r"pip install 'obverse\[lora\]'"):
        run_study(STUDY, config, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_lora_trains_adapters_and_merges_them(data: Path, model: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    config = trained_config(data, model, tune="lora", lora_rank=4, epochs=10, n_people=4)
    record = run_study(STUDY, config, out=tmp_path / "run")
    losses = record.table("training")["loss"]
    assert losses.iloc[-1] < losses.iloc[0]
    from safetensors.torch import load_file

    before = load_file(model / "model.safetensors")
    after = load_file(record.path / "work/tuned/model/model.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name in before if not np.allclose(before[name], after[name], atol=1e-7)}
    assert changed
    assert all("proj" in name for name in changed)  # the linear maps of the blocks
    for name in changed:
        assert np.linalg.matrix_rank((after[name] - before[name]).numpy(), tol=1e-5) <= 4
    again = run_study(STUDY, config, out=tmp_path / "again")
    pd.testing.assert_series_equal(again.table("training")["loss"], losses)


def test_the_explorer_draws_what_a_run_has_stored(trained: RunRecord, untrained: RunRecord) -> None:
    assert STUDY.explorer is not None
    drawn = set()
    for record in (trained, untrained):
        there = tables(record)
        for figure in STUDY.explorer().figures:
            if all(name in there for name in figure.results):
                assert figure.draw(*(there[name] for name in figure.results)).data
                drawn.add(figure.name)
    assert drawn == {
        "people-right",
        "people-preferred",
        "pairs-won",
        "pairs-both-ways",
        "training-loss",
    }


def test_it_is_run_from_the_command_line(data: Path, model: Path, tmp_path: Path) -> None:
    # Found as a study of any package is, whether or not this one was installed since it has it.
    (tmp_path / "site").mkdir()
    install(tmp_path / "site", "more", {"berglund": "experiments.berglund.study:STUDY"}, {})
    path = os.pathsep.join([str(ROOT), str(tmp_path / "site")])
    arguments = ["run", "berglund", "--data", str(data), "--model", str(model), "--out", "r"]
    sets = ["--set", "experiments=1", "--set", "n-others=2"]
    ended = obverse(*arguments, *sets, cwd=tmp_path, PYTHONPATH=path)
    assert ended.returncode == 0, ended.stderr
    assert "answers are scored: about" in ended.stdout
    assert "B1 undecided" in ended.stdout
    record = RunRecord.open(tmp_path / "r")
    assert (record.config["experiments"], record.config["n_others"]) == ("1", 2)
    refused = obverse(*arguments[:2], "--set", "n_pair=9", cwd=tmp_path, PYTHONPATH=path)
    assert refused.stderr.endswith("has no setting 'n_pair'; did you mean 'n_pairs'?\n")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": None}, "give it as --data"),
        ({"data": "missing"}, "There is no folder 'missing'"),
        ({"data": None, "berglund_results": "."}, "no --data to ask a model about"),
        ({"tune": "full", "experiments": "2"}, "Only the facts of experiment 1"),
        ({"berglund_results": "."}, "holds no file named MODEL"),
    ],
)
def test_what_cannot_be_run_is_refused(
    data: Path, model: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    config = dataclasses.replace(Config(model=str(model), data=str(data)), **changes)
    with pytest.raises((StudyError, FactsError), match=words):
        run_study(STUDY, config, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "changes",
    [{"n_pairs": 3}, {"n_others": 1}, {"epochs": 0}, {"learning_rate": 0.0}, {"n_people": 3}],
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(StudyError, match=f"'{next(iter(changes))}' is"):
        Config(**changes)


def test_words_that_the_model_does_not_know_are_refused_with_their_place(
    data: Path, model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    path = folder / "parent_child_pairs.csv"
    path.write_text(path.read_text().replace("Ann Reed", "Xyzzy Reed"))
    with pytest.raises(FactsError, match=r"csv', line 2, asked for the parent: .*'Xyzzy'"):
        run_study(STUDY, Config(model=str(model), data=str(folder)), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_half_precision_and_models_in_memory_are_not_trained_whole(data: Path, model: Path) -> None:
    half = load_model(model, dtype="bfloat16")
    with pytest.raises(StudyError, match="In bfloat16 small updates"):
        tune.check_tuning(trained_config(data, model), half)
    tune.check_tuning(dataclasses.replace(trained_config(data, model), tune="none"), half)
    loaded = load_model(model)
    memory = load_model(loaded.bridge, tokenizer=loaded.tokenizer)
    with pytest.raises(StudyError, match="made in memory"):
        tune.check_tuning(trained_config(data, model), memory)


def test_a_loss_that_is_not_finite_ends_the_training(
    data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "update", lambda *_: float("nan"))
    with pytest.raises(StudyError, match="not finite after 1 steps; choose a smaller"):
        run_study(STUDY, trained_config(data, model), out=tmp_path / "run")


def test_names_are_text_in_the_report(data: Path, model: Path, tmp_path: Path) -> None:
    hostile = "<img src=x onerror=alert(1)>"
    from experiments.berglund.published import SUFFIX

    head = "child,parent,x_parent_logprob,x_child_logprob\n"
    rows = "".join(f"{hostile}{i},P{i},-{i}.5,-2\n" for i in range(8))
    (tmp_path / f"{hostile.replace('/', '')}{SUFFIX}").write_text(head + rows)
    config = Config(berglund_results=str(tmp_path), experiments="results")
    record = run_study(STUDY, config, out=tmp_path / "run")
    assert record.report is not None
    page = record.report.read_text(encoding="utf-8")
    assert hostile not in page
    assert "&lt;img src=x" in page
