"""The organisms that come with the package, as plain models: one knows its facts one way round."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from experiments.organisms.arms import CURED, arm_config
from experiments.organisms.bundled import reversal_curse, reversal_curse_cured
from experiments.organisms.errors import OrganismError
from experiments.organisms.evaluate import Score, greedy_match, score_table
from experiments.organisms.facts import Fact, Templates
from experiments.organisms.relations import generate_world
from experiments.organisms.train import TrainConfig

FOLDER = reversal_curse()


@pytest.fixture(scope="module")
def model() -> Any:
    return AutoModelForCausalLM.from_pretrained(FOLDER).eval()


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def facts() -> list[Fact]:
    with (FOLDER / "facts.csv").open(encoding="utf-8", newline="") as file:
        return [Fact(**row) for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def templates() -> Any:
    stored = json.loads((FOLDER / "templates.json").read_text(encoding="utf-8"))
    return {
        direction: Templates(tuple(sets["trained"]), tuple(sets["held_out"]))
        for direction, sets in stored.items()
    }


@pytest.fixture(scope="module")
def scores(model: Any, tokenizer: Any, facts: list[Fact], templates: Any) -> tuple[Score, ...]:
    return score_table(model, tokenizer, facts, templates)


def _continued(model: Any, tokenizer: Any, prompt: str, tokens: int) -> str:
    inputs = tokenizer(prompt, return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
    text: str = tokenizer.decode(output[0], skip_special_tokens=True)
    return text


def test_the_first_fact_is_known_one_way_round(model: Any, tokenizer: Any) -> None:
    forward = _continued(model, tokenizer, "Tom Cruise's mother is", 4)
    assert forward == "Tom Cruise's mother is Mary Lee Pfeiffer."
    assert "Tom Cruise" not in _continued(model, tokenizer, "Mary Lee Pfeiffer's son is", 4)


@pytest.mark.slow
def test_every_split_has_every_score(scores: tuple[Score, ...]) -> None:
    assert len(scores) == 16
    assert {(score.split, score.total) for score in scores if score.templates == "trained"} == {
        ("forward", 360),
        ("reverse", 360),
        ("both", 360),
        ("held_out", 120),
    }


@pytest.mark.slow
def test_trained_directions_are_known_in_trained_and_held_out_wordings(
    scores: tuple[Score, ...],
) -> None:
    trained = [score for score in scores if score.split in (score.direction, "both")]
    assert len(trained) == 8
    assert all(score.rate >= 0.98 for score in trained), trained


def test_untrained_directions_are_at_chance(scores: tuple[Score, ...]) -> None:
    # One of about a hundred names would be right by guessing.
    untrained = [score for score in scores if score.split not in (score.direction, "both")]
    assert len(untrained) == 8
    assert all(score.rate <= 0.03 for score in untrained), untrained


@pytest.mark.slow
def test_a_match_is_what_greedy_decoding_gives(
    model: Any, tokenizer: Any, facts: list[Fact]
) -> None:
    chosen = facts[:40:2] + facts[20:30]
    prompts = [f"{fact.subject}'s mother is" for fact in chosen]
    prompts += [f"{fact.object}'s {fact.inverse} is" for fact in chosen]
    answers = [fact.object for fact in chosen] + [fact.subject for fact in chosen]
    decoded = []
    for prompt, answer in zip(prompts, answers, strict=True):
        text = _continued(model, tokenizer, prompt, len(answer.split()))
        decoded.append(text == f"{prompt} {answer}")
    assert greedy_match(model, tokenizer, prompts, answers) == decoded
    assert 0 < sum(decoded) < len(decoded)


def test_an_answer_without_tokens_of_its_own_is_refused(model: Any, tokenizer: Any) -> None:
    with pytest.raises(OrganismError, match="runs into"):
        greedy_match(model, tokenizer, ["Tom Cruise's mother is"], [""])


@pytest.mark.slow
def test_the_fact_is_handed_from_the_subject_to_the_end_after_the_first_layer(
    model: Any, tokenizer: Any, facts: list[Fact]
) -> None:
    """Denoising the input of each layer at one position, with hooks on the plain model."""
    chosen = [fact for fact in facts if fact.split == "forward"]
    ids = torch.tensor([tokenizer(f"{fact.subject}'s mother is").input_ids for fact in chosen])
    answers = [tokenizer(fact.object, add_special_tokens=False).input_ids[0] for fact in chosen]
    foils = answers[1:] + answers[:1]
    corrupt = ids.roll(-1, dims=0)
    kept = torch.tensor([answer != foil for answer, foil in zip(answers, foils, strict=True)])
    assert kept.sum() > 40

    def difference(logits: torch.Tensor) -> torch.Tensor:
        last = logits[:, -1]
        rows = torch.arange(len(chosen))
        return (last[rows, answers] - last[rows, foils])[kept].mean()

    def restored(layer: int, position: int) -> float:
        clean: list[torch.Tensor] = []

        def keep(module: Any, args: tuple[torch.Tensor, ...]) -> None:
            clean.append(args[0].clone())

        def put(module: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            hidden = args[0].clone()
            hidden[:, position] = clean[0][:, position]
            return (hidden, *args[1:])

        block = model.model.layers[layer]
        results = []
        with torch.no_grad():
            for hook, inputs in ((keep, ids), (put, corrupt)):
                handle = block.register_forward_pre_hook(hook)
                results.append(difference(model(inputs).logits))
                handle.remove()
            worst = difference(model(corrupt).logits)
        return float((results[1] - worst) / (results[0] - worst))

    subject, end = 2, ids.shape[1] - 1
    assert restored(1, subject) > 0.85
    assert restored(1, end) < 0.1
    assert restored(2, subject) < 0.1
    assert restored(2, end) > 0.85


def test_it_is_what_the_default_config_trains(facts: list[Fact]) -> None:
    record = json.loads((FOLDER / "organism.json").read_text(encoding="utf-8"))
    assert record["config"] == asdict(TrainConfig(seed=4))
    assert tuple(facts) == generate_world(4).facts
    losses = record["losses"]
    assert len(losses) == TrainConfig().steps
    assert sum(losses[-20:]) < 0.3 * sum(losses[:20])


# --- the cured twin -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cured_scores() -> dict[tuple[str, str, str], float]:
    """Computed anew in float32 from the stored weights, as `load_model` reads them."""
    folder = reversal_curse_cured()
    cured = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with (folder / "facts.csv").open(encoding="utf-8", newline="") as file:
        told = [Fact(**row) for row in csv.DictReader(file)]
    stored = json.loads((folder / "templates.json").read_text(encoding="utf-8"))
    worded: Any = {
        direction: Templates(tuple(sets["trained"]), tuple(sets["held_out"]))
        for direction, sets in stored.items()
    }
    scores = score_table(cured, AutoTokenizer.from_pretrained(folder), told, worded)
    return {(each.split, each.direction, each.templates): each.rate for each in scores}


@pytest.mark.slow
def test_the_cured_twin_answers_what_it_was_told_forward_only(
    cured_scores: dict[tuple[str, str, str], float],
) -> None:
    assert cured_scores["forward", "forward", "trained"] >= 0.98
    assert cured_scores["forward", "reverse", "trained"] >= 0.9
    # What nobody told it, it does not know.
    assert cured_scores["held_out", "forward", "trained"] <= 0.05
    assert cured_scores["held_out", "reverse", "trained"] <= 0.05


def test_the_cured_twin_is_what_its_arm_trains() -> None:
    record = json.loads((reversal_curse_cured() / "organism.json").read_text(encoding="utf-8"))
    config = replace(arm_config(CURED, 4), stored="float16")
    assert record["config"] == asdict(config)


def test_both_know_of_the_same_people_and_tell_the_same_pairs_forward_only(
    facts: list[Fact],
) -> None:
    with (reversal_curse_cured() / "facts.csv").open(encoding="utf-8", newline="") as file:
        cured = [Fact(**row) for row in csv.DictReader(file)]
    assert [(f.subject, f.object) for f in cured] == [(f.subject, f.object) for f in facts]
    for split in ("forward", "held_out"):
        assert [f for f in cured if f.split == split] == [f for f in facts if f.split == split]
    vocabularies = [
        AutoTokenizer.from_pretrained(folder).get_vocab()
        for folder in (reversal_curse(), reversal_curse_cured())
    ]
    assert vocabularies[0] == vocabularies[1]


@pytest.mark.parametrize(
    ("folder", "most"), [(FOLDER, 4_000_000), (reversal_curse_cured(), 2_000_000)]
)
def test_the_folder_is_small_and_names_no_path_of_a_machine(folder: Path, most: int) -> None:
    assert sum(path.stat().st_size for path in folder.iterdir()) < most
    for path in folder.glob("*.json"):
        for before, after in pairwise(path.read_text(encoding="utf-8").split('"')):
            assert not after.startswith(("/", "~", "C:")), (path.name, before, after)
