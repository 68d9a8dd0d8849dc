"""The cured twin: the same people, another training."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from experiments.reversal_curse.config import Config
from experiments.reversal_curse.twin import cured_twin
from interp import load_model

ASKED = {"forward": "subject", "reverse": "object"}


def context(asked: list[str]) -> Any:
    def another_model(source: str) -> Any:
        asked.append(source)
        return load_model(source)

    return SimpleNamespace(another_model=another_model)


@pytest.mark.slow
def test_the_bundled_organism_has_a_twin_with_the_same_facts() -> None:
    asked: list[str] = []
    twin = cured_twin(Config(), context(asked))
    assert twin is not None
    assert asked == ["reversal-curse-cured"]
    model = load_model("reversal-curse")
    assert model.path is not None
    mine = (model.path / "facts.csv").read_text().splitlines()
    pairs = {tuple(line.split(",")[:2]) for line in mine[1:]}
    assert {(fact.subject, fact.object) for fact in twin.facts} == pairs
    assert twin.model.fingerprint != model.fingerprint


@pytest.mark.slow
def test_it_is_asked_in_the_words_that_the_study_is_given(tmp_path: Path) -> None:
    words = {way: {"trained": [f"The one of {{{name}}} is"]} for way, name in ASKED.items()}
    (tmp_path / "templates.json").write_text(json.dumps(words))
    twin = cured_twin(Config(templates=str(tmp_path / "templates.json")), context([]))
    assert twin is not None
    assert twin.main_template("reverse") == "The one of {object} is"


def test_other_models_and_other_facts_have_none(tmp_path: Path) -> None:
    asked: list[str] = []
    assert cured_twin(Config(model=str(tmp_path)), context(asked)) is None
    assert cured_twin(Config(facts="facts.csv"), context(asked)) is None
    assert asked == []
