"""H5 is calibrated: symmetric weights, weights without facts, and told facts alone."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from experiments.organisms.bundled import reversal_curse
from experiments.reversal_curse.facts import read_facts, read_templates
from experiments.reversal_curse.hypotheses import association
from experiments.reversal_curse.hypotheses.association import Associated
from experiments.reversal_curse.hypotheses.preferences import Preferences
from experiments.reversal_curse.measure import Subject
from experiments.reversal_curse.measurements.association import WHOLE, associated
from interp import load_model
from interp.weights.association import association_matrix

pytestmark = pytest.mark.slow

PATHS = ("m0", "m0>a1", "m1", WHOLE)
FOLDER = reversal_curse()


@pytest.fixture(autouse=True)
def fewer_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp.stats.means.RESAMPLES", 99)


def scored(seed: int, mean: float, n: int = 120, unit: float = 1.0) -> Associated:
    """Scores whose true mean lies at `mean` on one path, and at 0 on the others."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(len(PATHS), n))
    scores[1] += mean
    null = rng.normal(size=(len(PATHS), n, 10))
    return association.scaled(PATHS, Preferences(unit * scores, unit * null, np.arange(n)))


def outcomes(back: float, there: float, runs: int = 60, n: int = 120) -> list[str]:
    return [
        association.decide(scored(seed, back, n), scored(seed + 999, there, n)).outcome
        for seed in range(runs)
    ]


def test_facts_that_lead_one_way_are_mostly_seen() -> None:
    found = outcomes(0.0, 2.0, runs=60)
    assert found.count("supported") >= 54
    assert found.count("rejected") <= 3


def test_symmetric_weights_and_those_at_the_margin_are_rarely_called_one_way() -> None:
    assert outcomes(2.0, 2.0, runs=20).count("rejected") >= 18
    assert outcomes(association.MARGIN, 2.0).count("supported") <= 3 + 3
    assert outcomes(-1.0, 2.0, runs=20).count("supported") == 0


def test_weights_without_facts_show_nothing() -> None:
    assert outcomes(0.0, 0.0, runs=200).count("supported") <= 10
    assert outcomes(0.0, association.MARGIN).count("supported") <= 3 + 3


def test_too_few_facts_decide_nothing_and_the_unit_does_not_matter() -> None:
    assert set(outcomes(0.0, 3.0, runs=5, n=19)) == {"undecided"}
    for unit in (1e-6, 1e6):
        verdict = association.decide(scored(0, 0.0, unit=unit), scored(1, 2.0, unit=unit))
        plain = association.decide(scored(0, 0.0), scored(1, 2.0))
        assert verdict.outcome == plain.outcome == "supported"
        assert verdict.low == pytest.approx(plain.low)


def test_a_path_that_says_nothing_is_no_evidence() -> None:
    back = scored(0, 0.0)
    back.scores[0] = 0.0
    verdict = association.decide(back, scored(1, 2.0))
    assert verdict.outcome == "undecided"
    refused = xr.Dataset(attrs={"refused": "the weights cannot be read"})
    verdict = association.judge([refused], [refused])
    assert "cannot be read" in verdict.statement


@pytest.fixture(scope="module")
def subject() -> Subject:
    return Subject(
        load_model("reversal-curse"),
        read_facts(FOLDER / "facts.csv"),
        read_templates(FOLDER / "templates.json"),
    )


def test_the_weights_of_both_names_are_read_the_way_that_is_asked(subject: Subject) -> None:
    rows = np.arange(4, 10)
    back = associated(subject, "reverse", rows, lambda *_: None)
    facts = [subject.facts[int(i)] for i in back["fact"].values]
    theirs = association_matrix(
        subject.model, [f" {f.object}" for f in facts], [f" {f.subject}" for f in facts]
    )
    np.testing.assert_allclose(back["association"].values[:-1], theirs["raw"].values, atol=1e-6)
    np.testing.assert_allclose(
        back["association"].values[-1], theirs["raw"].values.sum(0), atol=1e-5
    )
    assert back["path"].values[-1] == WHOLE


def test_told_and_never_told_facts_of_the_organism_differ(subject: Subject) -> None:
    splits = np.array([fact.split for fact in subject.facts])

    def mean(split: str, turned: int = 0) -> float:
        found = associated(subject, "forward", np.nonzero(splits == split)[0], lambda *_: None)
        if turned:  # wrong pairs of the same names
            found = found.assign(
                association=(
                    ("path", "example", "name"),
                    np.roll(found["association"].values, turned, axis=2),
                )
            )
        read = association.read([found])
        assert read is not None
        return float(read.scores[read.paths.index("m0>a1")].mean())

    assert mean("forward") > 1.5
    assert abs(mean("held_out")) < 0.8
    assert abs(mean("forward", turned=7)) < 0.5


def test_weights_that_overflow_are_refused_and_fail_no_study(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where each path is finite, and their sum is not."""

    def large(*given: object) -> xr.Dataset:
        found = association_matrix(*given)  # type: ignore[arg-type]
        return found.assign(raw=xr.full_like(found["raw"], 3e38))

    monkeypatch.setattr(
        "experiments.reversal_curse.measurements.association.association_matrix", large
    )
    found = associated(subject, "forward", np.arange(8), lambda *_: None)
    assert found.attrs["refused"].endswith("numbers of this precision")
    assert association.judge([found], [found]).outcome == "undecided"
