"""The probe at the asked name: no leak from wording or shared words, and no number for nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from experiments.organisms.bundled import reversal_curse
from experiments.organisms.facts import Fact, Templates
from experiments.reversal_curse import retrieve
from experiments.reversal_curse.facts import read_facts, read_templates
from experiments.reversal_curse.measure import Subject
from interp import load_model

FOLDER = reversal_curse()


@pytest.fixture(scope="module")
def subject() -> Subject:
    facts = tuple(f for f in read_facts(FOLDER / "facts.csv") if f.split == "forward")
    return Subject(load_model("reversal-curse"), facts, read_templates(FOLDER / "templates.json"))


def probed(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> float:
    monkeypatch.setattr(retrieve, "SHUFFLES", 3)
    every = np.arange(len(subject.facts))
    found = retrieve.probe_name(subject, "reverse", every, 0, lambda *_: None)
    return float(found["preferred"].mean())


@pytest.mark.slow
def test_wrong_partners_are_told_by_chance(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the wording names son or daughter before the name: another one is taken."""
    means = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        facts = list(subject.facts)
        for word in ("son", "daughter"):
            mine = [i for i, fact in enumerate(facts) if fact.inverse == word]
            order = rng.permutation(mine)
            names = [facts[j].subject for j in order]
            for i, name in zip(mine, names, strict=True):
                facts[i] = replace(facts[i], subject=name)
        wordings = ("The {inverse} of {object} is", "{object}'s {inverse} is")
        templates = {**subject.templates, "reverse": Templates(wordings, ())}
        drawn = Subject(subject.model, tuple(facts), templates)
        means.append(probed(drawn, monkeypatch))
    assert np.mean(means) == pytest.approx(0.5, abs=0.06)


@pytest.mark.slow
def test_without_a_wording_that_begins_with_the_name_there_is_no_probe(subject: Subject) -> None:
    templates = {**subject.templates, "reverse": Templates(("The {inverse} of {object} is",), ())}
    there = Subject(subject.model, subject.facts, templates)
    found = retrieve.probe_name(there, "reverse", np.arange(60), 0, lambda *_: None)
    assert "begins with the name" in found.attrs["refused"]


def test_names_that_share_a_word_and_few_facts_are_left_out(subject: Subject) -> None:
    alike = tuple(
        replace(fact, subject=f"{fact.subject.split()[0]} {fact.object.split()[-1]}")
        for fact in subject.facts
    )
    there = Subject(subject.model, alike, subject.templates)
    found = retrieve.probe_name(there, "reverse", np.arange(60), 0, lambda *_: None)
    assert found.attrs["refused"] == "0 facts, and a probe needs 20"


def test_facts_joined_by_a_question_or_an_answer_are_in_one_group() -> None:
    assert retrieve.joined_groups([0, 0, 1, 2, 3], ["a", "b", "b", "c", "d"]) == [0, 0, 0, 1, 2]
    assert retrieve.joined_groups([], []) == []


def test_the_same_word_in_another_case_is_shared() -> None:
    assert retrieve.names_share_a_word(Fact("Ann LEE", "Bea Lee", "mother", "child", "unknown"))
    assert not retrieve.names_share_a_word(
        Fact("Ann Lee", "Bea Leeds", "mother", "child", "unknown")
    )
