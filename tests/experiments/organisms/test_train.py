"""Training is reproducible, can be interrupted, and respects what others put into a folder."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments.organisms import loop
from experiments.organisms.errors import OrganismError
from experiments.organisms.train import TrainConfig, TrainingData, train
from experiments.organisms.training.checkpoint import TrainingState, load_state, save_state

pytestmark = pytest.mark.slow

# The smallest world, which is what most of so short a training is spent on.
TINY = TrainConfig(
    steps=7,
    batch_size=8,
    n_layers=1,
    n_heads=2,
    d_model=16,
    d_mlp=32,
    checkpoint_every=2,
    data=TrainingData(bearers=2),
)
FILES = {
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "facts.csv",
    "templates.json",
    "organism.json",
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(TINY, tmp_path_factory.mktemp("organism") / "new" / "folder")


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _interrupt_after(steps: int) -> Any:
    def progress(step: int, total: int, info: dict[str, Any]) -> None:
        if step == steps:
            raise KeyboardInterrupt

    return progress


def test_a_finished_folder_holds_the_organism_and_nothing_else(trained: Path) -> None:
    assert set(_contents(trained)) == FILES
    record = json.loads((trained / "organism.json").read_text())
    assert record["seed"] == TINY.seed
    assert len(record["losses"]) == TINY.steps
    assert record["versions"]["torch"] == torch.__version__


def test_the_same_config_gives_the_same_bytes(trained: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)  # the caller's random state must not matter
    assert _contents(train(TINY, tmp_path)) == _contents(trained)


def test_another_seed_gives_another_organism(trained: Path, tmp_path: Path) -> None:
    other = _contents(train(replace(TINY, seed=1), tmp_path))
    assert other["model.safetensors"] != _contents(trained)["model.safetensors"]
    assert other["facts.csv"] != _contents(trained)["facts.csv"]


def test_interruptions_leave_no_trace_in_the_result(trained: Path, tmp_path: Path) -> None:
    # Before the first checkpoint, between two, and after the last step.
    starts = []
    for stop in (1, 5, 7):
        with pytest.raises(KeyboardInterrupt):
            train(TINY, tmp_path, _interrupt_after(stop))
        assert not (tmp_path / "organism.json").exists()
    train(TINY, tmp_path, lambda step, total, info: starts.append(step))
    assert starts[0] == 7  # six steps were in the checkpoint
    assert _contents(tmp_path) == _contents(trained)


def test_an_interruption_while_finishing_leaves_no_trace(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(loop, "write_templates", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(TINY, tmp_path)
    assert _contents(train(TINY, tmp_path)) == _contents(trained)


def test_a_finished_training_returns_at_once(trained: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in trained.iterdir()}
    calls: list[int] = []
    assert train(TINY, trained, lambda step, total, info: calls.append(step)) == trained
    assert not calls
    assert {path.name: path.stat().st_mtime_ns for path in trained.iterdir()} == before


def test_progress_tells_every_step_and_the_accuracy(tmp_path: Path) -> None:
    calls: list[tuple[int, int, dict[str, Any]]] = []
    train(TINY, tmp_path, lambda *call: calls.append(call))
    assert [(step, total) for step, total, _ in calls] == [(i + 1, 7) for i in range(7)]
    assert calls[0][2]["forward"] is None
    last = calls[-1][2]
    assert 0 < last["loss"] < 10
    assert 0 <= last["forward"] <= 1
    assert 0 <= last["reverse"] <= 1


def test_the_caller_s_settings_stay_as_they_were(tmp_path: Path) -> None:
    def settings() -> tuple[Any, ...]:
        return (
            torch.get_num_threads(),
            torch.are_deterministic_algorithms_enabled(),
            torch.is_grad_enabled(),
            torch.random.get_rng_state().tolist(),
            np.random.get_state()[1].tolist(),  # type: ignore[index, union-attr]
            random.getstate(),
        )

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with torch.no_grad():
            before = settings()
            with pytest.raises(KeyboardInterrupt):
                train(TINY, tmp_path, _interrupt_after(1))
            assert settings() == before
    finally:
        torch.set_num_threads(threads)


def test_a_folder_of_another_config_is_refused(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(OrganismError, match="whose config"):
        train(replace(TINY, seed=1), trained)
    with pytest.raises(KeyboardInterrupt):
        train(TINY, tmp_path, _interrupt_after(3))
    with pytest.raises(OrganismError, match="whose config"):
        train(replace(TINY, steps=9), tmp_path)


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(OrganismError, match=r"thesis\.tex"):
        train(TINY, tmp_path)
    assert _contents(tmp_path) == {"thesis.tex": b"years of work"}


def test_somebody_s_model_is_refused_though_its_files_have_the_same_names(
    trained: Path, tmp_path: Path
) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(trained / name, tmp_path / name)
    before = _contents(tmp_path)
    with pytest.raises(OrganismError, match="not of this training"):
        train(TINY, tmp_path)
    assert _contents(tmp_path) == before


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(OrganismError, match="choose another"):
        train(TINY, tmp_path / "out")


def test_a_full_disk_is_told_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(loop, "write_facts", full)
    with pytest.raises(OrganismError, match="No space left on device"):
        train(TINY, tmp_path)


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(TINY, tmp_path, _interrupt_after(3))
    checkpoint = tmp_path / "training.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(OrganismError, match=r"training\.safetensors"):
        train(TINY, tmp_path)


@pytest.mark.parametrize(
    "change", [{"steps": 0}, {"learning_rate": 0.0}, {"seed": -1}, {"name_bottleneck": 1.5}]
)
def test_impossible_settings_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(OrganismError, match=next(iter(change))):
        replace(TINY, **change)


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(OrganismError, match="heads"):
        replace(TINY, n_heads=3)


def test_importing_the_trainer_does_not_load_torch() -> None:
    code = "import sys, experiments.organisms.train; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(TINY, tmp_path, _interrupt_after(1))
    for name in ("model.weight", "nonsense"):
        save_state(tmp_path, TrainingState(1, (1.0,), {name: torch.ones(1)}))
        with pytest.raises(OrganismError, match="is of another training or damaged; remove it"):
            train(TINY, tmp_path)
    save_state(tmp_path, TrainingState(2, (1.0,), {"model.weight": torch.ones(1)}))
    with pytest.raises(OrganismError, match="Cannot read the checkpoint"):
        load_state(tmp_path)


@pytest.mark.parametrize("name", ["training.json.tmp", "training.json", "training.safetensors.tmp"])
def test_nothing_is_written_through_a_link(tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    folder = tmp_path / "organism"
    folder.mkdir()
    (folder / name).symlink_to(victim)
    with contextlib.suppress(OrganismError):
        train(TINY, folder)
    assert victim.read_text() == "precious"


def test_a_pipe_in_place_of_a_record_is_one_sentence(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "organism.json")
    with pytest.raises(OrganismError, match="Cannot read"):
        train(TINY, tmp_path)
