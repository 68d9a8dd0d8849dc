"""Intervals over groups hold the truth as often as they say, with few groups too."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats as scipy_stats

from probes import probe_report
from probes.controls.significance import LEAST_GROUPS, difference_interval, group_interval

pytestmark = pytest.mark.slow

Array = npt.NDArray[np.float64]
RUNS = 1500


def sizes_of(kind: str, n: int) -> npt.NDArray[np.int64]:
    return np.full(n, 12) if kind == "equal" else np.linspace(2, 22, n).round().astype(int)


def answers(
    share: float, alike: float, n: int, kind: str, latent: Array | None = None
) -> tuple[Array, npt.NDArray[np.int64]]:
    """Right or wrong [run, example]; groups' shares are beta-distributed, correlated by `alike`."""
    rng = np.random.default_rng(7)
    groups = np.repeat(np.arange(n), sizes_of(kind, n))
    latent = rng.standard_normal((RUNS, n)) if latent is None else latent
    a, b = share * (1 / alike - 1), (1 - share) * (1 / alike - 1)
    of_group = scipy_stats.beta.ppf(scipy_stats.norm.cdf(latent), a, b)
    own = np.random.default_rng(int(1000 * share)).random((RUNS, len(groups)))
    return (own < of_group[:, groups]).astype(float), groups


def covered(interval: tuple[Array, Array], truth: float) -> float:
    low, high = interval
    return float(((low <= truth) & (truth <= high)).mean())


@pytest.mark.parametrize("kind", ["equal", "unequal"])
@pytest.mark.parametrize("alike", [0.02, 0.3, 0.95])
def test_intervals_of_an_accuracy_cover_it(kind: str, alike: float) -> None:
    for n, lowest in ((5, 0.95), (10, 0.94), (20, 0.93), (50, 0.93)):
        for share in (0.5, 0.8, 0.95, 0.98):
            values, groups = answers(share, alike, n, kind)
            assert covered(group_interval(values, groups), share) >= lowest


def test_intervals_are_no_wider_than_they_need_be() -> None:
    """Where examples do not depend on groups, and there are many, they are those of examples."""
    values, groups = answers(0.8, 0.001, 100, "equal")
    low, high = group_interval(values, groups)
    alone = 2 * 1.96 * np.sqrt(0.8 * 0.2 / values.shape[1])
    assert (high - low).mean() < 1.15 * alone
    values, groups = answers(0.5, 0.3, 10, "equal")
    assert covered(group_interval(values, groups), 0.5) < 0.98


@pytest.mark.parametrize("kind", ["equal", "unequal"])
@pytest.mark.parametrize("correlation", [-0.8, 0.0, 0.8])
def test_intervals_of_a_difference_cover_it(kind: str, correlation: float) -> None:
    rng = np.random.default_rng(3)
    for n in (10, 30):
        one = rng.standard_normal((RUNS, n))
        other = correlation * one + np.sqrt(1 - correlation**2) * rng.standard_normal((RUNS, n))
        for shares in ((0.7, 0.5), (0.97, 0.9)):
            for alike in (0.05, 0.9):
                first, groups = answers(shares[0], alike, n, kind, one)
                second, _ = answers(shares[1], alike, n, kind, other)
                found = difference_interval(first, second, groups)
                assert covered(found, shares[0] - shares[1]) >= 0.93


def test_all_right_is_no_certainty() -> None:
    groups = np.repeat(np.arange(10), 8)
    low, high = group_interval(np.ones((1, 80)), groups)
    assert high[0] == 1.0
    assert 0.6 < low[0] < 0.8
    low, high = difference_interval(np.ones((1, 80)), np.ones((1, 80)), groups)
    assert low[0] < -0.2 < 0.2 < high[0]


def test_shares_that_hardly_vary_have_narrow_intervals() -> None:
    rng = np.random.default_rng(0)
    values = 0.8 + 0.05 * rng.uniform(-1, 1, (500, 20))
    low, high = group_interval(values, np.arange(20))
    assert (high - low).mean() < 0.05
    assert covered((low, high), 0.8) > 0.93


def test_too_few_groups_have_no_interval() -> None:
    x, y = np.random.default_rng(0).standard_normal((60, 3)), np.arange(60) // 30
    for n in (LEAST_GROUPS - 1, LEAST_GROUPS):
        report = probe_report(x, y, groups=np.arange(60) % n, folds=2, prefixes=1)
        for name in ("accuracy_low", "accuracy_high", "selectivity_low", "control_high"):
            assert np.isnan(report[name].values).all() == (n < LEAST_GROUPS)
