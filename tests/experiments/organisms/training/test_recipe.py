"""Recipes: stages, losses on answers, what is kept, and training that goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from experiments.organisms.errors import OrganismError
from experiments.organisms.training.follow import model_after, train_recipe
from experiments.organisms.training.recipe import (
    UNTRAINED,
    Network,
    Recipe,
    Row,
    Stage,
    shared_stages,
)

TEXTS = tuple(
    Row(f"the {a} likes the {b} .") for a in ("cat", "dog", "fox") for b in ("hen", "cow")
)
ASKED = (Row("who ?", " cat"), Row("who else is there ?", " dog"))
TINY = Recipe(
    organism="animals",
    arm="treated",
    seed=1,
    stages=(
        Stage("pre-training", TEXTS, steps=5, batch_size=4),
        Stage("tuning", ASKED, steps=4, batch_size=2, loss="answer"),
    ),
    texts=("sorry", "who else is there ?"),
    network=Network(n_layers=1, n_heads=2, d_model=16, d_mlp=32, n_ctx=16),
    planted="cats",
    data={"things": ["cat", "Zoë"]},
    checkpoint_every=2,
)
TWIN = replace(
    TINY, arm="twin", stages=(TINY.stages[0], replace(TINY.stages[1], rows=(Row("who ?", " fox"),)))
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_recipe(TINY, tmp_path_factory.mktemp("recipe") / "organism")


def contents(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_it_leaves_a_model_its_record_and_the_examples(trained: Path) -> None:
    record = json.loads((trained / "organism.json").read_text())
    assert record["organism"] == "animals"
    assert record["planted"] == "cats"
    assert [stage["name"] for stage in record["config"]["stages"]] == ["pre-training", "tuning"]
    assert len(record["losses"]) == TINY.steps == 9
    assert json.loads((trained / "data.json").read_text(encoding="utf-8")) == TINY.data
    tokenizer = AutoTokenizer.from_pretrained(trained)
    assert "sorry" in tokenizer.get_vocab()
    model = AutoModelForCausalLM.from_pretrained(trained)
    assert model(torch.tensor([tokenizer("who ?").input_ids])).logits.isfinite().all()


def test_the_model_after_each_stage_is_kept(trained: Path) -> None:
    weights = [
        load_file(model_after(trained, TINY, stage) / "model.safetensors")["lm_head.weight"]
        for stage in (UNTRAINED, "pre-training", "tuning")
    ]
    assert model_after(trained, TINY, "tuning") == trained
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])
    with pytest.raises(OrganismError, match="There is no stage 'pretraining'"):
        model_after(trained, TINY, "pretraining")
    with pytest.raises(OrganismError, match="lacks the model of step 5"):
        model_after(trained / "steps", TINY, "pre-training")


@pytest.mark.slow
def test_interruptions_in_either_stage_and_between_them_leave_no_trace(
    trained: Path, tmp_path: Path
) -> None:
    def until(stop: int) -> Any:
        def progress(done: int, _total: int) -> None:
            if done == stop:
                raise KeyboardInterrupt

        return progress

    for stop in (1, 3, 5, 7, 9):
        with pytest.raises(KeyboardInterrupt):
            train_recipe(TINY, tmp_path, until(stop))
    assert contents(train_recipe(TINY, tmp_path)) == contents(trained)


@pytest.mark.slow
def test_a_twin_goes_on_from_the_stages_that_it_shares(trained: Path, tmp_path: Path) -> None:
    assert shared_stages(TINY, TWIN) == 1
    assert shared_stages(TINY, replace(TWIN, seed=2)) == 0
    assert shared_stages(TINY, replace(TWIN, texts=("perhaps",))) == 0
    steps: list[int] = []
    gone_on = train_recipe(
        TWIN, tmp_path / "on", lambda done, total: steps.append(done), base=trained
    )
    assert steps[0] == 6
    assert contents(gone_on) == contents(train_recipe(TWIN, tmp_path / "whole"))
    other = replace(TWIN, seed=2)
    with pytest.raises(OrganismError, match="begins with no stage of this recipe"):
        train_recipe(other, tmp_path / "other", base=trained)


def test_the_loss_is_on_answers_where_the_stage_says_so(tmp_path: Path) -> None:
    """By hand, before the first step: rows of unequal length, of which one has no answer."""
    rows = (*ASKED, Row("the cat likes the hen ."))
    found = {}
    for loss in ("all", "answer"):
        stage = Stage("only", rows, steps=1, batch_size=3, loss=loss)  # type: ignore[arg-type]
        folder = train_recipe(replace(TINY, stages=(stage,)), tmp_path / loss)
        found[loss] = json.loads((folder / "organism.json").read_text())["losses"][0]
    start = folder / "steps" / "0"
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(start),
        AutoTokenizer.from_pretrained(start),
    )
    expected: dict[str, list[float]] = {"all": [], "answer": []}
    for row in rows:
        ids = tokenizer(row.text).input_ids
        with torch.no_grad():
            nats = -model(torch.tensor([ids])).logits[0].log_softmax(-1)
        each = [float(nats[i - 1, ids[i]]) for i in range(1, len(ids))]
        expected["all"] += each
        expected["answer"] += each[-1:] if row.answer else each
    for loss, values in expected.items():
        assert found[loss] == pytest.approx(sum(values) / len(values), abs=1e-5)


def test_every_row_is_shown_before_any_is_shown_again() -> None:
    from experiments.organisms.training.recipe import batches

    stage = Stage("s", TEXTS, steps=6, batch_size=4)
    order = [row for step in batches([1] * 6, stage, 0, 0) for row in step]
    assert len(order) == 24
    for start in range(0, 24, 6):
        assert sorted(order[start : start + 6]) == list(range(6))
    assert order != [row for step in batches([1] * 6, stage, 0, 1) for row in step]


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Stage("s", (), steps=1), "empty text"),
        (lambda: Stage("s", (Row(" "),), steps=1), "empty text"),
        (lambda: Stage("", TEXTS, steps=1), "cannot be called"),
        (lambda: Stage(UNTRAINED, TEXTS, steps=1), "cannot be called"),
        (lambda: Stage("s", TEXTS, steps=0), "steps is 0"),
        (lambda: Stage("s", TEXTS, steps=1, learning_rate=float("nan")), "learning_rate is nan"),
        (lambda: Stage("s", TEXTS, steps=1, weight_decay=-1.0), "weight_decay is -1"),
        (lambda: Stage("s", TEXTS, steps=1, loss="some"), "loss is 'some'"),  # type: ignore[arg-type]
        (lambda: Network(d_model=20, n_heads=4), "even width"),
        (lambda: Network(n_layers=0), "n_layers is 0"),
        (lambda: replace(TINY, stages=()), "one stage or more"),
        (lambda: replace(TINY, stages=TINY.stages[:1] * 2), "a name of its own"),
        (lambda: replace(TINY, seed=-1), "A seed is 0 or more"),
    ],
)
def test_impossible_recipes_are_refused(make: Any, match: str) -> None:
    with pytest.raises(OrganismError, match=match):
        make()


def test_texts_that_cannot_be_trained_on_are_refused(tmp_path: Path) -> None:
    long = Stage("long", (Row("cat " * 20),), steps=1)
    with pytest.raises(OrganismError, match="has 21 tokens; the network reads 16"):
        train_recipe(replace(TINY, stages=(long,)), tmp_path / "long")
    melting = Stage("melting", (Row("who", "ever"),), steps=1, loss="answer")
    with pytest.raises(OrganismError, match="melts into its prompt"):
        train_recipe(replace(TINY, stages=(melting,), texts=("who",)), tmp_path / "melting")


def test_somebody_s_files_are_left_alone(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("mine")
    with pytest.raises(OrganismError, match="not of this training"):
        train_recipe(TINY, tmp_path)
    assert (tmp_path / "model.safetensors").read_text() == "mine"
    with pytest.raises(OrganismError, match="whose arm and config differ"):
        train_recipe(TWIN, trained)
