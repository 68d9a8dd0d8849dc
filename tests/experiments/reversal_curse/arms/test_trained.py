"""What is asked of every trained organism, against plain passes and planted scores."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from transformers import AutoModelForCausalLM, AutoTokenizer

from experiments.organisms.config import TrainConfig, TrainingData
from experiments.organisms.errors import ObverseError, OrganismError
from experiments.organisms.facts import Direction
from experiments.organisms.training.checkpoint import discard, keep_step, kept_steps, staging
from experiments.reversal_curse.arms import trained as module
from experiments.reversal_curse.arms.trained import (
    candidates,
    curse_scores,
    seconds_of_step,
    subject_in,
    trained,
)
from experiments.reversal_curse.measure import Subject

TINY = TrainConfig(
    steps=2,
    batch_size=8,
    n_layers=1,
    n_heads=2,
    d_model=16,
    d_mlp=32,
    data=TrainingData(bearers=2),
    stored="float16",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(TINY, tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def subject(folder: Path) -> Subject:
    return subject_in(folder)


@pytest.mark.slow
def test_candidates_are_what_transformers_computes(folder: Path, subject: Subject) -> None:
    found = candidates(subject, "reverse")
    assert found.sizes == {"fact": 30, "name": 100}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    facts = subject.facts
    for row, name in ((0, 0), (0, 41), (7, 7), (29, 99)):
        fact = facts[int(found["fact"][row])]
        prompt = f"{fact.object}'s {fact.inverse} is"
        ids = tokenizer(f"{prompt} {facts[name].subject}", return_tensors="pt").input_ids
        start = len(tokenizer(prompt).input_ids)
        with torch.no_grad():
            logprobs = model(ids).logits[0].log_softmax(-1)
        of_tokens = [float(logprobs[i - 1, ids[0, i]]) for i in range(start, ids.shape[1])]
        cell = found.isel(fact=row, name=name)
        assert cell["logprob"].item() == pytest.approx(sum(of_tokens), abs=1e-3)
        assert cell["first_logprob"].item() == pytest.approx(of_tokens[0], abs=1e-3)
        assert cell["first_token"].item() == ids[0, start]


@pytest.mark.parametrize("link", ["folder", "parent", "steps"])
def test_what_a_link_leads_to_is_never_replaced(tmp_path: Path, link: str) -> None:
    """A run directory from elsewhere, whose organism is a link to somebody's model."""
    precious = tmp_path / "precious" / "organism"
    for name in ("config.json", "model.safetensors", "0/model.safetensors", "7/mine.txt"):
        (precious / name).parent.mkdir(parents=True, exist_ok=True)
        (precious / name).write_text("precious")
    folder = tmp_path / "organisms" / "none-0" / "organism"
    place = {"folder": folder, "parent": folder.parent, "steps": folder / "steps"}[link]
    place.parent.mkdir(parents=True)
    place.symlink_to(precious.parent if link == "parent" else precious)
    replace_it: Any = partial(trained, TINY, folder)
    if link == "steps":
        assert kept_steps(folder) == {}
        discard(folder)
        staging(folder)
        replace_it = partial(keep_step, folder, 0)
    with pytest.raises(ObverseError, match="is a symbolic link, which is not followed"):
        replace_it()
    assert {path.read_text() for path in precious.rglob("*.*")} == {"precious"}
    assert len(list(precious.rglob("*.*"))) == 4


def _planted(monkeypatch: pytest.MonkeyPatch, subject: Subject, known: float, seed: int) -> Any:
    """Scores of questions and names, with `known` nats for the right name in the reverse."""
    rng = np.random.default_rng(seed)
    facts = subject.facts
    asked = [i for i, fact in enumerate(facts) if fact.split == "forward"]

    def made(_: Subject, direction: Direction) -> xr.Dataset:
        shape = (len(asked), len(facts))
        # Names that were told in reverse are likelier whatever is asked: the prior of candidates.
        prior = np.array([6.0 * (fact.split != "forward") for fact in facts])
        score = rng.normal(0, 1, shape) + rng.normal(0, 2, (len(asked), 1)) + prior
        own = (np.arange(len(asked)), asked)
        score[own] += known if direction == "reverse" else 20.0
        words = [f"{fact.relation}/{fact.inverse}" for fact in facts]
        return xr.Dataset(
            dict.fromkeys(("logprob", "first_logprob"), (("fact", "name"), score)),
            coords={
                "fact": asked,
                "words": ("name", words),
                "first_token": ("name", np.arange(len(facts))),
            },
        )

    monkeypatch.setattr(module, "candidates", made)
    return curse_scores(subject).set_index("direction")


@pytest.mark.slow
def test_a_cured_curse_that_reads_as_none_among_all_names_is_seen_among_held_out_ones(
    monkeypatch: pytest.MonkeyPatch, subject: Subject
) -> None:
    table = _planted(monkeypatch, subject, known=4.0, seed=0)
    assert table.loc["forward", "open_first"] == 1.0
    assert table.loc["reverse", "open_first"] < 0.2
    assert table.loc["reverse", "held_first"] > 0.8
    assert table.loc["reverse", "score"] == pytest.approx(4.0, abs=0.7)
    assert table.loc["reverse", "low"] < 4.0 < table.loc["reverse", "high"]
    assert table.loc["reverse", "chance"] == pytest.approx(2 / 30)


@pytest.mark.slow
def test_what_is_not_known_has_no_score(monkeypatch: pytest.MonkeyPatch, subject: Subject) -> None:
    tables = [_planted(monkeypatch, subject, 0.0, seed).loc["reverse"] for seed in range(40)]
    covered = np.mean([table["low"] < 0 < table["high"] for table in tables])
    assert covered >= 0.85
    assert abs(np.mean([table["score"] for table in tables])) < 0.15
    assert np.mean([table["held_first"] for table in tables]) == pytest.approx(2 / 30, abs=0.03)


@pytest.mark.slow
def test_an_organism_of_other_settings_is_replaced_and_nothing_else(
    folder: Path, tmp_path: Path
) -> None:
    place = tmp_path / "organism"
    shutil.copytree(folder, place)
    weights = (place / "model.safetensors").read_bytes()
    assert trained(TINY, place) == place
    assert (place / "model.safetensors").read_bytes() == weights
    trained(replace(TINY, seed=1), place)
    assert (place / "model.safetensors").read_bytes() != weights
    (place / "thesis.tex").write_text("years of work")
    with pytest.raises(OrganismError, match=r"thesis\.tex"):
        trained(TINY, place)
    assert (place / "thesis.tex").read_text() == "years of work"


@pytest.mark.slow
def test_a_step_is_timed_and_leaves_nothing() -> None:
    assert 0 < seconds_of_step(TrainConfig(**{**vars(TINY), "steps": 400})) < 5
