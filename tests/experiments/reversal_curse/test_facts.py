"""Facts, templates and the pairs made of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.errors import FactsError
from experiments.organisms.bundled import reversal_curse
from experiments.organisms.facts import Fact
from experiments.reversal_curse.facts import fill, read_facts, read_templates
from experiments.reversal_curse.prompts import check_answers, make_pairs, right_answers
from interp import load_model
from interp.model.model import Model


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model("reversal-curse")


def test_columns_of_the_celebrity_pairs_are_understood(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text(
        "child,parent,parent_type,child_prediction\n"
        "Tom Cruise,Mary Lee Pfeiffer,mother,\n"
        "Tom Cruise,Thomas Mapother III,father,someone\n"
    )
    first, second = read_facts(path)
    assert first == Fact("Tom Cruise", "Mary Lee Pfeiffer", "mother", "child", "unknown")
    assert second.relation == "father"


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    path = tmp_path / "facts.csv"
    path.write_bytes("\ufeffsubject,object\nAnn,Bea\n".encode())
    assert read_facts(path)[0].subject == "Ann"


def test_templates_reach_no_attributes() -> None:
    fact = Fact("Ann", "Bea", "mother", "child", "unknown")
    assert fill("{subject}'s {relation} is", fact) == "Ann's mother is"


@pytest.mark.parametrize(
    ("forward", "sentence"),
    [
        (["{subject.__class__} is"], "no other placeholders"),
        (["Who is it? It is"], "must name {subject}"),
        ([], "no trained template"),
        ([7], "not text"),
    ],
)
def test_bad_templates_are_refused(forward: list[object], sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "templates.json"
    reverse = {"trained": ["{object}'s {inverse} is"]}
    path.write_text(json.dumps({"forward": {"trained": forward}, "reverse": reverse}))
    with pytest.raises(FactsError, match=sentence.replace("{", r"\{")):
        read_templates(path)


def test_children_of_one_mother_are_all_right_answers() -> None:
    facts = [
        Fact("Ann", "Eve", "mother", "child", "unknown"),
        Fact("Bob", "Eve", "mother", "child", "unknown"),
        Fact("Cid", "Fay", "mother", "child", "unknown"),
    ]
    assert right_answers(facts, "reverse") == [{"Ann", "Bob"}, {"Ann", "Bob"}, {"Cid"}]
    assert right_answers(facts, "forward") == [{"Eve"}, {"Eve"}, {"Fay"}]


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_partners_ask_in_the_same_words_for_another_answer(direction: str, model: Model) -> None:
    facts = read_facts(reversal_curse() / "facts.csv")
    template = read_templates(reversal_curse() / "templates.json")[direction].trained[0]  # type: ignore[index]
    rows = list(range(0, 60, 5))
    pairs = make_pairs(model, facts, rows, direction, template, seed=1)  # type: ignore[arg-type]
    assert pairs.foils is not None
    firsts = zip(pairs.first_tokens("answer"), pairs.first_tokens("foil"), strict=True)
    assert all(int(answer) != int(foil) for answer, foil in firsts)
    for row, clean, corrupt in zip(rows, pairs.clean.texts, pairs.corrupt.texts, strict=True):
        name = facts[row].subject if direction == "forward" else facts[row].object
        assert clean == fill(template, facts[row])
        assert clean.split(name)[1] == corrupt[-len(clean.split(name)[1]) :]


def test_a_sham_keeps_partners_and_changes_the_source(model: Model) -> None:
    facts = read_facts(reversal_curse() / "facts.csv")
    template = read_templates(reversal_curse() / "templates.json")["forward"].trained[0]
    real = make_pairs(model, facts, [0, 3, 6], "forward", template, seed=1)
    sham = make_pairs(model, facts, [0, 3, 6], "forward", template, seed=1, sham=True)
    assert sham.corrupt.texts == real.corrupt.texts
    assert sham.answers == real.answers
    assert all(a != b for a, b in zip(sham.clean.texts, real.clean.texts, strict=True))


@pytest.mark.slow
def test_another_seed_draws_other_partners(model: Model) -> None:
    facts = read_facts(reversal_curse() / "facts.csv")
    template = read_templates(reversal_curse() / "templates.json")["forward"].trained[0]
    drawn = [
        make_pairs(model, facts, range(20), "forward", template, seed=seed).corrupt.texts
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


def test_answers_that_start_alike_cannot_be_paired(model: Model) -> None:
    facts = [
        Fact("Tom Cruise", "Mary Lee Pfeiffer", "mother", "son", "unknown"),
        Fact("Kate Hudson", "Mary Hawn", "mother", "daughter", "unknown"),
        Fact("Carrie Fisher", "Goldie Hawn", "mother", "daughter", "unknown"),
    ]
    check_answers(model, facts, "reverse", "{object}'s {inverse} is")
    with pytest.raises(FactsError, match="three different names"):
        check_answers(model, facts, "forward", "{subject}'s {relation} is")


def test_a_foil_is_wrong_of_the_question_and_no_brother(model: Model) -> None:
    """Four sons of one mother: none is the foil of another, whose question is the same."""
    folder = reversal_curse()
    templates = read_templates(folder / "templates.json")
    facts = [f for f in read_facts(folder / "facts.csv") if f.inverse == "son"][:6]
    facts = [replace(f, object=facts[0].object) if i < 4 else f for i, f in enumerate(facts)]
    for seed in range(5):
        pairs = make_pairs(model, facts, range(4), "reverse", templates["reverse"].trained[0], seed)
        for clean, corrupt in zip(pairs.clean.texts, pairs.corrupt.texts, strict=True):
            assert clean != corrupt
