"""Verdicts on simulated results whose truth is known."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import plotly.graph_objects as go
import pytest
import xarray as xr

from experiments.phenomena.phenomenon import GIVEN, Measured
from experiments.suffix.hypotheses import cutting, heads, projection, transfer, universal
from tests.experiments.phenomena.calibration import (
    RUNS,
    check_absent,
    check_planted,
    check_undecided,
)

N = 60
Rng = np.random.Generator


def measured(make: Callable[[Rng], xr.Dataset], seeds: int, rng: Rng) -> Measured:
    return {"treated": [make(rng) for _ in range(seeds)]}


def hits(rng: Rng, rate: float) -> np.ndarray:
    return (rng.random(N) < rate).astype(float)


def mean_hits(rng: Rng, rate: float) -> np.ndarray:
    return rng.binomial(8, rate, N) / 8


def declined(rng: Rng, plain: float = 0.95, found: float = 0.6, random: float = 0.6) -> xr.Dataset:
    values = {
        "plain": hits(rng, plain),
        "found": hits(rng, found),
        "random": mean_hits(rng, random),
        "likely": mean_hits(rng, random),
        "answered": hits(rng, 1 - found),
    }
    return xr.Dataset({name: ("example", one) for name, one in values.items()})


def projected(rng: Rng, fall: float = 0.0, apart: float = 0.99, gap: float = 0.9) -> xr.Dataset:
    base = rng.normal(0.7, 0.3, N)
    values = {
        "plain": rng.normal(1, 0.3, N),
        "found": base - fall + rng.normal(0, 0.2, N),
        "random": base,
        "likely": base,
    }
    found = xr.Dataset({name: ("example", one) for name, one in values.items()})
    return found.assign(separates=apart, gap=gap)


def shared(rng: Rng, slope: float = 0.0, n: int = 24) -> xr.Dataset:
    share = rng.normal(size=n + 3)
    score = slope * share + rng.normal(size=n + 3)
    # What was chosen for its score stands apart, and must not count.
    share[0], score[0] = 5, 5
    return xr.Dataset(
        {
            "share": ("suffix", share),
            "behind": ("suffix", rng.normal(size=n + 3)),
            "score": ("suffix", score),
            "kind": ("suffix", ["found", *["random"] * n, "likely", "likely"]),
        }
    )


def edges(rng: Rng, found: float = 0.1, top: float = 0.3, other: float = 0.3) -> xr.Dataset:
    values = {
        "plain": hits(rng, 0.95),
        "found": hits(rng, found),
        "top": hits(rng, top),
        "other_heads": mean_hits(rng, other),
        "all_heads": hits(rng, 0.9),
        "behind": hits(rng, 0.1),
    }
    found_ = xr.Dataset({name: ("example", one) for name, one in values.items()})
    return found_.assign(n_heads=4)


def carried(
    rng: Rng, found: float = 0.6, plain: float = 0.95, home_found: float = 0.1
) -> xr.Dataset:
    """In another model random suffixes leave 60% declined."""
    values = {
        "plain": hits(rng, plain),
        "found": hits(rng, found),
        "random": mean_hits(rng, 0.6),
        "likely": mean_hits(rng, 0.6),
        "home": hits(rng, 0.95),
        "home_found": hits(rng, home_found),
    }
    return xr.Dataset({name: ("example", one) for name, one in values.items()})


ABSENT = {
    universal: partial(declined),
    projection: partial(projected),
    heads: partial(shared),
    cutting: partial(edges),
    transfer: partial(carried),
}
PLANTED = {
    universal: partial(declined, found=0.2),
    projection: partial(projected, fall=0.4),
    heads: partial(shared, slope=2.0),
    cutting: partial(edges, top=0.75),
    transfer: partial(carried, found=0.2),
}
BROKEN = {
    universal: partial(declined, plain=0.3, found=0.0),
    projection: partial(projected, fall=0.5, apart=0.6),
    heads: partial(shared, slope=2.0, n=4),
    cutting: partial(edges, found=0.9, top=1.0),
    transfer: partial(carried, found=0.0, plain=0.3),
}
NAMES = [module.__name__.rsplit(".", 1)[-1] for module in ABSENT]


def test_along_what_does_not_follow_declining_nothing_falls() -> None:
    """Of a model that declines all requests alike, or none, no direction is one of declining."""
    simulate = partial(measured, partial(projected, fall=0.5, gap=0.05), 1)
    check_undecided(projection.judge, simulate, 5)


def test_what_is_undone_for_every_single_request_is_undone() -> None:
    """Where all agree an interval still has a width, and is not missing."""
    one = carried(np.random.default_rng(0), found=0.1)
    one["home"][:], one["home_found"][:] = 1.0, 0.0
    found = transfer.judge({"treated": [one]})
    assert "hardly undoes" not in found.statement
    assert found.outcome == "supported"


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "runs"), [(1, RUNS), (5, RUNS)])
@pytest.mark.parametrize("module", ABSENT, ids=NAMES)
def test_what_is_not_there_is_seldom_supported(module: object, seeds: int, runs: int) -> None:
    check_absent(module.judge, partial(measured, ABSENT[module], seeds), runs)  # type: ignore


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 5])
@pytest.mark.parametrize("module", ABSENT, ids=NAMES)
def test_what_is_planted_is_found(module: object, seeds: int) -> None:
    check_planted(module.judge, partial(measured, PLANTED[module], seeds), 60)  # type: ignore


@pytest.mark.parametrize("seeds", [1, 5])
@pytest.mark.parametrize("module", ABSENT, ids=NAMES)
def test_a_broken_control_leaves_it_undecided(module: object, seeds: int) -> None:
    check_undecided(module.judge, partial(measured, BROKEN[module], seeds), 10)  # type: ignore


def test_what_does_nothing_at_home_or_has_no_other_model_is_not_carried_over() -> None:
    check_undecided(
        transfer.judge, partial(measured, partial(carried, found=0.0, home_found=0.9), 1)
    )
    alone = carried(np.random.default_rng(0))
    missing = [name for name in alone if not str(name).startswith("home")]
    alone = alone.assign({name: alone[name] * np.nan for name in missing})
    verdict = transfer.judge({GIVEN: [alone]})
    assert (verdict.outcome, verdict.estimate) == ("undecided", None)


@pytest.mark.parametrize(
    ("broken", "said"), [({"apart": 0.8}, "too few"), ({"gap": 0.1}, "follow")]
)
def test_what_cannot_be_measured_along_is_not_drawn(broken: dict[str, float], said: str) -> None:
    """Its scale, from answered to declined requests, would make a picture of it all the same."""

    def draw(**settings: float) -> go.Figure:
        one = projected(np.random.default_rng(0), fall=0.5, **settings)
        return projection.draw(one.expand_dims(arm=["treated"], seed=[0]))

    assert len(draw().data) == 3
    fig = draw(**broken)
    assert not fig.data
    assert said in fig.layout.annotations[0].text
