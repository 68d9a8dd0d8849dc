"""H4 is calibrated, and what components write is what the library attributes to them."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from experiments.organisms.bundled import reversal_curse
from experiments.organisms.facts import Fact
from experiments.reversal_curse.facts import read_facts, read_templates
from experiments.reversal_curse.hypotheses import attribution
from experiments.reversal_curse.hypotheses.attribution import TOTAL, Written
from experiments.reversal_curse.hypotheses.preferences import Preferences
from experiments.reversal_curse.measure import Subject
from experiments.reversal_curse.measurements.attribution import written
from interp import direct_logit_attribution, load_model

pytestmark = pytest.mark.slow

FOLDER = reversal_curse()
NAMES = ("a0.h0", "a0.bias", "m0", "m1", TOTAL)
# How far single shares differ from name to name in the bundled organism; the bias says nothing.
SPREADS = np.array([0.2, 0.0, 0.5, 1.0])


@pytest.fixture(autouse=True)
def fewer_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp.stats.means.RESAMPLES", 99)


def scored(seed: int, true: np.ndarray) -> Written:
    """Shares around true means [component, fact], of all but the sum, and of wrong names."""
    rng = np.random.default_rng(seed)
    n = true.shape[1]
    scores = true + SPREADS[:, None] * rng.normal(size=(4, n))
    null = SPREADS[:, None, None] * rng.normal(size=(4, n, 20))
    whole = [np.concatenate([each, each.sum(0, keepdims=True)]) for each in (scores, null)]
    return Written(NAMES, Preferences(whole[0], whole[1], np.arange(n)))


def true_of(n: int, m1: float = 0.0, each: float = 0.0) -> np.ndarray:
    out = np.full((4, n), each) * (SPREADS > 0)[:, None]
    out[3] += m1
    return out


def outcomes(true: np.ndarray, told: float = 6.0, runs: int = 20) -> list[str]:
    n = true.shape[1]
    return [
        attribution.decide(scored(seed, true), scored(seed + 999, true_of(n, told))).outcome
        for seed in range(runs)
    ]


def test_nothing_written_is_mostly_seen_and_hardly_ever_rejected() -> None:
    found = outcomes(true_of(120), runs=100)
    assert found.count("supported") >= 90
    assert found.count("rejected") <= 5


@pytest.mark.parametrize(
    ("m1", "each"), [(attribution.MARGIN, 0.0), (0.0, 0.25), (-0.8, 0.0), (6.0, 0.0)]
)
def test_what_is_written_is_rarely_called_nothing(m1: float, each: float) -> None:
    """By one component at the margin, by all a little, against the answer, or as it was told."""
    found = outcomes(true_of(120, m1, each), runs=40)
    assert found.count("supported") <= 2 + 3


def test_half_written_and_half_written_against_is_not_nothing() -> None:
    true = true_of(120)
    true[3] = np.tile([2.0, -2.0], 60)
    assert outcomes(true).count("supported") <= 1


def test_a_few_known_facts_are_not_nothing() -> None:
    true = true_of(120)
    true[3, :12] = 8.0
    assert outcomes(true).count("supported") == 0


def test_a_component_that_writes_is_named() -> None:
    true = true_of(60)
    true[2], true[3] = 2.0, -2.0  # and another takes it back: the logit tells nothing
    verdict = attribution.decide(scored(0, true), scored(1, true_of(60, 6.0)))
    assert verdict.outcome == "rejected"
    assert "m0 writes the right name" in verdict.statement
    assert outcomes(true, runs=20).count("rejected") >= 18


def test_nothing_is_claimed_where_what_is_told_is_not_found_either() -> None:
    assert set(outcomes(true_of(120), told=0.0, runs=20)) == {"undecided"}
    for n in (0, 4, 9, 40):
        verdict = attribution.decide(scored(0, true_of(n)), scored(1, true_of(n, 6.0)))
        assert verdict.outcome == "undecided"
    assert "56 are needed" in verdict.statement


def test_a_refused_measurement_gives_its_reason() -> None:
    refused = xr.Dataset(attrs={"refused": "2 facts, and 4 are compared at least"})
    verdict = attribution.judge([refused, refused], [refused, refused])
    assert verdict.outcome == "undecided"
    assert "2 facts" in verdict.statement


@pytest.fixture(scope="module")
def subject() -> Subject:
    return Subject(
        load_model("reversal-curse"),
        read_facts(FOLDER / "facts.csv"),
        read_templates(FOLDER / "templates.json"),
    )


def test_each_name_is_attributed_as_the_library_does(subject: Subject) -> None:
    rows = np.arange(3, 12)
    found = written(subject, "forward", rows, lambda *_: None)
    assert found["fact"].values.tolist() == found["name"].values.tolist()
    assert set(found["fact"].values) <= set(rows.tolist())
    prompts = [subject.prompts("forward")[int(i)] for i in found["fact"].values]
    for column in (0, 4):
        name = subject.answers("forward")[int(found["name"].values[column])]
        theirs = direct_logit_attribution(subject.model, prompts, [name] * len(prompts), by="head")
        ours = found["contribution"].values[:, :, column].T
        np.testing.assert_allclose(ours, theirs["contribution"].values, atol=1e-4)
    assert found["right"].values.diagonal().all()


def test_pairs_that_share_a_word_and_too_few_facts_are_left_out(subject: Subject) -> None:
    facts = (Fact("Tom Cruise", "Mary Cruise", "mother", "son", "forward"), *subject.facts[1:6])
    shared = Subject(subject.model, facts, subject.templates)
    found = written(shared, "forward", np.arange(6), lambda *_: None)
    assert 0 not in found["fact"].values
    few = written(shared, "forward", np.arange(3), lambda *_: None)
    assert "compared at least" in few.attrs["refused"]
    assert few.sizes["example"] == 0
