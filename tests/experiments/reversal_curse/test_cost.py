"""A run that cannot fit is refused before it is begun, and a long one is told."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from experiments.errors import FactsError, StudyError
from experiments.numbers import duration
from experiments.organisms.bundled import reversal_curse
from experiments.organisms.facts import Fact
from experiments.reversal_curse import cost, forecast, measure, study
from experiments.reversal_curse.facts import DEFAULT_TEMPLATES, read_facts
from experiments.reversal_curse.measure import Subject
from experiments.runner import run_study
from interp import load_model
from interp.execute import Executor, Workers


@pytest.fixture(scope="module")
def subject() -> Subject:
    names = read_facts(reversal_curse() / "facts.csv")[:100]
    facts = tuple(
        Fact(one.subject, other.object, "mother", "son", "unknown")
        for other in names[:3]
        for one in names
    )
    return Subject(load_model("reversal-curse"), facts, DEFAULT_TEMPLATES)


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_million_facts_are_refused_at_once_with_figures(subject: Subject) -> None:
    many = dataclasses.replace(subject, facts=subject.facts * 3400)
    asked = cost.Cost(46_000_000, 10**15)
    start = time.monotonic()
    with pytest.raises(
        FactsError, match=r"1,020,000 facts takes about 1 PB of memory, and .* are free; give fewer"
    ):
        cost.check_memory(many, asked)
    assert time.monotonic() - start < 2


@pytest.mark.parametrize(
    ("executor", "workers"),
    [(Executor(), 1), (Executor("processes", 3), 3), (Workers(Executor("processes", 2)), 2)],
)
def test_the_time_is_told_stage_by_stage(
    subject: Subject, executor: Any, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    context: Any = SimpleNamespace(executor=executor, note=notes.append)
    monkeypatch.setattr(forecast, "seconds_of_text", lambda _: 0.01)
    monkeypatch.setattr(
        forecast, "seconds_of_stages", lambda _config, given: {"arms": 4000.0 / given}
    )
    known = cost.estimate(subject, 20, 200)
    seconds = forecast.forecast(study.Config(), subject, known, 0.01)
    forecast.tell(study.Config(), context, subject, known)
    (note,) = notes
    assert f"arms {duration(round(4000 / workers / 60) * 60)}" in note
    assert f"{workers} at a time" in note
    assert seconds > 0.01 * known.texts


def test_twice_as_slow_a_model_takes_almost_twice_as_long(subject: Subject) -> None:
    known = cost.estimate(subject, 20, 200)
    one, two = (forecast.forecast(study.Config(), subject, known, each) for each in (0.01, 0.02))
    assert 1.8 < two / one < 2


@pytest.mark.parametrize(("seconds", "tries"), [(0.1, 3), (1.5, 1)])
def test_what_is_slow_is_timed_once(
    subject: Subject, seconds: float, tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, asked = [0.0], []

    def score(_: object, prompts: list[str], answers: list[str]) -> None:
        asked.append(len(prompts))
        clock[0] += seconds

    monkeypatch.setattr(cost, "score_answers", score)
    monkeypatch.setattr(cost, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    assert cost.seconds_of_text(subject) == pytest.approx(seconds / 64)
    assert asked == [64] * tries


@pytest.mark.parametrize(
    "setting",
    [
        {"n_names": 0},
        {"n_names": -1},
        {"n_pairs": -1},
        {"lens_seconds": -1.0},
        {"lens_seconds": float("nan")},
        {"arm_seeds": -1},
    ],
)
def test_settings_that_mean_nothing_are_refused(setting: dict[str, Any]) -> None:
    ((name, value),) = setting.items()
    with pytest.raises(StudyError, match=f"{name} is {value}; choose"):
        study.Config(**setting)


@pytest.mark.slow
def test_a_run_that_cannot_fit_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "FEW", 0)
    monkeypatch.setattr(cost, "available_memory", lambda: 10**5)
    with pytest.raises(FactsError, match="of memory"):
        run_study(study.STUDY, study.Config(), out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
