"""Differences of two means and of two shares, held against published intervals and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats

from interp.errors import StatisticsError
from interp.stats import difference_intervals, mean_interval, share_difference


def hits(k: int, n: int) -> np.ndarray:
    return np.r_[np.ones(k), np.zeros(n - k)]


def both(a: int, b: int, c: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of which a are hits in both, b in the first only, c in the second only, d in none."""
    return np.r_[np.ones(a + b), np.zeros(c + d)], np.r_[hits(a, a + b), hits(c, c + d)]


def test_published_intervals_of_shares() -> None:
    # Newcombe (1998), Statistics in Medicine 17, 873-890, table II, method 10.
    found = share_difference(hits(56, 70), hits(48, 80), paired=False)
    assert found == pytest.approx((0.0524, 0.3339), abs=5e-5)
    found = share_difference(hits(9, 10), hits(3, 10), paired=False)
    assert found == pytest.approx((0.1705, 0.8090), abs=5e-5)
    # Fagerland, Lydersen & Laake (2014), Statistics in Medicine 33, 2850-2875: Bentur et al.
    found = share_difference(*both(1, 1, 7, 12), paired=True)
    assert found == pytest.approx((-0.507, -0.026), abs=5e-4)


def test_intervals_of_shares_hold_the_difference_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    held = []
    for _ in range(400):
        hard = rng.random(40)  # an example that one finds easy, the other finds easy
        one, other = (rng.random(40) < 0.3 + 0.6 * hard for _ in range(2))
        low, high = share_difference(one, other, paired=True)
        held.append(low <= 0 <= high)
    assert 0.92 <= np.mean(held) <= 0.99


def test_means_agree_with_welch_and_pairs_with_nothing_between_them() -> None:
    rng = np.random.default_rng(1)
    one, other = rng.normal(2, 1, (3, 60)), rng.normal(0, 3, (3, 45))
    low, high = difference_intervals(one, other)
    welch = scipy_stats.ttest_ind(one, other, axis=1, equal_var=False).confidence_interval(0.95)
    np.testing.assert_allclose(low, welch.low, atol=0.12)
    np.testing.assert_allclose(high, welch.high, atol=0.12)
    # Against a sample whose spread is next to nothing it is the interval of the other one alone.
    still = 5 + 1e-4 * rng.normal(size=(1, 60))
    low, high = difference_intervals(one[:1], still)
    assert (float(low[0]) + 5, float(high[0]) + 5) == pytest.approx(mean_interval(one[0]), abs=1e-3)


def test_without_an_interval_of_both_there_is_none() -> None:
    low, high = difference_intervals(np.arange(4.0), np.arange(9.0))
    assert np.isnan(low)
    assert np.isnan(high)


def test_what_is_no_sample_is_refused() -> None:
    with pytest.raises(StatisticsError, match="no pairs"):
        share_difference(hits(1, 3), hits(1, 4), paired=True)
    with pytest.raises(StatisticsError, match="a hit or a miss"):
        share_difference(np.array([0.5]), hits(1, 1), paired=False)
    with pytest.raises(StatisticsError, match="a hit or a miss"):
        share_difference(hits(0, 0), hits(1, 1), paired=False)
    with pytest.raises(StatisticsError, match="same"):
        difference_intervals(np.zeros((2, 8)), np.zeros((3, 8)))
    with pytest.raises(StatisticsError):
        difference_intervals(np.array([np.nan, 1, 2, 3, 4]), np.arange(8.0))
