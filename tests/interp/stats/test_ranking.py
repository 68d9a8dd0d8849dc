"""Areas are scikit-learn's; their intervals hold what they say in simulations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats
from sklearn.metrics import roc_auc_score

from interp.errors import StatisticsError
from interp.stats import auroc, auroc_difference, auroc_interval


@pytest.mark.parametrize("ties", [False, True])
def test_areas_are_scikit_learns(ties: bool) -> None:
    rng = np.random.default_rng(3)
    for n, m in ((1, 1), (7, 31), (40, 12)):
        high, low = rng.normal(0.5, 1, n), rng.normal(0, 2, m)
        if ties:
            high, low = np.round(high), np.round(low)
        labels = np.repeat([1, 0], [n, m])
        expected = roc_auc_score(labels, np.concatenate([high, low]))
        assert auroc(high, low) == pytest.approx(expected, abs=1e-12)
        assert auroc(low, high) == pytest.approx(1 - expected, abs=1e-12)


def test_ends_solve_the_score_equation_or_lie_further_out() -> None:
    """Of classes that are spread alike the error of each end is Hanley and McNeil's."""
    rng = np.random.default_rng(0)
    high, low = rng.normal(1, 1, 30), rng.normal(0, 1, 50)
    area = auroc(high, low)
    n, m = 30, 50
    z = scipy_stats.norm.ppf(0.975)
    for end in auroc_interval(high, low):
        q1, q2 = end / (2 - end), 2 * end**2 / (1 + end)
        half = (n + m) / 2 - 1
        variance = end * (1 - end) + half * (q1 - end**2) + half * (q2 - end**2)
        assert abs(end - area) >= z * math.sqrt(variance / (n * m)) * (1 - 1e-6)


@pytest.mark.parametrize("area", [0.5, 0.7, 0.9])
@pytest.mark.parametrize("spread", [1.0, 2.0])
@pytest.mark.parametrize(("n", "m"), [(20, 20), (30, 150)])
def test_a_nominal_95_percent_hold_the_area(area: float, spread: float, n: int, m: int) -> None:
    rng = np.random.default_rng(1)
    shift = scipy_stats.norm.ppf(area) * math.hypot(1, spread)
    held = 0
    for _ in range(200):
        low, high = auroc_interval(rng.normal(shift, spread, n), rng.normal(0, 1, m))
        held += low <= area <= high
    assert held >= 184


@pytest.mark.slow
def test_differences_of_areas_hold_what_they_say() -> None:
    """Two scores of the same examples: the first has an area of .8, the second of .7."""
    rng = np.random.default_rng(2)
    held, widths, alone = 0, [], []
    for _ in range(200):
        sides = []
        for n, sign in ((40, 1), (50, 0)):
            noise = rng.normal(0, 1, n)
            scores = [0.8 * noise + 0.6 * rng.normal(0, 1, n) for _ in range(2)]
            sides.append(
                [
                    one + sign * scipy_stats.norm.ppf(area) * math.sqrt(2)
                    for one, area in zip(scores, (0.8, 0.7), strict=True)
                ]
            )
        first, second = zip(*sides, strict=True)
        difference, low, high = auroc_difference(first, second)
        assert difference == pytest.approx(auroc(*first) - auroc(*second))
        held += low <= 0.1 <= high
        widths.append(high - low)
        ends = auroc_interval(*first)
        alone.append(ends[1] - ends[0])
    assert held >= 184
    assert np.mean(widths) < np.mean(alone)  # they are of the same examples
    with pytest.raises(StatisticsError, match="same examples"):
        auroc_difference(first, (first[0][1:], first[1]))


def test_perfect_and_equal_scores_have_an_interval() -> None:
    low, high = auroc_interval(np.arange(10.0) + 20, np.arange(12.0))
    assert 0.6 < low < 0.95
    assert high == 1
    assert auroc_interval(np.arange(12.0), np.arange(10.0) + 20) == pytest.approx((0, 1 - low))
    assert auroc(np.ones(6), np.ones(7)) == 0.5
    low, high = auroc_interval(np.ones(6), np.ones(7))
    assert low < 0.25
    assert high > 0.75


def test_few_examples_have_none_and_what_is_no_score_is_refused() -> None:
    assert all(math.isnan(end) for end in auroc_interval([1, 2, 3, 4], list(range(9))))
    for high, low in (([], [1.0]), ([1.0], []), ([np.nan], [1.0]), ([1.0], [np.inf])):
        with pytest.raises(StatisticsError):
            auroc(high, low)
    with pytest.raises(StatisticsError, match="confidence"):
        auroc_interval(np.arange(6.0), np.arange(6.0), 1.0)
