"""H7 is calibrated, and its measurements are those of sets and of the patching instrument."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from experiments.organisms.bundled import reversal_curse
from experiments.organisms.facts import DIRECTIONS
from experiments.reversal_curse.facts import read_facts, read_templates
from experiments.reversal_curse.hypotheses import two_entries
from experiments.reversal_curse.measure import Subject
from experiments.reversal_curse.measurements.entries import Corruption, entries, overlaps
from experiments.reversal_curse.mechanism.entries import entry_bars
from experiments.reversal_curse.prompts import make_pairs
from interp import load_model
from interp.circuits import attribute_edges
from interp.patching import Patch, patch_sets

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def fewer_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals of a twentieth of the resamples: noisier ends, and as often right."""
    monkeypatch.setattr("interp.stats.means.RESAMPLES", 99)


def found(
    seed: int,
    n: int = 60,
    *,
    shared: float = 0.0,
    ceiling: float = 0.04,
    crossed: float = 0.0,
    own: float = 0.15,
    effect: float = 16.0,
) -> xr.Dataset:
    """Facts whose directions share some of what two wordings do, and lose some of the other's."""
    rng = np.random.default_rng(seed)
    excess = np.array([ceiling, ceiling, shared * ceiling]) + 0.035 * rng.normal(size=(n, 3))
    unrelated = 0.55 + 0.02 * rng.normal(size=(n, 3))
    whole = effect + 3 * rng.normal(size=(n, 2))
    lost = np.where(np.eye(2, dtype=bool), own, crossed * own) + 0.1 * rng.normal(size=(n, 2, 2))
    others = 0.15 + 0.05 * rng.normal(size=(n, 2, 2))
    return xr.Dataset(
        {
            "own": (("example", "compared"), unrelated + excess),
            "unrelated": (("example", "compared"), unrelated),
            "effect": (("example", "asked"), whole),
            "lost": (
                ("example", "asked", "neurons", "whose"),
                np.stack([(lost + others) * 16.0, others * 16.0], axis=-1),
            ),
        },
        coords={"whose": ["own", "another"], "asked": list(DIRECTIONS)},
        attrs={"refused": ""},
    )


def outcomes(runs: int, **given: float) -> list[str]:
    return [two_entries.judge(found(seed, **given)).outcome for seed in range(runs)]


def test_two_entries_are_mostly_found_and_never_rejected() -> None:
    made = outcomes(100)
    assert made.count("supported") >= 90
    assert made.count("rejected") == 0


@pytest.mark.parametrize(
    "given",
    [{"shared": 1.0, "crossed": 1.0}, {"shared": 1.0}, {"crossed": 1.0}],
    ids=["one entry", "one circuit", "the same neurons"],
)
def test_what_is_shared_is_not_called_two_entries(given: dict[str, float]) -> None:
    made = outcomes(200 if len(given) == 2 else 60, **given)
    assert made.count("supported") == 0
    assert made.count("rejected") >= 0.9 * len(made)


@pytest.mark.parametrize("given", [{"shared": two_entries.SHARED}, {"crossed": two_entries.SHARED}])
def test_at_the_margin_it_is_rarely_supported_or_rejected(given: dict[str, float]) -> None:
    made = outcomes(200, **given)
    assert made.count("supported") <= 0.05 * 200 + 2 * np.sqrt(0.05 * 0.95 * 200)
    assert made.count("rejected") <= 0.05 * 200 + 2 * np.sqrt(0.05 * 0.95 * 200)


@pytest.mark.parametrize("broken", [{"ceiling": 0.0}, {"own": 0.0}, {"effect": 0.0}])
def test_without_its_control_it_decides_nothing(broken: dict[str, float]) -> None:
    assert outcomes(60, **broken).count("undecided") >= 57


def test_few_facts_and_missing_numbers_are_told() -> None:
    few = two_entries.judge(found(0).isel(example=slice(0, 19)))
    assert few.outcome == "undecided"
    assert "19 facts" in few.statement
    broken = found(0)
    broken["lost"][:45] = np.nan
    assert two_entries.judge(broken).n == 15
    empty = found(0).isel(example=slice(0, 0)).assign_attrs(refused="no graph")
    assert "(no graph)" in two_entries.judge(empty).statement


@pytest.fixture(scope="module")
def subject() -> Subject:
    folder = reversal_curse()
    facts = tuple(f for f in read_facts(folder / "facts.csv") if f.split == "both")
    return Subject(load_model("reversal-curse"), facts, read_templates(folder / "templates.json"))


def test_what_neurons_take_away_is_what_patching_them_does(subject: Subject) -> None:
    template = subject.templates["forward"].trained[1]
    pairs = make_pairs(subject.model, subject.facts, range(5), "forward", template, 3)
    neurons = np.random.default_rng(0).random((5, 3, 576)) < 0.1
    ours = Corruption(subject.model, pairs)
    sets = {
        str(i): [
            Patch(f"mlp_act.{layer}", neurons=np.nonzero(neurons[i, layer])[0].tolist())
            for layer in range(3)
        ]
        for i in range(5)
    }
    theirs = patch_sets(subject.model, pairs, sets, direction="noising")
    np.testing.assert_allclose(ours.clean, theirs["clean"], atol=1e-4)
    np.testing.assert_allclose(ours.corrupt, theirs["corrupt"], atol=1e-4)
    lost = theirs["clean"].values - np.diag(theirs["patched"].values)
    np.testing.assert_allclose(ours.lost(neurons), lost, atol=1e-3)


def test_edges_in_common_are_counted_as_sets(subject: Subject) -> None:
    model, facts = subject.model, subject.facts
    rows = [i for word in ("son", "daughter") for i, f in enumerate(facts) if f.inverse == word]
    rows = [*rows[:3], *rows[-3:]]
    words = [(facts[i].relation, facts[i].inverse) for i in rows]
    assert len(set(words)) == 2
    pairs = {
        (way, wording): make_pairs(
            model, subject.facts, rows, way, subject.templates[way].trained[wording], wording
        )
        for way in DIRECTIONS
        for wording in (0, 1)
    }
    ours = overlaps(model, pairs, words, lambda *_: None)
    circuits = {}
    for key, one in pairs.items():
        scores = attribute_edges(model, one)["by_example"].stack(edge=("source", "destination"))
        circuits[key] = [
            set(np.argsort(-np.abs(np.nan_to_num(row)))[:26].tolist()) for row in scores.values
        ]

    def share(a: set[int], b: set[int]) -> float:
        return len(a & b) / len(a | b)

    first, second = circuits["forward", 0], circuits["forward", 1]
    own = [share(a, b) for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(ours["own"][:, 0], own, atol=1e-9)
    same = [k for k in range(1, 6) if words[k] == words[0]]
    others = [share(first[0], second[k]) for k in same]
    others += [share(first[k], second[0]) for k in same]
    assert ours["unrelated"][0, 0] == pytest.approx(np.mean(others))


def test_facts_that_cannot_be_compared_are_refused_with_a_reason(subject: Subject) -> None:
    few = entries(subject, np.arange(7), 0, lambda *_: None)
    assert few.attrs["refused"].endswith(" facts, and 20 are needed")
    assert two_entries.judge(few).outcome == "undecided"
    assert "facts, and 20 are needed" in str(entry_bars(few).layout.annotations)


def test_the_figure_is_grey_where_there_is_no_effect() -> None:
    assert len(entry_bars(found(0)).data) == 2 * 7
    grey = entry_bars(found(0, effect=0.0))
    assert len(grey.data) == 2 * 3
    assert "not clear of zero" in str(grey.layout.annotations)
