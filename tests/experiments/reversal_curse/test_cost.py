"""A run that cannot fit is refused before it is begun, and a long one is told."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import numpy as np
import pytest

from experiments.errors import FactsError
from experiments.organisms.bundled import reversal_curse
from experiments.organisms.facts import Fact
from experiments.reversal_curse import cost, measure, study
from experiments.reversal_curse.facts import DEFAULT_TEMPLATES, read_facts
from experiments.reversal_curse.measure import Subject
from experiments.runner import run_study
from interp import load_model


@pytest.fixture(scope="module")
def subject() -> Subject:
    names = read_facts(reversal_curse() / "facts.csv")[:100]
    facts = tuple(
        Fact(one.subject, other.object, "mother", "son", "unknown")
        for other in names[:3]
        for one in names
    )
    return Subject(load_model("reversal-curse"), facts, DEFAULT_TEMPLATES)


def test_what_is_counted_is_what_is_scored(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[int] = []

    class Counted(Exception):
        pass

    def count(_: object, prompts: list[str], answers: list[str], **__: object) -> None:
        scored.append(len(answers))
        raise Counted

    monkeypatch.setattr(measure, "score_answers", count)
    # Each mother has a hundred children, and each child three mothers: all right answers count.
    facts = subject.facts
    with pytest.raises(Counted):
        measure.answer_all(subject, lambda *_: None)
    grid = measure.name_grid(facts, measure.pick_names(facts, 20, np.random.default_rng(0)))
    assert cost.estimate(subject, 20, 200).texts == scored[0] + 2 * len(grid)


def test_a_million_facts_are_refused_at_once_with_figures(subject: Subject) -> None:
    many = dataclasses.replace(subject, facts=subject.facts * 3400)
    asked = cost.Cost(46_000_000, 10**15)
    start = time.monotonic()
    with pytest.raises(
        FactsError, match=r"1,020,000 facts takes about 1 PB of memory, and .* are free; give fewer"
    ):
        cost.tell(many, asked, print)
    assert time.monotonic() - start < 2


def test_long_work_is_told_and_short_work_is_not(subject: Subject) -> None:
    notes: list[str] = []
    cost.tell(subject, cost.Cost(1000, 10**6), notes.append)
    assert notes == []
    cost.tell(subject, cost.Cost(10**9, 10**6), notes.append)
    (note,) = notes
    assert note.startswith("1,000,000,000 answers to 300 facts are scored: about ")
    assert "1 MB of memory" in note


def test_a_run_that_cannot_fit_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "FEW", 0)
    monkeypatch.setattr(cost, "available_memory", lambda: 10**5)
    with pytest.raises(FactsError, match="of memory"):
        run_study(study.STUDY, study.Config(), out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
