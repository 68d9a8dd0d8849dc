"""H2, H3 and absence are calibrated: they rarely claim, and rarely reject, what is at the edge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest
import xarray as xr

from experiments.organisms.facts import Fact
from experiments.reversal_curse.hypotheses import absence, lens, retrieval
from experiments.reversal_curse.hypotheses.preferences import Preferences, joined, preferences
from experiments.reversal_curse.measure import Subject
from experiments.reversal_curse.report.figures import one_of_each
from experiments.study import Outcome, Verdict

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def fewer_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals of a tenth of the resamples: noisier ends, and as often right."""
    monkeypatch.setattr("interp.stats.means.RESAMPLES", 199)


def scored(
    seed: int, true: np.ndarray, sd: float = 1.0, questions: np.ndarray | None = None
) -> Preferences:
    """Scores around true preferences [layer, fact], and what wrong names score."""
    rng = np.random.default_rng(seed)
    n_layers, n = true.shape
    return Preferences(
        true + sd * rng.normal(size=(n_layers, n)),
        sd * rng.normal(size=(n_layers, n, 30)),
        np.arange(n) if questions is None else questions,
    )


def true_of(n: int, values: Sequence[float] | np.ndarray = (), n_layers: int = 2) -> np.ndarray:
    """True preferences: `values` for the first facts in the last layer, else none."""
    out = np.zeros((n_layers, n))
    out[-1, : len(values)] = values
    return out


def told_of(n: int, seed: int = 7) -> Preferences:
    return scored(seed, true_of(n, np.full(n, 8.0)))


def outcomes_of(true: np.ndarray, runs: int = 30, sd: float = 1.0) -> list[str]:
    n = true.shape[1]
    return [
        lens.judge(scored(seed, true, sd), told_of(n, seed + 1000), None).outcome
        for seed in range(runs)
    ]


NOT_ABSENT: dict[str, tuple[int, np.ndarray, float]] = {
    "3 of 60 known": (60, np.full(3, 8.0), 1.0),
    "12 of 240 known": (240, np.full(12, 8.0), 1.0),
    "half at 2 and half at -2": (120, np.tile([2.0, -2.0], 60), 1.0),
    "half at 1, half at -1": (120, np.tile([1.0, -1.0], 60), 1.0),
    "a third at 3 and the rest at -1.5": (120, np.tile([3.0, -1.5, -1.5], 40), 1.0),
    "half at 2 and half at -2 in noise": (120, np.tile([2.0, -2.0], 60), 1.7),
    "a mean at the margin": (120, np.full(120, lens.MARGIN), 1.0),
    "avoided": (120, np.full(120, -1.57), 1.0),
}


@pytest.mark.parametrize("name", NOT_ABSENT)
def test_what_is_there_is_rarely_called_absent(name: str) -> None:
    n, values, sd = NOT_ABSENT[name]
    runs = 100 if "at the margin" in name or "at 1," in name else 20
    supported = outcomes_of(true_of(n, values), runs, sd).count("supported")
    assert supported <= 0.05 * runs + 2 * np.sqrt(0.05 * 0.95 * runs)


def test_ninety_of_fifteen_hundred_known_facts_are_no_absence() -> None:
    assert outcomes_of(true_of(1500, np.full(90, 8.0), n_layers=1), runs=3) == ["undecided"] * 3


def test_facts_known_at_different_layers_count_together() -> None:
    true = np.zeros((4, 100))
    for layer in range(4):
        true[layer, 3 * layer : 3 * layer + 3] = 8.0  # 3% at each layer, 12% in all
    assert outcomes_of(true, runs=10).count("supported") == 0


def test_a_true_absence_is_mostly_seen_with_enough_questions() -> None:
    outcomes = outcomes_of(true_of(150), runs=40)
    assert outcomes.count("supported") >= 36
    assert outcomes.count("rejected") == 0


NOT_FOUND: dict[str, tuple[int, np.ndarray, float]] = {
    "a mean inside the margin": (120, np.full(120, 0.45), 1.0),
    "a mean inside the margin, hardly any noise": (120, np.full(120, 0.45), 0.1),
    "a mean at the margin, few facts": (10, np.full(10, lens.MARGIN), 0.5),
    "a mean at the margin, at every layer": (60, np.full(60, lens.MARGIN), 1.0),
    "as many known as are tolerated": (60, np.full(3, 8.0), 1.0),
    "nothing, few facts": (10, np.zeros(10), 1.0),
    "avoided": (60, np.full(60, -1.57), 1.0),
}


@pytest.mark.parametrize("name", NOT_FOUND)
def test_what_is_inside_the_margins_is_rarely_rejected(name: str) -> None:
    n, values, sd = NOT_FOUND[name]
    true = true_of(n, values)
    if "every layer" in name:
        true[:] = lens.MARGIN
    assert outcomes_of(true, runs=40, sd=sd).count("rejected") <= 3


FOUND: dict[str, tuple[int, np.ndarray]] = {
    "a mean of 1.5": (60, np.full(60, 1.5)),
    "a mean of 3, few facts": (12, np.full(12, 3.0)),
    "a quarter known": (60, np.full(15, 8.0)),
}


@pytest.mark.parametrize("name", FOUND)
def test_what_is_planted_is_mostly_found(name: str) -> None:
    n, values = FOUND[name]
    assert outcomes_of(true_of(n, values), runs=20).count("rejected") >= 18


def test_a_suppressed_answer_in_a_middle_layer_is_rejected_with_its_block() -> None:
    true = np.zeros((4, 60))
    true[2] = 3.0
    verdict = lens.judge(scored(0, true), told_of(60), None)
    assert verdict.outcome == "rejected"
    assert "prefers the right name" in verdict.statement
    assert "after block 1 " in verdict.statement  # two blocks passed: 0 and 1


def test_the_sign_is_read() -> None:
    verdict = lens.judge(scored(0, true_of(120, np.full(120, -1.57))), told_of(120), None)
    assert verdict.outcome == "undecided"
    assert "avoids the right name" in verdict.statement
    assert "prefers the right name" not in verdict.statement


def test_no_absence_is_claimed_where_the_lens_misses_what_is_known() -> None:
    blind = scored(3, true_of(150))
    verdict = lens.judge(scored(4, true_of(150)), blind, None)
    assert verdict.outcome == "undecided"
    assert "the same lens finds no more than" in verdict.statement


def test_too_few_questions_are_told_with_how_many_are_needed() -> None:
    for n in (0, 4, 9):
        verdict = lens.judge(scored(0, true_of(n)), told_of(n), None)
        assert verdict.outcome == "undecided"
        assert str(lens.LEAST_QUESTIONS) in verdict.statement
    few = lens.judge(scored(0, true_of(40)), told_of(40), None)
    assert few.outcome == "undecided"
    assert f"{lens.least_for_absence()} are needed" in few.statement


def test_facts_that_ask_the_same_count_once() -> None:
    asks = np.repeat(np.arange(40), 3)
    true = np.zeros((2, 120))
    one = scored(0, np.zeros((2, 40)))
    thrice = Preferences(one.scores[:, asks], one.null[:, asks], asks)
    verdict = lens.judge(thrice, scored(1, true + 8, questions=asks), None)
    assert verdict.n == 40
    assert verdict.outcome == "undecided"
    assert lens.found(thrice).hits == lens.found(one).hits


def test_facts_without_a_score_are_left_out() -> None:
    untold = scored(0, true_of(80))
    untold.scores[0, :20] = np.nan
    untold.null[:, 20:30] = np.nan
    assert lens.judge(untold, told_of(80), None).n == 50


def test_two_sides_keep_their_questions_apart() -> None:
    first = Preferences(np.zeros((2, 3)), np.zeros((2, 3, 4)), np.array([0, 0, 1]))
    second = Preferences(np.ones((2, 2)), np.ones((2, 2, 6)), np.array([0, 1]))
    both = joined(first, second)
    assert both.questions.tolist() == [0, 0, 1, 2, 3]
    assert both.null.shape == (2, 5, 6)
    assert both.complete().all()
    empty = Preferences(np.zeros((2, 0)), np.zeros((2, 0, 40)), np.array([], np.int64))
    assert joined(empty, second).n_questions == 2


def names_of(scores: np.ndarray, tokens: np.ndarray | None = None) -> xr.Dataset:
    n = scores.shape[2]
    return xr.Dataset(
        {"logprob": (("example", "layer", "name"), scores)},
        coords={
            "name": np.arange(n),
            "first_token": ("name", np.arange(n) if tokens is None else tokens),
        },
    )


def test_preferences_find_a_planted_pair_and_ignore_popular_names() -> None:
    rng = np.random.default_rng(4)
    n = 40
    scores = rng.normal(size=(n, 2, n)) * 0.1 + 5 * rng.normal(size=(1, 1, n))
    scores[:, 1] += 3 * np.eye(n)
    alone = [{i} for i in range(n)]
    found = preferences(names_of(scores), np.arange(n), alone, ["son"] * n, range(n))
    assert found.scores.shape == (2, n)
    assert np.mean(found.scores[0]) == pytest.approx(0, abs=0.15)
    assert np.mean(found.scores[1]) == pytest.approx(3, abs=0.15)
    # The right names of others are no part of what wrong names score.
    assert np.nanmax(np.abs(found.null)) < 1.5


def test_knowing_whether_a_son_or_a_daughter_is_asked_for_is_no_preference() -> None:
    rng = np.random.default_rng(5)
    n = 40
    words = ["son", "daughter"] * (n // 2)
    fits = np.array([[a == b for b in words] for a in words])
    scores = rng.normal(size=(n, 1, n)) * 0.1 + 6.0 * fits[:, None, :]
    alone = [{i} for i in range(n)]
    found = preferences(names_of(scores), np.arange(n), alone, words, range(n))
    assert np.mean(found.scores) == pytest.approx(0, abs=0.1)
    assert np.nanmax(np.abs(found.null)) < 1.0


@pytest.mark.parametrize("n", [5, 8, 60])
def test_a_wrong_name_scores_as_a_right_one_where_nothing_is_known(n: int) -> None:
    """Also with few facts and first tokens that several names share."""
    rng = np.random.default_rng(n)
    right, wrong = [], []
    for _ in range(8 if n == 60 else 60):
        scores = rng.normal(size=(n, 1, n)) + 3 * rng.normal(size=(1, 1, n))
        tokens = np.arange(n)
        tokens[1::4] = tokens[0::4][: len(tokens[1::4])]
        scores[:, 0, 1::4] = scores[:, 0, 0::4][:, : len(tokens[1::4])]
        found = preferences(
            names_of(scores, tokens), np.arange(n), [{i} for i in range(n)], ["x"] * n, range(n)
        )
        right.append(found.scores.ravel())
        wrong.append(found.null[np.isfinite(found.null)])
    rights, wrongs = np.concatenate(right), np.concatenate(wrong)
    rights = rights[np.isfinite(rights)]
    assert np.mean(rights) == pytest.approx(0, abs=4 * rights.std() / np.sqrt(len(rights)))
    assert rights.std() == pytest.approx(wrongs.std(), rel=0.25)


def test_too_few_facts_in_the_same_words_have_no_preference() -> None:
    found = preferences(
        names_of(np.zeros((3, 1, 3))), np.arange(3), [set()] * 3, ["x"] * 3, [0] * 3
    )
    assert not found.complete().any()


def retrieved(
    seed: int, preferred: float, n: int = 60, sd: float = 0.05, n_sites: int = 3
) -> xr.Dataset:
    """What a probe finds whose result varies by `sd` around a true share."""
    rng = np.random.default_rng(seed)
    shared = rng.normal() * 0.7 + rng.normal(size=n_sites) * 0.7
    return xr.Dataset(
        {
            "preferred": ("site", preferred + sd * shared),
            "null": (("site", "null"), 0.5 + sd * rng.normal(size=(n_sites, 30))),
            "p_corrected": ("site", np.full(n_sites, 0.001 if preferred > 0.6 else 0.5)),
        },
        coords={"site": [f"resid_post.{i}" for i in range(n_sites)]},
        attrs={"questions": n},
    )


def probed(preferred: float, told: float = 0.85, runs: int = 60, n: int = 60) -> list[str]:
    return [
        retrieval.judge(
            [retrieved(3 * seed, preferred, n), retrieved(3 * seed + 1, preferred, n)],
            [retrieved(3 * seed + 2, told, n)],
        ).outcome
        for seed in range(runs)
    ]


def test_a_probe_that_finds_is_not_called_blind_and_the_other_way_round() -> None:
    edge = probed(0.5 + retrieval.MARGIN)
    assert edge.count("supported") <= 3
    assert edge.count("rejected") <= 3
    nothing = probed(0.5)
    assert nothing.count("supported") >= 54
    assert nothing.count("rejected") == 0
    assert probed(0.8).count("rejected") >= 54
    assert probed(0.5, told=0.5).count("supported") == 0


def test_probes_without_a_number_or_with_few_questions_decide_nothing() -> None:
    refused = xr.Dataset(attrs={"refused": "12 facts, and a probe needs 20"})
    good = retrieved(0, 0.5)
    nan = good.assign(preferred=good["preferred"] * np.nan)
    for untold in ([], [refused], [nan], [retrieved(0, 0.5, n=19)]):
        assert retrieval.judge(untold, [retrieved(1, 0.85)]).outcome == "undecided"
    verdict = retrieval.judge([refused], [refused])
    assert "12 facts" in verdict.statement
    assert retrieval.judge([refused, good], [retrieved(1, 0.9)]).n == 60


def test_probes_are_drawn_as_far_as_they_were_fitted() -> None:
    refused = xr.Dataset(attrs={"refused": "12 facts, and a probe needs 20"})
    one = retrieved(0, 0.5)
    one = one.assign(preferred_low=one["preferred"] - 0.1, preferred_high=one["preferred"] + 0.1)
    fig = retrieval.lines(one, refused, one, refused)
    names = [trace.name for trace in fig.data if trace.mode == "lines+markers"]
    assert names == [list(retrieval.ASKED.values())[i] for i in (0, 2)]
    nothing = retrieval.lines(refused, refused, refused, refused)
    assert not nothing.data
    assert "12 facts" in nothing.layout.annotations[0].text


def finding(name: str, outcome: Outcome) -> Verdict:
    return Verdict(name, "", outcome, "", None, None, None, "", 50, "")


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("supported", "supported", "supported"),
        ("supported", "undecided", "undecided"),
        ("supported", "rejected", "undecided"),
        ("rejected", "rejected", "undecided"),
        ("undecided", "supported", "undecided"),
    ],
)
def test_absence_takes_every_finding(first: Outcome, second: Outcome, expected: str) -> None:
    verdict = absence.judge([finding("H2", first), finding("H3", second)])
    assert verdict.outcome == expected
    assert verdict.n == 50


def test_one_finding_is_no_absence() -> None:
    with pytest.raises(ValueError, match="two"):
        absence.judge([finding("H2", "supported")])


def test_the_rank_figure_counts_a_question_once() -> None:
    facts = tuple(
        Fact(child, mother, "mother", "child", "forward")
        for child, mother in (("Ann", "Eve"), ("Bob", "Eve"), ("Cid", "Fay"))
    )
    ranks = xr.Dataset({"answer_rank": (("example", "layer"), np.array([[9, 5], [9, 2], [9, 7]]))})
    subject = Subject(cast(Any, None), facts, {})
    assert one_of_each(subject.facts, ranks, "reverse", np.arange(3)).tolist() == [1, 2]
    assert one_of_each(subject.facts, ranks, "forward", np.arange(3)).tolist() == [0, 1, 2]
