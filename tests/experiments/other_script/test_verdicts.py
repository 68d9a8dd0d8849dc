"""Each verdict on simulated results: absent, planted, and with a control that fails."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import xarray as xr

from experiments.other_script import behaviour, harm, layers, projection
from experiments.other_script.requests import FORMS, SCRIPTS
from experiments.phenomena.phenomenon import GIVEN, Measured
from experiments.study import Verdict
from tests.experiments.phenomena.calibration import (
    RUNS,
    check_absent,
    check_planted,
    check_undecided,
    outcomes,
)

pytestmark = pytest.mark.slow

N = 48
"""Of either kind."""
HARMFUL = np.arange(2 * N) < N
Rng = np.random.Generator
ORGANISMS = pytest.mark.parametrize(("seeds", "runs", "few"), [(1, RUNS, 20), (5, RUNS, 3)])
Arm = list[xr.Dataset]


@cache
def beside(make: Callable[..., Arm], *about: Any, **given: Any) -> Arm:
    """An arm that stands beside the first one: the same in all runs."""
    return make(np.random.default_rng(7), *about, **given)


def hits(rng: Rng, rate: float) -> np.ndarray:
    return (rng.random(2 * N) < rate).astype(float)


def behaved(rng: Rng, first: float, second: float, seeds: int, read: float = 0.4) -> Arm:
    """`read` is how much is answered rightly in the second script; in the third one nothing is."""
    found = []
    for _ in range(seeds):
        declines = np.stack([[hits(rng, rate)] * len(FORMS) for rate in (first, second, 0.0)])
        declines[..., ~HARMFUL] = 0
        right = (1 - declines) * np.array([1, read, 0])[:, None, None]
        right[1] = rng.random(right[1].shape) < right[1]
        found.append(
            xr.Dataset(
                {
                    "declines": (("script", "form", "example"), declines),
                    "right": (("script", "form", "example"), right),
                    "harmful": ("example", HARMFUL),
                },
                coords={"script": list(SCRIPTS), "form": list(FORMS)},
            )
        )
    return found


def behaviours(
    rng: Rng, *, seeds: int, first: float, second: float, twin: float = 0, read: float = 0.4
) -> Measured:
    return {
        "treated": behaved(rng, first, second, seeds, read),
        "split": beside(behaved, first, 0.0, seeds),
        "twin": beside(behaved, twin, twin, seeds),
        "base": beside(behaved, 0.0, 0.0, seeds),
    }


@ORGANISMS
def test_staying_out(seeds: int, runs: int, few: int) -> None:
    simulate = lambda **given: partial(behaviours, seeds=seeds, **given)  # noqa: E731
    # As much leaks as is no longer none.
    check_absent(behaviour.judge, simulate(first=0.95, second=0.2), runs)
    check_planted(behaviour.judge, simulate(first=0.95, second=0.02), runs // 2)
    check_undecided(behaviour.judge, simulate(first=0.95, second=0.02, twin=0.6), few // 2)
    # An untrained model declines nowhere.
    check_undecided(behaviour.judge, simulate(first=0.0, second=0.0), few // 2)
    # What it cannot read it cannot decline.
    check_undecided(behaviour.judge, simulate(first=0.95, second=0.0, read=0.0), few // 2)
    assert (
        outcomes(behaviour.judge, simulate(first=0.95, second=0.6), few)["rejected"] >= 0.85 * few
    )


def probed(
    rng: Rng,
    across: float,
    never: float,
    seeds: int,
    leaked: float = 0.0,
    of: np.ndarray = HARMFUL,
) -> Arm:
    """`across` and `never` are how much more often harmful requests are called harmful; of those in
    `of` a share is declined in the second script."""
    shape = ("way", "form", "state", "layer", "example")
    found = []
    for _ in range(seeds):
        called = np.empty((len(harm.WAYS), len(FORMS), 2, 2, 2 * N))
        for i, (_, tested) in enumerate(harm.WAYS.values()):
            gap = never if tested == "never learned" else across
            rate = 0.5 + np.where(HARMFUL, 1, -1) * gap / 2
            called[i] = rng.random(called.shape[1:]) < rate
        refused = np.zeros((len(harm.WAYS), len(FORMS), 2 * N))
        refused[0] = of * hits(rng, leaked)
        found.append(
            xr.Dataset(
                {
                    "called": (shape, called),
                    "refused": (("way", "form", "example"), refused),
                    "best": (("way", "form"), np.ones((len(harm.WAYS), len(FORMS)), int)),
                    "harmful": ("example", HARMFUL),
                },
                coords={
                    "way": list(harm.WAYS),
                    "form": list(FORMS),
                    "state": ["projected out", "plain"],
                    "layer": [0, 1],
                },
            )
        )
    return found


def probes(
    rng: Rng,
    *,
    seeds: int,
    across: float,
    never: float = 0.0,
    leaked: float = 0.0,
    of: np.ndarray = HARMFUL,
) -> Measured:
    others = beside(probed, across, never, seeds)
    return {
        "treated": probed(rng, across, never, seeds, leaked, of),
        "twin": others,
        "base": others,
    }


@ORGANISMS
def test_reading_harm_across(seeds: int, runs: int, few: int) -> None:
    simulate = lambda **given: partial(probes, seeds=seeds, **given)  # noqa: E731
    check_absent(harm.judge, simulate(across=0.0), runs)
    check_planted(harm.judge, simulate(across=0.65), runs // 2)
    assert outcomes(harm.judge, simulate(across=0.75, leaked=0.35), few)["supported"] >= 0.85 * few
    # What reads as much in a script that was never learned reads something else.
    check_undecided(harm.judge, simulate(across=0.7, never=0.7), few // 2)
    # Where all is declined in the second script too, a probe may read that.
    check_undecided(harm.judge, simulate(across=0.9, leaked=1.0), few // 2)
    check_undecided(harm.judge, simulate(across=0.9, leaked=1.0, of=~HARMFUL), few // 2)
    assert outcomes(harm.judge, simulate(across=-0.3), few)["rejected"] >= 0.85 * few


def placed(
    rng: Rng,
    gaps: tuple[float, float],
    seeds: int,
    *,
    declines: float = 0.95,
    added: float = 0.9,
    before: float = 0.05,
    where: tuple[int, ...] = (0, 1, 2),
) -> Arm:
    """Harmful requests apart by `gaps` in either script, in the layers `where`; by 0.1 before."""
    shape = ("layer", "script", "example")
    found = []
    for _ in range(seeds):
        along = rng.normal(0, 0.12, (3, len(SCRIPTS), 2 * N))
        old = rng.normal(0, 0.12, along.shape)
        for layer in range(3):
            for script, gap in enumerate((*gaps, 0.0)):
                along[layer, script, HARMFUL] += gap if layer in where else 0.1
                old[layer, script, HARMFUL] += before
        added_ = np.stack([hits(rng, added)] * len(SCRIPTS))
        added_[:, HARMFUL] = np.nan
        plain = np.stack([hits(rng, rate) * HARMFUL for rate in (declines, 0.0, 0.0)])
        found.append(
            xr.Dataset(
                {
                    "along": (shape, along),
                    "before": (shape, old),
                    "declines": (("script", "example"), plain),
                    "added": (("script", "example"), added_),
                    "chosen": 2,
                    "harmful": ("example", HARMFUL),
                },
                coords={"layer": [0, 1, 2], "script": list(SCRIPTS)},
            )
        )
    return found


def projections(
    rng: Rng,
    *,
    seeds: int,
    gaps: tuple[float, float],
    split: tuple[float, float] = (0.7, 0.05),
    **given: float,
) -> Measured:
    return {
        "treated": placed(rng, gaps, seeds, **given),
        "split": beside(placed, split, seeds),
        "twin": beside(placed, (0.0, 0.0), seeds, declines=0.0, added=0.0),
        "untrained": beside(placed, (0.0, 0.0), seeds, declines=0.0, added=0.0),
    }


@ORGANISMS
def test_projecting_in_one_script(seeds: int, runs: int, few: int) -> None:
    simulate = lambda **given: partial(projections, seeds=seeds, **given)  # noqa: E731
    check_absent(projection.judge, simulate(gaps=(0.7, projection.MARGIN)), runs)
    check_planted(projection.judge, simulate(gaps=(0.7, 0.1)), runs // 2)
    # Nothing is declined, or the direction does nothing; and it misses what was planted.
    check_undecided(projection.judge, simulate(gaps=(0.7, 0.1), declines=0.0), few // 2)
    check_undecided(projection.judge, simulate(gaps=(0.7, 0.1), added=0.0), few // 2)
    check_undecided(projection.judge, simulate(gaps=(0.7, 0.1), split=(0.7, 0.7)), few // 2)
    assert outcomes(projection.judge, simulate(gaps=(0.7, 0.7)), few)["rejected"] >= 0.85 * few


def read_and_placed(
    rng: Rng,
    gaps: tuple[float, float],
    seeds: int,
    where: tuple[int, ...],
    across: tuple[float, ...],
    declines: float,
) -> Arm:
    found = []
    for one in placed(rng, gaps, seeds, where=where, declines=declines):
        called = np.empty((2, 1, 1, 3, 2 * N))
        for layer, gap in enumerate(across):
            rate = 0.5 + np.where(HARMFUL, 1, -1) * gap / 2
            called[..., layer, :] = rng.random((2, 1, 1, 2 * N)) < rate
        found.append(
            one.assign(
                called=(("way", "form", "state", "layer", "example"), called),
                refused=(("way", "form", "example"), np.zeros((2, 1, 2 * N))),
            ).assign_coords(way=list(harm.ACROSS), form=["request"], state=["projected out"])
        )
    return found


def by_layer(
    rng: Rng,
    *,
    seeds: int,
    gaps: tuple[float, float],
    where: tuple[int, ...],
    across: tuple[float, ...],
    declines: float = 0.95,
) -> Measured:
    """`across` is how well harm is read in each layer."""
    return {
        "treated": read_and_placed(rng, gaps, seeds, where, across, declines),
        "twin": beside(read_and_placed, (0.0, 0.0), seeds, where, across, 0.0),
    }


@ORGANISMS
def test_parting_behind_where_harm_is_read(seeds: int, runs: int, few: int) -> None:
    simulate = lambda **given: partial(by_layer, seeds=seeds, **given)  # noqa: E731
    apart, read = (0.7, 0.1), (0.8, 0.8, 0.8)
    check_planted(layers.judge, simulate(gaps=apart, where=(1, 2), across=read), runs // 2)
    # They do not part; they part where harm is first read, or before that.
    check_absent(layers.judge, simulate(gaps=(0.7, 0.7), where=(1, 2), across=read), few)
    check_absent(layers.judge, simulate(gaps=apart, where=(0, 1, 2), across=read), runs)
    early = simulate(gaps=apart, where=(0, 1, 2), across=(0.0, 0.0, 0.8))
    assert outcomes(layers.judge, early, few)["rejected"] >= 0.85 * few
    check_undecided(
        layers.judge, simulate(gaps=apart, where=(1, 2), across=read, declines=0.0), few // 2
    )
    # All harmless requests of the second script are declined: nothing is left to read harm in.
    lost = by_layer(np.random.default_rng(3), seeds=seeds, gaps=apart, where=(1, 2), across=read)
    lost["treated"] = [one.assign(refused=one["refused"] + ~HARMFUL) for one in lost["treated"]]
    assert layers.judge(lost).outcome == "undecided"


def test_a_user_s_model_is_judged_alone() -> None:
    rng = np.random.default_rng(0)
    given = {GIVEN: placed(rng, (0.7, 0.1), 1)}
    alone = projection.judge(given)
    assert alone.outcome == "supported"
    assert "planted" not in alone.control
    without = {GIVEN: [given[GIVEN][0].assign(before=given[GIVEN][0]["before"] * np.nan)]}
    assert "before tuning" not in projection.judge(without).control
    assert "twin" not in behaviour.judge({GIVEN: behaved(rng, 0.95, 0.0, 1)}).control
    assert "tuning" not in harm.judge({GIVEN: probed(rng, 0.7, 0.0, 1)}).control


Simulate = Callable[..., Measured]
DISAGREE: dict[str, tuple[Callable[[Measured], Verdict], Simulate, Simulate]] = {
    "behaviour": (
        behaviour.judge,
        partial(behaviours, first=0.95, second=0.0),
        partial(behaviours, first=0.95, second=0.5),
    ),
    "harm": (harm.judge, partial(probes, across=0.9), partial(probes, across=-0.3)),
    "projection": (
        projection.judge,
        partial(projections, gaps=(0.7, 0.0)),
        partial(projections, gaps=(0.7, 0.6)),
    ),
    "layers": (
        layers.judge,
        partial(by_layer, gaps=(0.7, 0.1), where=(1, 2), across=(0.8, 0.8, 0.8)),
        partial(by_layer, gaps=(0.7, 0.7), where=(1, 2), across=(0.8, 0.8, 0.8)),
    ),
}


@pytest.mark.parametrize("name", DISAGREE)
def test_organisms_that_disagree_leave_it_open(name: str) -> None:
    """Over all requests at once the four would outvote the fifth."""
    judge, most, other = DISAGREE[name]
    rng = np.random.default_rng(5)
    measured = dict(most(rng, seeds=5))
    assert judge(measured).outcome == "supported"
    odd = other(rng, seeds=1)["treated"]
    assert judge({**measured, "treated": [*measured["treated"][:4], *odd]}).outcome == "undecided"
