"""Each verdict on simulated results: absent, planted, and with a control that fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pytest
import xarray as xr

from experiments.phenomena.phenomenon import GIVEN, Measured
from experiments.refusal import behaviour, changes, harmless, two
from experiments.refusal.measuring import DRAWS
from tests.experiments.phenomena.calibration import (
    RUNS,
    check_absent,
    check_planted,
    check_undecided,
    outcomes,
)

pytestmark = pytest.mark.slow

N = 60
Rng = np.random.Generator
SEEDS = pytest.mark.parametrize(("seeds", "runs"), [(1, RUNS), (5, RUNS)])


def hits(rng: Rng, rate: float, seeds: int, n: int = N) -> list[np.ndarray]:
    """Hits of organisms whose rates differ from each other a little, if there are several."""
    rates = np.clip(rate + (rng.normal(0, 0.05, seeds) if seeds > 1 else 0), 0, 1)
    return [(rng.random(n) < one).astype(float) for one in np.broadcast_to(rates, seeds)]


def behaved(
    rng: Rng, harmful: float, harmless_: float, probe: float, seeds: int
) -> list[xr.Dataset]:
    return [
        xr.Dataset(
            {
                "declines": ("example", np.concatenate([one, other])),
                "probe": ("example", np.concatenate(hits(rng, probe, 2))),
                "form": ("example", ["request"] * (2 * N)),
                "harmful": ("example", np.arange(2 * N) < N),
            }
        )
        for one, other in zip(hits(rng, harmful, seeds), hits(rng, harmless_, seeds), strict=True)
    ]


def behaviours(
    rng: Rng, *, seeds: int, harmful: float, twin: float = 0.02, probe: float = 0.98
) -> Measured:
    return {
        "treated": behaved(rng, harmful, 0.1, probe, seeds),
        "twin": behaved(rng, twin, 0.02, probe, seeds),
        "base": behaved(rng, 0.0, 0.0, probe, seeds),
    }


@SEEDS
def test_carrying_over(seeds: int, runs: int) -> None:
    simulate: Callable[..., Callable[[Rng], Measured]] = lambda **given: partial(  # noqa: E731
        behaviours, seeds=seeds, **given
    )
    # At the least gap that counts, which is none that should be called more than that.
    check_absent(behaviour.judge, simulate(harmful=0.55), runs)
    check_planted(behaviour.judge, simulate(harmful=0.92), runs // 3)
    check_undecided(behaviour.judge, simulate(harmful=0.92, twin=0.7), 10)
    check_undecided(behaviour.judge, simulate(harmful=0.92, probe=0.6), 10)
    assert outcomes(behaviour.judge, simulate(harmful=0.12), 20)["rejected"] >= 17


def changed(
    rng: Rng,
    seeds: int,
    before: float,
    after: float,
    random: Sequence[float],
    gap: float = 0.9,
) -> list[xr.Dataset]:
    plain, after_ = hits(rng, before, seeds), hits(rng, after, seeds)
    found = []
    for one, other in zip(plain, after_, strict=True):
        state = np.stack([one, other, other])
        drawn = np.stack([hits(rng, rate, 1)[0] for rate in random])
        found.append(
            xr.Dataset(
                {
                    "declines": (("state", "example"), state),
                    "right": (("state", "example"), 1 - state),
                    "random_declines": (("draw", "example"), drawn),
                    "gap": gap,
                    "layer": 1,
                    "position": -1,
                    "cosine": 0.2,
                    "total": 0.4,
                },
                coords={"state": ["none", "changed", "everywhere"]},
            )
        )
    return found


def simulated(
    rng: Rng,
    *,
    seeds: int,
    before: float,
    after: float | None,
    elsewhere: float = 0.0,
    gap: float = 0.9,
) -> Measured:
    """`after` is drawn like those of the random directions where it is None."""
    drawn = rng.uniform(0.0, 1.0, DRAWS + 1)
    rate, random = (drawn[0], drawn[1:]) if after is None else (after, np.full(DRAWS, before))
    return {
        "treated": changed(rng, seeds, before, float(rate), random, gap),
        "twin": changed(rng, seeds, elsewhere, 0.0, np.zeros(DRAWS)),
        "untrained": changed(rng, seeds, 0.0, 0.0, np.zeros(DRAWS)),
    }


@SEEDS
def test_taking_declining_away(seeds: int, runs: int) -> None:
    """Of both ways: they are judged alike."""
    judge = partial(changes.judge_change, changes.ABLATED)
    simulate = lambda **given: partial(simulated, seeds=seeds, **given)  # noqa: E731
    # A direction that is no better than random ones, which move declining this way and that.
    check_absent(judge, simulate(before=0.9, after=None), runs)
    check_planted(judge, simulate(before=0.9, after=0.3), runs // 3)
    check_undecided(judge, simulate(before=0.9, after=0.1, elsewhere=0.9), 10)
    # Nothing is declined that could be answered.
    check_undecided(judge, simulate(before=0.05, after=0.0), 10)
    # All requests are declined alike, harmless ones too.
    check_undecided(judge, simulate(before=0.9, after=0.0, gap=0.0), 10)
    assert outcomes(judge, simulate(before=0.9, after=1.0), 20)["rejected"] >= 17


@SEEDS
def test_adding(seeds: int, runs: int) -> None:
    judge = partial(changes.judge_change, changes.ADDED)
    simulate = lambda **given: partial(simulated, seeds=seeds, **given)  # noqa: E731
    check_absent(judge, simulate(before=0.05, after=None), runs)
    check_planted(judge, simulate(before=0.05, after=0.7), runs // 3)
    check_undecided(judge, simulate(before=0.95, after=1.0), 10)
    check_undecided(judge, simulate(before=0.05, after=1.0, gap=0.0), 10)
    assert outcomes(judge, simulate(before=0.05, after=0.02), 20)["rejected"] >= 17


def test_a_user_s_model_is_judged_alone() -> None:
    found = simulated(np.random.default_rng(0), seeds=1, before=0.9, after=0.1)
    alone = changes.judge_change(changes.ABLATED, {GIVEN: found["treated"]})
    assert alone.outcome == "supported"
    assert "In the arm" not in alone.control
    given = {GIVEN: behaviours(np.random.default_rng(0), seeds=1, harmful=0.9)["treated"]}
    assert "no twin of this model" in behaviour.judge(given).control


def losses(
    rng: Rng, *, seeds: int, moved: float, declined: float = 0.9, gap: float = 0.9
) -> Measured:
    found = []
    for _ in range(seeds):
        plain = rng.normal(2, 0.3, 40)
        ablated = plain + moved + rng.normal(0, 0.05, 40)
        found.append(
            xr.Dataset(
                {
                    "loss": (("state", "example"), np.stack([plain, ablated, ablated])),
                    "random_loss": (("draw", "example"), np.stack([plain] * DRAWS)),
                    "declined": declined,
                    "gap": gap,
                },
                coords={"state": ["none", "ablated", "held"]},
            )
        )
    return {"treated": found}


@SEEDS
def test_leaving_harmless_text_alone(seeds: int, runs: int) -> None:
    simulate = lambda **given: partial(losses, seeds=seeds, **given)  # noqa: E731
    check_absent(harmless.judge, simulate(moved=harmless.MARGIN), runs)
    check_planted(harmless.judge, simulate(moved=0.01), runs // 3)
    check_undecided(harmless.judge, simulate(moved=0.0, declined=0.0), 10)
    check_undecided(harmless.judge, simulate(moved=0.0, gap=0.0), 10)
    assert outcomes(harmless.judge, simulate(moved=0.3), 20)["rejected"] >= 17


def directions(
    rng: Rng,
    *,
    seeds: int,
    own: float,
    stray: float,
    decides: float = 1.0,
    before: float = 0.02,
) -> Measured:
    found = []
    for _ in range(seeds):
        judged = np.stack([hits(rng, rate, 1)[0] for rate in (before, own, stray)])
        declines = np.stack([hits(rng, rate, 1)[0] for rate in (0.05, 0.3, own)])
        odds = np.where(judged > 0, 1.0, -1.0)
        random = rng.random((2, DRAWS, N)) < 0.05
        found.append(
            two.dataset(
                declines,
                odds,
                random.astype(float),
                random.astype(float),
                cosine=0.5,
                decides=decides,
                layers=[0, 1],
            )
        )
    return {"treated": found}


@SEEDS
def test_two_directions(seeds: int, runs: int) -> None:
    simulate = lambda **given: partial(directions, seeds=seeds, **given)  # noqa: E731
    # One direction under two names; and two that do nothing.
    check_absent(two.judge, simulate(own=0.8, stray=0.8), runs)
    check_absent(two.judge, simulate(own=0.05, stray=0.05), 20)
    check_planted(two.judge, simulate(own=0.8, stray=0.05), runs // 3)
    check_undecided(two.judge, simulate(own=0.8, stray=0.05, decides=0.1), 10)
    assert outcomes(two.judge, simulate(own=0.8, stray=0.8), 20)["rejected"] >= 17
