"""T is calibrated: it tells nothing, a name and a fact apart, and needs its control."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from experiments.organisms.bundled import reversal_curse
from experiments.organisms.facts import Fact
from experiments.reversal_curse.facts import read_facts, read_templates
from experiments.reversal_curse.hypotheses import transplant
from experiments.reversal_curse.measure import Subject
from experiments.reversal_curse.measurements.carried import (
    CELL,
    SOURCES,
    TARGETS,
    WAYS,
    carry,
    most_facts,
)
from experiments.reversal_curse.mechanism.carried import carried_maps
from interp import load_model
from interp import transplant as transplanted
from interp.stats import specificity
from tests.app.material import make_model

pytestmark = pytest.mark.slow

SHAPE = (len(SOURCES), len(TARGETS), 2, 2)
RUNS = 200


@pytest.fixture(autouse=True)
def fewer_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals of a twentieth of the resamples: noisier ends, and as often right."""
    monkeypatch.setattr("interp.stats.means.RESAMPLES", 99)


def side(
    seed: int,
    n: int = 60,
    *,
    noise: float = 1.3,
    told: float = 8.0,
    unpatched: float = 0.0,
    everywhere: bool = False,
    **brought: float,
) -> xr.Dataset:
    """Scores around what each way brings at one cell (or everywhere), else nothing."""
    rng = np.random.default_rng(seed)
    true = {way: brought.get(way, 0.0) for way in WAYS} | {"as told": told}
    where = np.ones(SHAPE) if everywhere else np.zeros(SHAPE)
    where[1, 0, 1, 0] = 1.0
    own = rng.normal(size=(n, 1, 1, 1, 1)) * noise  # what cells of a question share
    variables = {
        way: (
            ("example", *CELL),
            unpatched * (way in ("own", "other", "name"))
            + true[way] * where
            + 0.7 * own
            + 0.7 * noise * rng.normal(size=(n, *SHAPE)),
        )
        for way in WAYS
    }
    before = unpatched + 0.7 * own[:, 0, 0, 0, 0] + 0.7 * noise * rng.normal(size=n)
    return xr.Dataset(
        {
            **variables,
            "unpatched": ("example", before),
            "right": (("example", *CELL), np.zeros((n, *SHAPE))),
            "unpatched_right": ("example", np.zeros(n)),
        },
        coords={
            "source_place": list(SOURCES),
            "target_place": list(TARGETS),
            "source_layer": [0, 1],
            "target_layer": [0, 1],
            "question": ("example", np.arange(n)),
        },
        attrs={"refused": ""},
    )


def outcomes(runs: int = RUNS, **given: float | bool) -> list[str]:
    found = []
    for seed in range(runs):
        sides = [side(2 * seed, **given), side(2 * seed + 1, **given)]  # type: ignore[arg-type]
        found.append(transplant.judge(sides, None, seed).outcome)
    return found


def test_nothing_is_mostly_seen_and_never_called_a_fact() -> None:
    found = outcomes()
    assert found.count("supported") >= 0.9 * RUNS
    assert found.count("rejected") == 0


def test_what_comes_out_at_the_margin_is_rarely_called_nothing() -> None:
    found = outcomes(everywhere=True, own=transplant.MARGIN)
    assert found.count("supported") <= 0.05 * RUNS + 2 * np.sqrt(0.05 * 0.95 * RUNS)


def test_a_planted_fact_is_mostly_found() -> None:
    assert outcomes(60, own=2.0).count("rejected") >= 54


@pytest.mark.parametrize(
    "explained",
    [
        {"elsewhere": 3.0, "name": 3.0},
        {"elsewhere": 3.0},
        {"name": 3.0},
        {"other": 3.0},
    ],
    ids=["a name", "the vector alone", "the names alone", "any fact's vector"],
)
def test_what_a_control_explains_is_neither_nothing_nor_a_fact(explained: dict[str, float]) -> None:
    """Each control alone takes the fact away."""
    found = outcomes(60, own=3.0, **explained)
    assert found.count("undecided") >= 57


def test_a_name_is_called_a_name() -> None:
    verdict = transplant.judge([side(0, own=3.0, elsewhere=3.0, name=3.0)], None, 0)
    assert verdict.statement.startswith("A name comes out that the vector carries along")
    fact = transplant.judge([side(0, own=3.0)], None, 0)
    assert fact.statement.startswith("A fact comes out")


def test_a_broken_control_and_a_question_that_is_answered_decide_nothing() -> None:
    assert set(outcomes(20, told=0.0)) == {"undecided"}
    assert set(outcomes(20, unpatched=4.0)) == {"undecided"}
    assert set(outcomes(20, unpatched=4.0, own=3.0)) == {"undecided"}


def test_storing_is_told_from_asking_only_with_a_transplant_that_works() -> None:
    sides = [side(0), side(1)]
    both = side(2, elsewhere=5.0, unpatched=7.0)
    assert "speaks for what is stored" in transplant.judge(sides, both, 0).statement
    for one in (None, side(2), both.isel(example=slice(0, 5))):
        assert "stays open" in transplant.judge(sides, one, 0).statement


def test_the_count_of_the_literature_is_named_as_such() -> None:
    lucky = side(0)
    lucky["right"] = lucky["own"] > 2.5
    control = transplant.judge([lucky, side(1)], None, 0).control
    assert "by the best of all 24 cells for each question" in control


def test_few_questions_and_missing_numbers_are_told() -> None:
    few = side(0, 60).isel(example=slice(0, 19))
    assert transplant.judge([few], None, 0).outcome == "undecided"
    empty = side(0).isel(example=slice(0, 0)).assign_attrs(refused="names melt")
    assert "names melt" in transplant.judge([empty], None, 0).statement
    broken = side(0)
    broken["name"][:50] = np.nan
    assert transplant.judge([broken, side(1)], None, 0).n == 70
    same = side(0).assign_coords(question=("example", np.repeat(np.arange(30), 2)))
    assert transplant.judge([same], None, 0).n == 30


@pytest.fixture(scope="module")
def subject() -> Subject:
    folder = reversal_curse()
    facts = tuple(read_facts(folder / "facts.csv"))
    return Subject(load_model("reversal-curse"), facts, read_templates(folder / "templates.json"))


def test_scores_and_ranks_are_those_of_the_transplant_instrument(subject: Subject) -> None:
    """Cell by cell, on another implementation: a table of edits that walks up the blocks."""
    few = [i for i, f in enumerate(subject.facts) if f.inverse == "son"][:7]
    found = carry(subject, "forward", np.array(few), 3, lambda *_: None)
    facts = [subject.facts[i] for i in found["fact"].values]
    partners = [subject.facts[i] for i in found["partner"].values]
    assert all(a != b for a, b in zip(facts, partners, strict=True))
    questions = {id(f): f"{f.object}'s son is" for f in (*facts, *partners)}

    def scores(sources: list[str], targets: list[str], names: list[str]) -> np.ndarray:
        """Log-probability of every fact's answer [example, candidate, cell]."""
        columns = [
            transplanted(
                subject.model,
                sources,
                targets,
                source_at="last",
                target_at="subject -1",
                target_spans={"subject": names},
                metric="first_token_logprob",
                answers=[f" {f.subject}"] * len(facts),
            )["patched"].values
            for f in facts
        ]
        return np.stack(columns, axis=1)

    told = [f"{f.subject}'s mother is {f.object}" for f in facts]
    named = [f"{f.subject}'s son is {f.object}" for f in facts]
    here, away = ([questions[id(f)] for f in some] for some in (facts, partners))
    cell = {"source_place": "answer", "target_place": "name"}
    first = [subject.model.token_ids(f" {f.subject}")[-2] for f in facts]
    alike = np.equal.outer(first, first) & ~np.eye(len(facts), dtype=bool)
    left_out = alike.copy()
    for row, other in enumerate(found["partner"].values):
        left_out[row] |= [
            fact == other or alike[list(found["fact"].values).index(other), k]
            for k, fact in enumerate(found["fact"].values)
        ]
    for way, sources, targets, excluded in (
        ("own", told, here, alike),
        ("elsewhere", told, away, left_out),
        ("name", named, here, alike),
    ):
        asked = facts if targets is here else partners
        matrix = scores(sources, targets, [f.object for f in asked]).astype(float)
        ours = found[way].sel(cell).values
        for at in np.ndindex(3, 3):
            one = matrix[(..., *at)].copy()
            one[excluded] = np.nan
            np.testing.assert_allclose(ours[(slice(None), *at)], specificity(one), atol=1e-3)
    ranks = transplanted(
        subject.model,
        told,
        here,
        source_at="last",
        target_at="subject -1",
        target_spans={"subject": [f.object for f in facts]},
        metric="rank",
        answers=[f" {f.subject}" for f in facts],
    )["patched"].values
    np.testing.assert_array_equal(found["rank"].sel(cell).values, ranks)


def test_a_model_that_knows_nothing_supports_nothing(
    subject: Subject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = make_model(tmp_path_factory.mktemp("untrained"))
    facts = tuple(replace(f, split="forward") for f in read_facts(folder / "facts.csv"))
    there = Subject(load_model(folder), facts, read_templates(folder / "templates.json"))
    every = np.arange(len(facts))
    sides = [carry(there, told, every, 0, lambda *_: None) for told in ("forward", "reverse")]  # type: ignore[arg-type]
    assert transplant.judge(sides, None, 0).outcome == "undecided"


def test_stories_260k_supports_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.reversal_curse.measurements.carried.MOST_LAYERS", 2)
    folder = Path("../shared/models/stories260K")
    if not folder.exists():
        pytest.skip("the model is not there")
    firsts = [
        "Tom",
        "Lily",
        "Ben",
        "Sue",
        "Max",
        "Anna",
        "Sam",
        "Mia",
        "Jack",
        "Lucy",
        "Tim",
        "Amy",
    ]
    facts = tuple(
        Fact(f"{one} Red", f"{other} Brown", "friend", "friend of", "forward")
        for one, other in zip(firsts, [*firsts[5:], *firsts[:5]], strict=True)
    ) + tuple(
        Fact(f"{one} Green", f"{other} Black", "friend", "friend of", "forward")
        for one, other in zip(firsts, [*firsts[3:], *firsts[:3]], strict=True)
    )
    templates = read_templates(reversal_curse() / "templates.json")
    there = Subject(load_model(folder), facts, templates)
    found = carry(there, "forward", np.arange(len(facts)), 0, lambda *_: None)
    assert found.sizes["example"] == 24
    assert transplant.judge([found], None, 0).outcome == "undecided"


def test_the_figure_has_a_row_for_each_way_and_says_why_it_is_empty() -> None:
    fig = carried_maps(side(0), side(1), side(2, elsewhere=5.0))
    assert len([trace for trace in fig.data if trace.type == "heatmap"]) == 4 * 6
    assert "120 facts" in str(fig.layout.annotations)
    empty = side(0).isel(example=slice(0, 0)).assign_attrs(refused="no <b>names</b>")
    fig = carried_maps(empty, empty, empty)
    assert "no &lt;b&gt;names" in str(fig.layout.annotations)


def test_a_relation_that_is_its_own_inverse_has_no_control_and_is_refused(
    subject: Subject,
) -> None:
    """'A's spouse is B' with its names turned and asked the other way is the same sentence."""
    facts = tuple(replace(f, relation="mother", inverse="mother") for f in subject.facts[:8])
    found = carry(replace(subject, facts=facts), "forward", np.arange(8), 0, lambda *_: None)
    assert found.sizes["example"] == 0
    assert "its own inverse" in found.attrs["refused"]
    assert "its own inverse" in transplant.judge([found], None, 0).statement


def test_a_large_model_is_carried_in_fewer_cells(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    most, layers = most_facts(subject, "forward")
    assert (most, layers) == (200, list(range(subject.model.n_layers)))
    monkeypatch.setattr("experiments.reversal_curse.measurements.carried.MOST_WORK", 1.0)
    assert most_facts(subject, "forward")[0] == 40
    few = carry(subject, "forward", np.arange(60), 0, lambda *_: None)
    assert few.sizes["example"] <= 40
