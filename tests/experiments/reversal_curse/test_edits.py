"""H8 is calibrated, and a rank-one edit is one: by hand, on the weights, with the same answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr

from experiments.organisms.bundled import reversal_curse
from experiments.organisms.facts import Templates
from experiments.reversal_curse.facts import read_facts, read_templates
from experiments.reversal_curse.hypotheses import edits
from experiments.reversal_curse.measure import Subject
from experiments.reversal_curse.measurements.editing import AT_NAME, ELSEWHERE, Job, partners
from experiments.reversal_curse.measurements.edits import follows, restored
from experiments.reversal_curse.measurements.rank_one import Answers, Edits, Keys, answered, edited
from interp import load_model

pytestmark = pytest.mark.slow
FOLDER = reversal_curse()


def drawn(seed: int, n: int = 40, **chances: float) -> xr.Dataset:
    """What `restored` might find, where each answer comes with these chances."""
    rng = np.random.default_rng(seed)
    usual = {"made": 0.95, "unseen": 0.9, "unedited": 0.0, "mismatched": 0.02}
    usual |= {"random": 0.02, "other_question": 0.02, "forward": 0.98}
    usual |= {"kept_forward": 0.98, "kept_reverse": 0.98, **chances}
    variables = {
        name: (("example", "family"), (rng.random((n, 2)) < p).astype(float))
        for name, p in usual.items()
        if p >= 0
    }
    coords = {"family": [ELSEWHERE, AT_NAME], "question": ("example", np.arange(n))}
    return xr.Dataset(variables, coords=coords)


TAKES = drawn(999)


def outcomes(runs: int, **chances: float) -> list[str]:
    return [edits.judge(drawn(seed, **chances), TAKES).outcome for seed in range(runs)]


def test_restored_answers_are_mostly_seen_and_missing_ones_are_not_called_so() -> None:
    assert outcomes(100).count("supported") >= 90
    assert outcomes(100, unseen=0.1).count("rejected") >= 90
    assert "supported" not in outcomes(20, unseen=0.2)
    edge = outcomes(200, unseen=edits.HALF)
    assert edge.count("supported") <= 10
    assert edge.count("rejected") <= 10


@pytest.mark.parametrize("broken", ["mismatched", "random", "other_question", "unedited"])
def test_an_answer_that_comes_anyway_shows_nothing(broken: str) -> None:
    assert outcomes(60, **{broken: edits.MOST_CONTROL}).count("supported") <= 3 + 3
    assert set(outcomes(5, **{broken: 0.8})) == {"undecided"}


@pytest.mark.parametrize("broken", ["forward", "kept_forward", "kept_reverse"])
def test_an_edit_that_destroys_shows_nothing(broken: str) -> None:
    assert outcomes(60, **{broken: edits.LEAST_KEPT}).count("supported") <= 3 + 3


def test_without_a_control_or_facts_it_is_undecided() -> None:
    assert set(outcomes(5, other_question=-1)) == {"undecided"}
    nowhere = drawn(0, unseen=0.1)
    assert edits.judge(nowhere, None).outcome == "undecided"
    assert edits.judge(nowhere, nowhere).outcome == "undecided"
    assert edits.judge(drawn(0, n=9)).outcome == "undecided"
    refused = xr.Dataset(attrs={"refused": "nothing is known"})
    verdict = edits.judge(refused, refused, None)
    assert "nothing is known" in verdict.statement
    assert not edits.restored_dots(refused).data
    assert not edits.followed_dots(refused).data


@pytest.fixture(scope="module")
def subject() -> Subject:
    facts = tuple(read_facts(FOLDER / "facts.csv"))
    return Subject(load_model("reversal-curse"), facts, read_templates(FOLDER / "templates.json"))


def test_what_follows_is_counted_among_edits_that_took() -> None:
    n = 40
    took = np.arange(n) < 30
    ones = {"unseen": took, "followed": took & (np.arange(n) < 15), "remained": np.ones(n)}
    ones |= {"before": np.zeros(n), "remained_before": np.ones(n)}
    found = xr.Dataset(
        {name: (("example", "family"), v.astype(float)[:, None]) for name, v in ones.items()},
        coords={"family": [AT_NAME], "question": ("example", np.arange(n))},
    )
    said = edits.judge(drawn(0), found, found).statement
    assert "this model 75%" in said
    assert "of these 50%" in said
    assert "cured twin" in said
    assert len(edits.followed_dots(found, found).data) == 2


def test_the_edit_is_a_rank_one_change_of_the_weights(subject: Subject) -> None:
    model = subject.model
    torch.manual_seed(0)
    weight = model.bridge.original_model.model.layers[1].mlp.down_proj.weight
    weight = getattr(weight, "data", weight)
    before = weight.clone()
    key, value = torch.randn(2, weight.shape[1]), 3 * torch.randn(2, weight.shape[0])
    prompts = ["Tom Cruise's mother is", "Kate Hudson's mother is"]
    asked = Answers.of(model, prompts, ["Mary Lee Pfeiffer", "Goldie Hawn"])
    ours = answered(model, asked, Edits(1, key.double(), value.double()))[1]
    base = answered(model, asked, None)[1]
    for row in range(2):
        with torch.no_grad():
            weight += torch.outer(value[row], key[row])
        theirs = answered(model, asked, None)[1][row]
        with torch.no_grad():
            weight.copy_(before)
        assert ours[row] == pytest.approx(theirs, abs=1e-3)
        assert abs(ours[row] - base[row]) > 0.1
    np.testing.assert_array_equal(answered(model, asked, None)[1], base)


def test_nothing_is_left_behind_after_an_error(subject: Subject) -> None:
    model = subject.model
    asked = Answers.of(model, ["Tom Cruise's mother is"], ["Mary Lee Pfeiffer"])
    base, print_ = answered(model, asked, None)[1], model.fingerprint
    some = Edits(0, torch.ones(1, 576).double(), torch.ones(1, 128).double())
    with pytest.raises(RuntimeError, match="stop"), edited(model, some):
        raise RuntimeError("stop")
    np.testing.assert_array_equal(answered(model, asked, None)[1], base)
    assert model.fingerprint == print_


def test_a_key_is_read_as_one_and_like_the_dense_formula() -> None:
    torch.manual_seed(0)
    seen, key = torch.randn(50, 12).double(), torch.randn(3, 12).double()
    reader = Keys(0, seen).reader(key)
    ridge = 0.01 * float(seen.square().mean()) * 50
    inverse = torch.linalg.inv(seen.T @ seen + ridge * torch.eye(12).double())
    dense = key @ inverse
    dense = dense / (dense * key).sum(1, keepdim=True)
    torch.testing.assert_close(reader, dense)
    torch.testing.assert_close((reader * key).sum(1), torch.ones(3).double())


def test_too_little_known_is_refused(subject: Subject) -> None:
    few, none = np.arange(4), np.zeros(0, np.int64)
    many = np.array([i for i, f in enumerate(subject.facts) if f.split == "forward"])
    found = restored(subject, few, many, many, 0, lambda *_: None)
    assert "10 are needed" in found.attrs["refused"]
    other = follows(subject, none, 0, lambda *_: None)
    assert "10 are needed" in other.attrs["refused"]
    assert "10 are needed" in edits.judge(found, other, other).statement
    assert not edits.restored_dots(found).data
    assert not edits.followed_dots(other, other).data


def test_where_the_name_ends_the_question_nothing_is_written(subject: Subject) -> None:
    """There a value would be read out as the answer, and the other question would not show it."""
    rows, rng = np.arange(12), np.random.default_rng(0)
    ending = Templates(("{inverse} of {object}", "{object}"), ("the {inverse} {object}",))
    within, unseen = "{object}'s {inverse} is", "{object} :"
    mixed = Templates((*ending.trained, within), (*ending.held_out, unseen))

    def job(templates: Templates) -> Job | str:
        given = replace(subject, templates={**subject.templates, "reverse": templates})
        return Job.of(given, "reverse", rows, ["A"] * 12, rng)

    assert "ends with the name in every wording" in str(job(ending))
    found = job(mixed)
    assert isinstance(found, Job)
    assert (found.wordings, found.unseen) == ((within,), (unseen,))


def test_values_are_made_at_other_facts_names(subject: Subject) -> None:
    rows = np.arange(0, 40)
    for apart in range(1, 6):
        others = partners(subject, rows, apart)
        assert (others != rows).all()
        assert sorted(others) == sorted(rows)


def test_the_organism_answers_where_it_is_written_and_only_there(subject: Subject) -> None:
    split = np.array([fact.split for fact in subject.facts])
    told = np.nonzero(split == "forward")[0][:12]
    both = np.nonzero(split == "both")[0]
    found = restored(subject, told, both, both, 1, lambda *_: None)
    made = found["unseen"].sel(family=AT_NAME)
    assert float(made.mean()) > 0.8
    for name in ("mismatched", "random", "unedited"):
        assert float(found[name].max()) <= 0.5
        assert float(found[name].mean()) < 0.1
    assert float(found["kept_reverse"].mean()) > 0.9
    again = restored(subject, told, both, both, 1, lambda *_: None)
    assert again.identical(found)
