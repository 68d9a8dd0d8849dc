"""Verdicts on simulated measurements: absent, planted, and with a control that fails."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import xarray as xr

from experiments.injection import verdicts
from experiments.phenomena.phenomenon import Measured
from experiments.study import Verdict
from interp.stats import auroc
from tests.experiments.phenomena.calibration import (
    RUNS,
    check_absent,
    check_planted,
    check_undecided,
)

Simulate = Callable[[np.random.Generator], Measured]
CHOOSING, HELD = 30, 90
N = CHOOSING + HELD
CONDITIONS = ["nothing", "harmless", "injected"]
PAIR = ("example", "condition")
CHOOSES = ("example", np.arange(N) < CHOOSING)


pytestmark = pytest.mark.slow


def arms(one: Callable[[], xr.Dataset], seeds: int) -> Measured:
    return {"treated": [one() for _ in range(seeds)]}


def takes(effect: float, right: float = 1.0, seeds: int = 1) -> Simulate:
    def simulate(rng: np.random.Generator) -> Measured:
        def one() -> xr.Dataset:
            lost = rng.random((N, 3)) < 0.03 + effect * np.array([0, 0, 1])
            return xr.Dataset(
                {
                    "margin": (PAIR, np.where(lost, -1.0, 1.0)),
                    "right": (PAIR, rng.random((N, 3)) < right),
                },
                {"condition": CONDITIONS},
            )

        return arms(one, seeds)

    return simulate


def scores(
    fall: float,
    *,
    others: float = 0.0,
    within: float = 0.0,
    lost: float = 0.4,
    size: float = 0.05,
    seeds: int = 1,
) -> Simulate:
    """Scores of cases, some of which are taken over.

    Args:
        fall: of the chosen heads under an injection, in spreads between cases.
        others: of all other heads.
        within: how much lower the score is where the injection succeeds, in spreads.
        lost: share that are taken over.
        size: of a spread, as a share of attention.
    """

    def simulate(rng: np.random.Generator) -> Measured:
        def one() -> xr.Dataset:
            injected = np.array([0, 0, 1])
            case = rng.normal(0, 1, (N, 1))
            gone = rng.random(N) < lost
            mine = case + rng.normal(0, 0.3, (N, 3)) - fall * injected
            mine[:, 2] -= within * gone
            rest = case + rng.normal(0, 0.3, (N, 3)) - others * injected
            drawn = case + rng.normal(0, 0.3, (5, N, 3)) - others * injected
            margin = np.ones((N, 3))
            margin[gone, 2] = -1
            return xr.Dataset(
                {
                    "chosen": (("layer", "head"), np.eye(3, 4, dtype=bool)),
                    "score": (PAIR, 0.3 + size * mine),
                    "others": (PAIR, 0.3 + size * rest),
                    "every": (PAIR, 0.3 + size * rest),
                    "random": (("draw", *PAIR), 0.3 + size * drawn),
                    "margin": (PAIR, margin),
                    "chooses": CHOOSES,
                },
                {"condition": CONDITIONS},
            )

        return arms(one, seeds)

    return simulate


def known(fall: float) -> Simulate:
    """Whether an injection succeeds is known of the case, whatever stands in its data."""

    def simulate(rng: np.random.Generator) -> Measured:
        measured = scores(fall)(rng)
        for one in measured["treated"]:
            easy = one["score"].mean("condition").values
            one["margin"][:, 2] = np.where(easy < np.median(easy), -1.0, 1.0)
        return measured

    return simulate


def brings_back(chosen: float, random: float, lost: float = 0.4, seeds: int = 1) -> Simulate:
    def simulate(rng: np.random.Generator) -> Measured:
        def one() -> xr.Dataset:
            margin = np.where(rng.random(N) < lost, -1.0, 1.0)
            margin[:CHOOSING] = np.nan
            # Some cases come back more easily than others, with any heads.
            easy = rng.random((N, 1)) ** 0.5
            shares = np.array([chosen, random, 0.95, chosen])
            back = rng.random((N, 4)) < shares * (0.5 + 0.75 * easy)
            drawn = rng.random((N, 10)) < random * (0.5 + 0.75 * easy)
            names = ["chosen heads", "random heads", "all heads", "chosen heads, all tokens"]
            return xr.Dataset(
                {
                    "restored": (("example", "set"), np.where(back, 1.0, -1.0)),
                    "random": (("example", "draw"), np.where(drawn, 1.0, -1.0)),
                    "margin": ("example", margin),
                    "chooses": CHOOSES,
                },
                {"set": names},
            )

        return arms(one, seeds)

    return simulate


Judge = Callable[[Measured], Verdict]
CASES: list[tuple[str, Judge, Simulate, Simulate, list[Simulate]]] = [
    ("taken", verdicts.judge_taken, takes(0), takes(0.2), [takes(0.5, right=0.3)]),
    (
        "fall",
        verdicts.judge_fall,
        scores(0),
        scores(0.5),
        # All heads fall alike.
        [scores(0.5, others=0.5), scores(0.5, others=1.0)],
    ),
    ("detector", verdicts.judge_detector, scores(0), scores(0.8), [scores(2, size=0.0005)]),
    (
        "effect",
        verdicts.judge_effect,
        scores(0.8),
        scores(0.8, within=1.0),
        # Too few of a kind; a score that sees no injection; one that knows it of the case alone.
        [scores(0.8, lost=0.02), scores(0.8, lost=0.99), scores(-1.0, within=1.0), known(0.8)],
    ),
    (
        "restoring",
        verdicts.judge_restoring,
        brings_back(0.4, 0.4),
        brings_back(0.7, 0.3),
        [brings_back(0.9, 0.1, lost=0.0)],
    ),
]


def over(simulate: Simulate, seeds: int) -> Simulate:
    """Several organisms, each simulated alone."""

    def several(rng: np.random.Generator) -> Measured:
        return {"treated": [simulate(rng)["treated"][0] for _ in range(seeds)]}

    return several


@pytest.mark.parametrize(("seeds", "runs", "few"), [(1, RUNS, 20), (5, RUNS, 5)])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_verdicts_are_calibrated_both_ways(
    case: tuple[str, Judge, Simulate, Simulate, list[Simulate]], seeds: int, runs: int, few: int
) -> None:
    _, judge, absent, planted, broken = case
    check_absent(judge, over(absent, seeds), runs)
    check_planted(judge, over(planted, seeds), runs // 2)
    for simulate in broken:
        check_undecided(judge, over(simulate, seeds), few)


def test_a_score_that_tells_nothing_of_success_is_rejected_as_such() -> None:
    found = verdicts.judge_effect(scores(0.8, seeds=5)(np.random.default_rng(0)))
    assert found.outcome == "rejected"
    assert found.estimate == pytest.approx(0.5, abs=0.06)


def test_what_moves_in_any_model_is_no_fall() -> None:
    found = verdicts.judge_fall(scores(0.5, size=0.0005)(np.random.default_rng(4)))
    assert found.low is not None
    assert found.low > 0
    assert found.outcome == "rejected"


def test_cases_that_chose_heads_judge_none() -> None:
    measured = scores(0)(np.random.default_rng(1))
    for one in measured["treated"]:
        one["score"][:CHOOSING, 2] -= 10
    assert verdicts.judge_detector(measured).outcome != "supported"
    assert verdicts.judge_fall(measured).outcome != "supported"


def test_no_chosen_head_is_told() -> None:
    measured = scores(0.5)(np.random.default_rng(2))
    for one in measured["treated"]:
        one["score"][:] = np.nan
        one["chosen"][:] = False
    for judge in (verdicts.judge_fall, verdicts.judge_detector, verdicts.judge_effect):
        assert judge(measured).outcome == "undecided"


def test_the_estimate_of_an_area_is_that_of_its_seeds() -> None:
    rng = np.random.default_rng(3)
    high, low = [rng.normal(1, 1, 40) for _ in range(3)], [rng.normal(0, 1, 50) for _ in range(3)]
    found = verdicts.area(high, low)
    areas = [auroc(a, b) for a, b in zip(high, low, strict=True)]
    assert found.mean == pytest.approx(np.mean(areas))
    alone = verdicts.area(high[:1], low[:1])
    assert alone.low < alone.mean < alone.high
    # Three samples tell more than one, unless organisms differ.
    assert found.high - found.low < alone.high - alone.low or np.std(areas) > 0.02
