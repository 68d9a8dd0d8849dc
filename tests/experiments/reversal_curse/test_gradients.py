"""H6 is calibrated, and compares whom it says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from experiments.organisms.bundled import reversal_curse
from experiments.organisms.facts import Templates
from experiments.reversal_curse.facts import read_facts, read_templates
from experiments.reversal_curse.hypotheses import gradients
from experiments.reversal_curse.hypotheses.gradients import Coupling
from experiments.reversal_curse.measure import Subject
from experiments.reversal_curse.measurements.gradients import coupled
from interp import load_model
from interp.errors import SiteError
from interp.gradients.products import gradient_products

pytestmark = pytest.mark.slow

FOLDER = reversal_curse()


@pytest.fixture(autouse=True)
def fewer_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp.stats.means.RESAMPLES", 99)


def drawn(seed: int, mean: float, n: int = 120, sd: float = 0.1) -> Coupling:
    return Coupling(mean + sd * np.random.default_rng(seed).normal(size=n), np.arange(n))


def outcomes(mean: float, control: float = 0.6, runs: int = 40, n: int = 120) -> list[str]:
    return [
        gradients.decide(drawn(seed, mean, n), drawn(seed + 999, control, n)).outcome
        for seed in range(runs)
    ]


def test_uncoupled_gradients_are_mostly_seen_and_coupled_ones_too() -> None:
    nothing = outcomes(0.0, runs=200)
    assert nothing.count("supported") >= 180
    assert nothing.count("rejected") <= 10
    for mean in (0.15, -0.15, 0.6):
        assert outcomes(mean).count("rejected") >= 36


def test_at_the_margin_both_are_rare() -> None:
    for mean in (gradients.MARGIN, -gradients.MARGIN):
        edge = outcomes(mean, runs=200)
        assert edge.count("supported") <= 10 + 6
        assert edge.count("rejected") <= 10 + 6


def test_without_a_coupled_control_nothing_is_said() -> None:
    assert set(outcomes(0.0, control=0.0, runs=20)) == {"undecided"}
    assert outcomes(0.0, control=gradients.LEAST_CONTROL).count("supported") <= 2 + 3
    assert set(outcomes(0.0, runs=5, n=9)) == {"undecided"}
    refused = xr.Dataset(attrs={"refused": "there is one wording only"})
    assert "one wording" in gradients.judge([refused], [refused]).statement


@pytest.fixture(scope="module")
def subject() -> Subject:
    facts = tuple(f for f in read_facts(FOLDER / "facts.csv") if f.split == "forward")
    return Subject(load_model("reversal-curse"), facts, read_templates(FOLDER / "templates.json"))


def test_each_cell_is_the_cosine_of_the_two_questions(subject: Subject) -> None:
    found = coupled(subject, "forward", "reverse", np.arange(12), 0, lambda *_: None)
    i, j = np.argwhere(np.isfinite(found["cosine"].values) & ~np.eye(12, dtype=bool))[3]
    one, other = (subject.facts[int(found["fact"].values[k])] for k in (i, j))
    alone = gradient_products(
        subject.model,
        [f"{one.subject}'s {one.relation} is", f"{other.object}'s {other.inverse} is"],
        [f" {one.object}", f" {other.subject}"],
    )
    expected = float(alone["cosine"][0, 1])
    assert float(found["cosine"][i, j]) == pytest.approx(expected, abs=1e-4)


def test_two_wordings_are_coupled_and_wrong_pairs_are_not(subject: Subject) -> None:
    found = coupled(subject, "forward", "forward", np.arange(24), 0, lambda *_: None)
    read = gradients.read([found])
    assert read is not None
    assert read.excess.mean() > 0.5
    turned = found.assign(cosine=(("example", "name"), np.roll(found["cosine"].values, 1, axis=1)))
    wrong = gradients.read([turned])
    assert wrong is None or abs(np.mean(wrong.excess)) < 0.2


def test_blocks_hold_facts_of_the_same_words_and_are_bounded(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []

    def fake(model: object, prompts: list[str], answers: list[str], **_: object) -> xr.Dataset:
        sizes.append(len(prompts) // 2)
        n = len(prompts)
        return xr.Dataset({"cosine": (("example", "other"), np.zeros((n, n)))})

    monkeypatch.setattr("experiments.reversal_curse.measurements.gradients.gradient_products", fake)
    facts = tuple(replace(f, relation="mother", inverse="son") for f in subject.facts)
    same = Subject(subject.model, facts, subject.templates)
    found = coupled(same, "forward", "reverse", np.arange(60), 1, lambda *_: None)
    assert sizes == [30, 30]
    blocks = found["block"].values
    inside = blocks[:, None] == blocks[None, :]
    assert (np.isfinite(found["cosine"].values) == inside).all()
    again = coupled(same, "forward", "reverse", np.arange(60), 1, lambda *_: None)
    assert again.identical(found)


def test_one_wording_is_no_control(subject: Subject) -> None:
    templates = {**subject.templates, "forward": Templates(("{subject}'s {relation} is",), ())}
    there = Subject(subject.model, subject.facts, templates)
    found = coupled(there, "forward", "forward", np.arange(12), 0, lambda *_: None)
    assert "one wording only" in found.attrs["refused"]


def test_an_instrument_that_refuses_is_told_and_fails_no_study(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: object, **__: object) -> xr.Dataset:
        raise SiteError("There is no such site.")

    monkeypatch.setattr(
        "experiments.reversal_curse.measurements.gradients.gradient_products", refuses
    )
    found = coupled(subject, "forward", "reverse", np.arange(8), 0, lambda *_: None)
    assert found.attrs["refused"] == "There is no such site"
