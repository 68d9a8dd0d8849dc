"""Models on the way of a training: the ones that were there, whatever interrupted it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from experiments.organisms.errors import OrganismError
from experiments.organisms.train import TrainConfig, TrainingData, kept_steps, train
from experiments.organisms.training.network import build_model

pytestmark = pytest.mark.slow

# The smallest world, which is what most of so short a training is spent on.
TINY = TrainConfig(
    steps=6,
    batch_size=8,
    n_layers=1,
    n_heads=2,
    d_model=16,
    d_mlp=32,
    checkpoint_every=2,
    data=TrainingData(bearers=2),
)
KEEP = (0, 3, 6)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(TINY, tmp_path_factory.mktemp("kept"), keep=KEEP)


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def _equal(one: Path, other: Path) -> bool:
    first, second = _weights(one), _weights(other)
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def test_the_first_is_untrained_and_the_last_is_the_organism(trained: Path) -> None:
    kept = kept_steps(trained)
    assert list(kept) == list(KEEP)
    assert _equal(kept[6], trained)
    assert not _equal(kept[3], trained)
    start = build_model(TINY, len(AutoTokenizer.from_pretrained(trained))).state_dict()
    stored = _weights(kept[0])
    assert all(torch.equal(stored[name], value) for name, value in start.items())


def test_keeping_changes_no_weight(trained: Path, tmp_path: Path) -> None:
    assert _equal(train(TINY, tmp_path), trained)


def test_a_kept_step_is_a_model_with_its_facts(trained: Path) -> None:
    folder = kept_steps(trained)[3]
    model = AutoModelForCausalLM.from_pretrained(folder)
    ids = AutoTokenizer.from_pretrained(folder)("Tom Cruise's mother is", return_tensors="pt")
    assert torch.isfinite(model(**ids).logits).all()
    assert {path.name for path in folder.iterdir()} >= {"facts.csv", "templates.json"}


def test_an_interruption_leaves_no_trace_in_kept_steps(trained: Path, tmp_path: Path) -> None:
    stop = 5  # behind step 3, which was kept, and a checkpoint

    def progress(step: int, total: int, info: dict[str, Any]) -> None:
        if step == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(TINY, tmp_path, progress, keep=KEEP)
    train(TINY, tmp_path, keep=KEEP)
    assert all(_equal(kept_steps(tmp_path)[step], kept_steps(trained)[step]) for step in KEEP)


def test_steps_asked_for_after_an_interruption_are_had_from_the_start(
    trained: Path, tmp_path: Path
) -> None:
    def progress(step: int, total: int, info: dict[str, Any]) -> None:
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(TINY, tmp_path, progress)
    train(TINY, tmp_path, keep=[3])
    assert _equal(kept_steps(tmp_path)[3], kept_steps(trained)[3])


def test_a_finished_training_without_the_step_is_refused(trained: Path) -> None:
    assert train(TINY, trained, keep=[3]) == trained
    with pytest.raises(OrganismError, match="without its step 2"):
        train(TINY, trained, keep=[2])


@pytest.mark.parametrize("step", [-1, 7])
def test_a_step_that_there_is_not_is_refused(tmp_path: Path, step: int) -> None:
    with pytest.raises(OrganismError, match=f"Step {step} "):
        train(TINY, tmp_path / "new", keep=[step])
    assert not (tmp_path / "new").exists()


def test_weights_in_half_precision_are_those_that_are_evaluated(
    trained: Path, tmp_path: Path
) -> None:
    halved = _weights(train(replace(TINY, stored="float16"), tmp_path))
    whole = _weights(trained)
    assert all(value.dtype == torch.float16 for value in halved.values())
    assert all(torch.equal(halved[name], value.half()) for name, value in whole.items())
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.dtype == torch.float16
