"""H9 is calibrated: codes that are shared, codes that are not, and maps that read nothing."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from experiments.organisms.bundled import reversal_curse
from experiments.reversal_curse.facts import read_facts, read_templates
from experiments.reversal_curse.hypotheses import one_map
from experiments.reversal_curse.measure import Subject
from experiments.reversal_curse.measurements.one_map import mapped
from interp import load_model

pytestmark = pytest.mark.slow
FOLDER = reversal_curse()


@pytest.fixture(autouse=True)
def fewer_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp.stats.means.RESAMPLES", 99)


def drawn(seed: int, forward: float, reverse: float, n: int = 60) -> xr.Dataset:
    """Shares whose means are these; a name's place among others is anything from 0 to 1."""
    rng = np.random.default_rng(seed)

    def shares(mean: float) -> np.ndarray:
        return rng.beta(2 * mean, 2 * (1 - mean), n)

    return xr.Dataset(
        {
            "forward_at": ("example", shares(forward)),
            "reverse_at": ("example", shares(reverse)),
            "forward_null": ("draw", 0.5 + 0.037 * rng.normal(size=100)),
            "reverse_null": ("draw", 0.5 + 0.037 * rng.normal(size=100)),
        },
        coords={"question": ("example", np.arange(n))},
    )


def outcomes(
    runs: int, cursed: tuple[float, float], cured: tuple[float, float], n: int = 60
) -> list[str]:
    return [
        one_map.judge(drawn(2 * seed, *cursed, n=n), drawn(2 * seed + 1, *cured, n=n)).outcome
        for seed in range(runs)
    ]


def test_a_shared_code_in_the_cured_model_alone_is_mostly_seen() -> None:
    assert outcomes(60, (0.85, 0.5), (0.85, 0.85)).count("supported") >= 54


def test_without_one_it_is_rarely_called_so() -> None:
    assert outcomes(200, (0.85, 0.5), (0.85, 0.5)).count("supported") <= 10
    assert outcomes(60, (0.85, 0.65), (0.85, 0.85)).count("supported") <= 3 + 3
    assert outcomes(40, (0.85, 0.85), (0.85, 0.85)).count("rejected") >= 36
    assert outcomes(60, (0.85, 0.5), (0.85, 0.5)).count("rejected") >= 48


def test_a_map_that_retrieves_nothing_forward_tells_nothing() -> None:
    assert set(outcomes(20, (0.5, 0.5), (0.85, 0.85))) == {"undecided"}
    assert set(outcomes(20, (0.85, 0.5), (0.5, 0.85))) == {"undecided"}
    assert set(outcomes(3, (0.85, 0.5), (0.85, 0.85), n=19)) == {"undecided"}


def test_alone_or_refused_it_is_undecided_with_the_reason() -> None:
    alone = one_map.judge(drawn(0, 0.85, 0.5), None)
    assert alone.outcome == "undecided"
    assert "no second model" in alone.statement
    refused = xr.Dataset(attrs={"refused": "nothing is known"})
    assert "nothing is known" in one_map.judge(refused, refused).statement
    assert "nothing is known" in one_map.judge(drawn(0, 0.85, 0.5), refused).statement
    assert not one_map.one_map_dots(refused).data


@pytest.fixture(scope="module")
def subject() -> Subject:
    facts = tuple(read_facts(FOLDER / "facts.csv"))
    return Subject(load_model("reversal-curse"), facts, read_templates(FOLDER / "templates.json"))


def test_told_facts_are_retrieved_and_the_same_seed_gives_the_same(subject: Subject) -> None:
    split = np.array([fact.split for fact in subject.facts])
    told = np.nonzero(split == "forward")[0]
    learned = np.nonzero(np.isin(split, ("forward", "both")))[0]
    found = mapped(subject, told, learned, 1, lambda *_: None)
    assert float(found["forward_at"].mean()) > 0.65
    assert abs(float(found["forward_null"].mean()) - 0.5) < 0.05
    assert mapped(subject, told, learned, 1, lambda *_: None).identical(found)
    # Facts that were never told stand nowhere.
    never = np.nonzero(split == "held_out")[0]
    nothing = mapped(subject, never, learned, 1, lambda *_: None)
    if "forward_at" in nothing:
        assert float(nothing["forward_at"].mean()) < 0.7


def test_too_few_facts_are_refused(subject: Subject) -> None:
    few = np.arange(5)
    found = mapped(subject, few, few, 0, lambda *_: None)
    assert "20 are needed" in found.attrs["refused"]
    assert "20 are needed" in one_map.judge(found, None).statement
    assert not one_map.one_map_dots(found, found).data
