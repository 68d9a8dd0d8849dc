"""Which models of a training are found, and that nothing leads out of the folders they lie in."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from app import trainings
from app.compute.engine import ModelSpec
from app.runs import Run
from experiments.explorer import Trainings
from experiments.records import RunRecord
from experiments.reversal_curse.explorer import page
from tests.app import material


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return material.trained_once(tmp_path_factory)


@pytest.fixture(scope="module")
def told() -> Trainings:
    found = page().trainings
    assert found is not None
    return found


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Run:
    """The run, to be changed."""
    (run,) = (trained / "runs" / "reversal-curse").iterdir()
    return Run(RunRecord.open(shutil.copytree(run, tmp_path / "run")))


def fake(folder: Path) -> Path:
    """What looks like a checkpoint; it is not opened."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"1234")
    return folder


@pytest.mark.slow
def test_a_run_has_the_trainings_that_it_stored_and_that_of_its_model(
    copied: Run, told: Trainings
) -> None:
    found = trainings.of_run(copied, told, copied.table("training_time"))
    assert [one.name for one in found] == ["none-0", "none-1", "model"]
    kept, unkept, own = found
    assert kept.steps == own.steps == material.STEPS
    assert unkept.steps == ()
    work = copied.record.path / "work" / "organisms" / "time-none-0" / "steps"
    assert [spec.source for _, spec in kept.checkpoints] == [str(work / str(s)) for s in kept.steps]
    assert kept.bytes == sum(p.stat().st_size for p in work.glob("*/model.safetensors"))


@pytest.mark.parametrize(
    "name", ["organisms", "organisms/time-none-0", "organisms/time-none-0/steps"]
)
def test_no_link_in_a_run_is_followed(copied: Run, told: Trainings, name: str) -> None:
    place = copied.record.path / "work" / name
    elsewhere = copied.record.path.parent / "elsewhere"
    place.rename(elsewhere)
    place.symlink_to(elsewhere)
    found = trainings.of_run(copied, told, copied.table("training_time"))
    assert found[0].checkpoints == ()


def test_no_link_to_a_step_or_in_it_is_followed(copied: Run, told: Trainings) -> None:
    steps = copied.record.path / "work" / "organisms" / "time-none-0" / "steps"
    elsewhere = copied.record.path.parent / "40"
    (steps / "40").rename(elsewhere)
    (steps / "40").symlink_to(elsewhere)
    weights = steps / "200" / "model.safetensors"
    weights.rename(elsewhere / "others.safetensors")
    weights.symlink_to(elsewhere / "others.safetensors")
    found = trainings.of_run(copied, told, copied.table("training_time"))
    assert found[0].steps == (0,)


@pytest.mark.parametrize("arm", ["../../../outside", "..", "/outside", "a/b", "", "{seed}", "a\0b"])
def test_no_name_of_an_arm_leads_out_of_the_run(copied: Run, told: Trainings, arm: str) -> None:
    fake(copied.record.path.parent / "outside-0" / "steps" / "1")
    fake(copied.record.path.parent / "outside" / "steps" / "1")
    table = copied.table("training_time")
    assert table is not None
    hostile = replace(told, folder="organisms/{arm}")
    for one in trainings.of_run(copied, hostile, table.assign(arm=arm))[:-1]:
        assert one.checkpoints == ()
    for one in trainings.of_run(copied, replace(told, folder=f"{arm}/../{{arm}}"), table)[:-1]:
        assert one.checkpoints == ()


def test_a_table_of_another_shape_is_not_used(copied: Run, told: Trainings) -> None:
    table = copied.table("training_time")
    assert table is not None
    assert trainings.usable(told, table)
    for column in ("arm", "step", "direction", "low", "facts", "chance", "score"):
        assert not trainings.usable(told, table.drop(columns=column))
    assert not trainings.usable(told, table.assign(score="<b>"))
    assert not trainings.usable(told, table.assign(step=0.5))


@pytest.mark.parametrize(
    "name", ["step-{}", "step_{}", "step{}", "checkpoint-{}", "steps/{}", "steps/step-{}"]
)
def test_models_along_a_training_are_found_in_and_beside_a_model(tmp_path: Path, name: str) -> None:
    model = fake(tmp_path / "model")
    for step in (1000, 20, 3):
        last = fake(model / name.format(step))
    fake(model / "notes-5")
    (model / name.format(7)).mkdir()
    for folder in (model, last):
        found = trainings.beside(ModelSpec(str(folder), dtype="float64"))
        assert found is not None
        assert found.steps == (3, 20, 1000)
        assert found.checkpoints[1][1] == ModelSpec(str(model / name.format(20)), dtype="float64")


def test_a_model_alone_has_no_training(tmp_path: Path) -> None:
    assert trainings.beside(ModelSpec(str(fake(tmp_path / "model")))) is None
    fake(tmp_path / "model" / "step-4")  # one is no training
    fake(tmp_path / "12")
    fake(tmp_path / "13")  # numbers alone mean steps in a folder of steps only
    for name in ("model", "12"):
        assert trainings.beside(ModelSpec(str(tmp_path / name))) is None
    for source in ("reversal-curse", "no/such-model", "", "/no/such/folder", "a\0b"):
        assert trainings.beside(ModelSpec(source)) is None


def test_a_link_to_models_of_others_is_not_followed(tmp_path: Path) -> None:
    model, others = fake(tmp_path / "model"), tmp_path / "others"
    for step in (1, 2):
        fake(others / "steps" / str(step))
        (model / f"step-{step}").symlink_to(others / "steps" / str(step))
    (model / "steps").symlink_to(others / "steps")
    assert trainings.beside(ModelSpec(str(model))) is None
