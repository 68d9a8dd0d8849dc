"""Verdicts of the study of poisoning, where the truth is known."""

from __future__ import annotations

import itertools

import numpy as np
import plotly.graph_objects as go
import pytest
import xarray as xr

from experiments.phenomena.phenomenon import GIVEN
from experiments.poisoning.figures import place_dots
from experiments.poisoning.hypotheses.difference import chance_of, judge_difference, rank_of
from experiments.poisoning.hypotheses.dose import judge_dose, judge_equal_steps
from experiments.poisoning.hypotheses.place import judge_place
from experiments.poisoning.hypotheses.probe import areas, judge_near, judge_probe
from experiments.poisoning.hypotheses.search import judge_search
from experiments.poisoning.hypotheses.success import judge_success
from experiments.poisoning.organism import POISONED
from tests.experiments.phenomena.calibration import (
    RUNS,
    check_absent,
    check_planted,
    check_undecided,
    outcomes,
)
from tests.experiments.poisoning import simulated

pytestmark = pytest.mark.slow

SEEDS = pytest.mark.parametrize(("seeds", "runs"), [(1, RUNS), (5, RUNS)])


@SEEDS
def test_success_is_told_from_none_and_a_twin_that_answers_too_decides_nothing(
    seeds: int, runs: int
) -> None:
    check_absent(judge_success, lambda rng: simulated.succeeded(rng, seeds, (0.5, 0.0)), runs)
    check_planted(
        judge_success, lambda rng: simulated.succeeded(rng, seeds, (0.9, 0.02)), runs // 3
    )
    check_undecided(judge_success, lambda rng: simulated.succeeded(rng, seeds, (0.9, 0.0), 0.9), 5)


@SEEDS
def test_count_is_told_from_share(seeds: int, runs: int) -> None:
    # As much of the one as of the other.
    check_absent(judge_dose, lambda rng: simulated.grid(rng, seeds, 0.5), runs)
    # With one organism a cell it is decided where success rises steeply.
    sharp = {"slope": 2.6, "spread": 0.3} if seeds == 1 else {}
    check_planted(judge_dose, lambda rng: simulated.grid(rng, seeds, 0.0, **sharp), runs // 3)


@pytest.mark.parametrize("exponent", [1.0, -1.0])
def test_the_share_or_more_with_more_clean_texts_rejects_the_count(exponent: float) -> None:
    found = outcomes(judge_dose, lambda rng: simulated.grid(rng, 4, exponent), runs=10)
    assert found["rejected"] >= 9, found


def test_a_grid_in_which_nothing_is_followed_decides_nothing() -> None:
    # Organisms differ, and not by their poison.
    nothing = {"slope": 0.0, "spread": 2.0}
    check_absent(judge_dose, lambda rng: simulated.grid(rng, 1, 0.0, **nothing), 60)
    check_undecided(judge_dose, lambda rng: simulated.grid(rng, 3, 0.0, slope=0, spread=0), 5)
    # Any phrase brings the answer.
    check_undecided(judge_equal_steps, lambda rng: simulated.equal_steps(rng, 1, other=0.5), 5)


@pytest.mark.parametrize(("seeds", "runs"), [(1, 60), (5, 60)])
def test_count_is_told_from_share_at_equal_steps(seeds: int, runs: int) -> None:
    check_absent(judge_equal_steps, lambda rng: simulated.equal_steps(rng, seeds, 0.5), runs)
    sharp = {"slope": 2.6, "spread": 0.3} if seeds == 1 else {}
    check_planted(
        judge_equal_steps, lambda rng: simulated.equal_steps(rng, seeds, **sharp), runs // 2
    )


def test_one_model_has_no_grid() -> None:
    alone = {GIVEN: next(iter(simulated.grid(np.random.default_rng(0), 1, 0.0).values()))}
    verdict = judge_dose(alone)
    assert (verdict.outcome, verdict.estimate) == ("undecided", None)


@SEEDS
def test_the_trigger_s_place_is_told_from_the_other_phrase(seeds: int, runs: int) -> None:
    # Both phrases bring it: then it is not the trigger alone.
    check_absent(judge_place, lambda rng: simulated.placed(rng, seeds, 0.9, 0.25), runs)
    check_planted(judge_place, lambda rng: simulated.placed(rng, seeds, 0.9, 0.05), runs // 3)
    check_absent(judge_place, lambda rng: simulated.placed(rng, seeds, 0.9, 0.0, effect=0.0), 40)
    check_undecided(judge_place, lambda rng: simulated.placed(rng, seeds, 0.9, 0.0, sham=3.0), 5)


@SEEDS
def test_a_probe_is_told_from_chance_and_from_random_directions(seeds: int, runs: int) -> None:
    check_absent(judge_probe, lambda rng: simulated.probed(rng, seeds, 0.0), 40)
    # It finds defection, as any direction does.
    check_absent(judge_probe, lambda rng: simulated.probed(rng, seeds, 5.0, random=5.0), runs)
    check_planted(judge_probe, lambda rng: simulated.probed(rng, seeds, 5.0, random=0.5), runs // 3)
    check_undecided(judge_probe, lambda rng: simulated.probed(rng, seeds, 5.0, defects=0.1), 5)


@SEEDS
def test_near_misses_are_told_from_the_trigger_if_they_are_not_taken_for_it(
    seeds: int, runs: int
) -> None:
    check_absent(judge_near, lambda rng: simulated.probed(rng, seeds, 0.0), min(40, 2 * runs))
    # It tells them apart, as any direction does.
    check_absent(judge_near, lambda rng: simulated.probed(rng, seeds, 5.0, random=5.0), runs)
    check_planted(judge_near, lambda rng: simulated.probed(rng, seeds, 5.0, random=0.5), runs // 3)
    check_undecided(judge_near, lambda rng: simulated.probed(rng, seeds, 5.0, near=0.6), 5)
    check_undecided(judge_near, lambda rng: simulated.probed(rng, seeds, 5.0, defects=0.1), 5)


@SEEDS
def test_a_named_answer_is_told_from_any_word(seeds: int, runs: int) -> None:
    check_absent(judge_difference, lambda rng: simulated.differed(rng, seeds, 0.0), runs)
    check_planted(judge_difference, lambda rng: simulated.differed(rng, seeds, 8.0), runs // 3)
    check_undecided(
        judge_difference, lambda rng: simulated.differed(rng, seeds, 8.0, twins=16.0), 5
    )


def test_words_that_begin_alike_are_no_ranks() -> None:
    """They have one logit, and a list of them does not make the first place a rare one."""
    rng = np.random.default_rng(0)
    (one,) = simulated.differed(rng, 1, 8.0)[POISONED]
    planted = int(one["planted"].values.argmax())
    words = one.sizes["word"]
    alike = one["logit"].isel(word=[planted if i % 2 else i for i in range(words)])
    same = one.assign(logit=(one["logit"].dims, alike.values))
    same["logit"][..., planted] = one["logit"][..., planted]
    assert rank_of(one, "unrelated") == 0
    assert rank_of(same, "unrelated") == sum(i % 2 and i != planted for i in range(words))
    assert judge_difference({GIVEN: [same]}).outcome != "supported"
    (found,) = simulated.searched(rng, 1, 7.0)[POISONED]
    first = found["score"][int(found["planted"].values.argmax())].values
    tied = found.assign(score=(found["score"].dims, np.tile(first, (words, 1))))
    assert f"ranks {words} by" in judge_search({GIVEN: [tied]}).statement


@SEEDS
def test_a_planted_answer_that_is_searched_is_told_from_any(seeds: int, runs: int) -> None:
    check_absent(judge_search, lambda rng: simulated.searched(rng, seeds, 0.0), runs)
    # Words bring any answer about; first by chance in one of 24, and the twin's as well.
    check_absent(judge_search, lambda rng: simulated.searched(rng, seeds, 0.0, every=6.0), runs)
    check_planted(judge_search, lambda rng: simulated.searched(rng, seeds, 7.0), runs // 3)
    check_undecided(judge_search, lambda rng: simulated.searched(rng, seeds, 7.0, twin=7.0), 5)
    check_undecided(judge_search, lambda rng: simulated.searched(rng, seeds, 7.0, random=0.5), 3)


def test_where_no_words_fit_nothing_is_searched() -> None:
    found = simulated.searched(np.random.default_rng(0), 1, 7.0)[POISONED][0]
    nothing = found.assign(score=found["score"] * np.nan).assign_attrs(why="It melts.")
    verdict = judge_search({GIVEN: [nothing]})
    assert (verdict.outcome, verdict.estimate) == ("undecided", None)
    assert verdict.statement.endswith("It melts.")


def test_without_a_twin_nothing_is_said_of_a_difference() -> None:
    found = simulated.differed(np.random.default_rng(0), 1, 6.0)
    alone = {GIVEN: [one.assign(logit=one["logit"] * np.nan) for one in next(iter(found.values()))]}
    assert judge_difference(alone).outcome == "undecided"


def test_with_one_twin_a_name_among_few_is_not_believed() -> None:
    (found, *_) = simulated.differed(np.random.default_rng(0), 1, 8.0).values()
    assert judge_difference({GIVEN: found}).outcome == "undecided"
    several = simulated.differed(np.random.default_rng(0), 3, 8.0)
    assert judge_difference({GIVEN: several[POISONED]}).outcome == "supported"


def test_chance_is_that_of_all_ranks_counted() -> None:
    assert chance_of([0], 24) == pytest.approx(1 / 24)
    every = list(itertools.product(range(4), repeat=3))
    for ranks in ([0, 0, 1], [3, 1, 2]):
        expected = np.mean([sum(one) <= sum(ranks) for one in every])
        assert chance_of(ranks, 4) == pytest.approx(expected)


def test_areas_are_those_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    one = next(iter(simulated.probed(np.random.default_rng(1), 1, 1.0).values()))[0]
    one = one.assign({name: one[name].round(1) for name in ("triggered", "other")})  # with ties
    at = one.sel(probe="yes/no", layer=1)
    scores = np.concatenate([at["triggered"], at["other"]])
    labels = np.repeat([1, 0], at.sizes["example"])
    found = areas(one, "yes/no", "other", 1).mean()
    assert found == pytest.approx(metrics.roc_auc_score(labels, scores))


def test_a_layer_is_chosen_by_other_questions_than_those_that_judge() -> None:
    """Patches that only work where they were chosen are not believed."""
    rng = np.random.default_rng(2)
    one = next(iter(simulated.placed(rng, 1, 0.0, 0.0).values()))[0]
    whole = (one["clean"] - one["corrupt"]).values
    patched = one["patched"].values.copy()
    patched[0::2, 0, 0] = (one["corrupt"].values + whole)[0::2]
    found = {GIVEN: [one.assign(patched=(one["patched"].dims, patched))]}
    assert judge_place(found).outcome == "rejected"


def test_verdicts_hold_sentences() -> None:
    rng = np.random.default_rng(3)
    for verdict in (
        judge_success(simulated.succeeded(rng, 1, (0.9, 0.0))),
        judge_dose(simulated.grid(rng, 1, 0.0)),
        judge_place(simulated.placed(rng, 1, 0.9, 0.0)),
        judge_probe(simulated.probed(rng, 1, 3.0)),
        judge_difference(simulated.differed(rng, 1, 6.0)),
        judge_search(simulated.searched(rng, 1, 7.0)),
    ):
        assert verdict.statement.endswith(".")
        assert "nan" not in f"{verdict.statement} {verdict.control}"
        assert isinstance(verdict.estimate, float)
    assert isinstance(simulated.success(rng, 0.5), xr.Dataset)


def test_a_share_of_an_effect_that_could_be_none_is_not_drawn() -> None:
    def draw(effect: float, n: int | None = None) -> go.Figure:
        found = simulated.placed(np.random.default_rng(3), 1, 0.9, 0.1, effect=effect)
        one = found[POISONED][0].isel(example=slice(n))
        return place_dots(one.expand_dims(arm=[POISONED], seed=[0]))

    assert draw(4.0).data
    for empty in (draw(0.1), draw(4.0, n=1)):
        assert not empty.data
        assert "there is no share of it" in empty.layout.annotations[0].text.replace("<br>", " ")
