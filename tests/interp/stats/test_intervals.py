"""Intervals hold the truth as often as they say, in simulations in which it is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats as scipy_stats

from interp.errors import StatisticsError
from interp.stats import (
    LEAST_N,
    mean_interval,
    mean_intervals,
    median_interval,
    n_independent,
    no_interval,
    proportion_interval,
    ratio_interval,
    ratio_intervals,
    tost,
    wilson,
)

pytestmark = pytest.mark.slow

TRIALS = 1000
Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]


def noisy_event(p: float) -> Draw:
    return lambda rng, shape: (rng.random(shape) < p) + 0.05 * rng.normal(size=shape)


DRAWS: dict[str, tuple[Draw, float]] = {
    "normal": (lambda rng, shape: rng.normal(size=shape), 0.0),
    "exponential": (lambda rng, shape: rng.exponential(size=shape), 1.0),
    "lognormal": (lambda rng, shape: rng.lognormal(0, 0.5, size=shape), math.exp(0.125)),
    "very skewed": (lambda rng, shape: rng.lognormal(0, 1, size=shape), math.exp(0.5)),
    "heavy tails": (lambda rng, shape: rng.standard_t(3, size=shape), 0.0),
    "half": (noisy_event(0.5), 0.5),
    "three in ten": (noisy_event(0.3), 0.3),
    "two in ten": (noisy_event(0.2), 0.2),
}
# What the docstring of mean_interval says; two standard errors of 1000 trials are .014.
COVERAGE = {
    "normal": (0.97, 0.96, 0.96),
    "exponential": (0.93, 0.95, 0.96),
    "lognormal": (0.95, 0.95, 0.95),
    "very skewed": (0.90, 0.91, 0.93),
    "heavy tails": (0.97, 0.97, 0.96),
    "half": (0.94, 1.00, 0.98),
    "three in ten": (0.84, 0.97, 0.99),
    "two in ten": (0.70, 0.90, 0.98),
}


def coverage(low: np.ndarray, high: np.ndarray, truth: float) -> float:
    """Of the intervals that there are."""
    there = np.isfinite(low)
    return float(((low <= truth) & (truth <= high))[there].mean())


@pytest.mark.parametrize("name", DRAWS)
def test_an_interval_of_a_mean_covers_what_its_docstring_says(name: str) -> None:
    draw, mean = DRAWS[name]
    for n, said in zip((5, 10, 20), COVERAGE[name], strict=True):
        found = coverage(*mean_intervals(draw(np.random.default_rng(n), (TRIALS, n))), mean)
        assert found == pytest.approx(said, abs=0.025), n


@pytest.mark.parametrize("name", ["normal", "exponential", "lognormal", "heavy tails"])
def test_at_ten_examples_coverage_is_close_to_nominal(name: str) -> None:
    draw, mean = DRAWS[name]
    values = draw(np.random.default_rng(1), (2 * TRIALS, 10))
    assert 0.93 <= coverage(*mean_intervals(values), mean) <= 0.975
    assert 0.86 <= coverage(*mean_intervals(values, confidence=0.9), mean) <= 0.95


def test_an_interval_of_a_mean_is_not_much_wider_than_students() -> None:
    values = np.random.default_rng(2).normal(size=(TRIALS, 10))
    low, high = mean_intervals(values)
    half = scipy_stats.t.ppf(0.975, 9) * values.std(1, ddof=1) / math.sqrt(10)
    assert 1.0 <= np.median((high - low) / (2 * half)) < 1.15
    assert ((low <= values.mean(1) - half + 1e-9) & (high >= values.mean(1) + half - 1e-9)).all()


def test_few_or_equal_examples_have_no_interval_and_a_reason() -> None:
    for values in ([], [0.3], [0.3, 0.4, 0.2, 0.1], [0.36] * 30, [0.1 + 0.2, 0.3] * 4):
        for found in (mean_interval(values), ratio_interval(values, np.ones(len(values)))):
            assert all(math.isnan(end) for end in found)
    assert no_interval(1) == "no interval: 1 independent example, and at least 5 are needed"
    assert "all pairs have the same value" in no_interval(30, "pairs")
    assert not math.isnan(mean_interval(np.arange(LEAST_N))[0])


def test_an_interval_moves_and_grows_with_its_values() -> None:
    values = np.random.default_rng(3).exponential(size=9)
    low, high = mean_interval(values)
    assert mean_interval(100 - 7 * values) == pytest.approx(
        (100 - 7 * high, 100 - 7 * low), abs=0.3
    )
    assert mean_interval(3 * values + 5) == pytest.approx((3 * low + 5, 3 * high + 5))


def test_of_thousands_of_examples_the_interval_is_students() -> None:
    values = np.random.default_rng(16).exponential(size=5_000)
    theirs = scipy_stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert mean_interval(values) == pytest.approx((theirs.low, theirs.high))
    fewer = scipy_stats.ttest_1samp(values[:900], 0.0).confidence_interval(0.95)
    assert mean_interval(values[:900]) == pytest.approx((fewer.low, fewer.high), rel=0.02)


def test_cells_are_the_intervals_one_by_one() -> None:
    values = np.random.default_rng(4).normal(size=(3, 2, 8))
    low, high = mean_intervals(values)
    assert low.shape == high.shape == (3, 2)
    for at in np.ndindex(3, 2):
        assert (low[at], high[at]) == pytest.approx(mean_interval(values[at]))


# sizes of the clusters: of one size; uneven; one that holds half of the examples
SIZES = {"even": [3] * 10, "uneven": [1, 2, 4] * 6, "even and few": [4] * 5}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_examples_that_share_a_question_count_as_one(sizes: list[int]) -> None:
    rng = np.random.default_rng(5)
    which = np.repeat(np.arange(len(sizes)), sizes)
    own = 0.4 * rng.normal(size=(TRIALS, which.size))
    values = rng.normal(size=(TRIALS, len(sizes)))[:, which] + own
    assert 0.92 <= coverage(*mean_intervals(values, which), 0.0) <= 0.985
    assert coverage(*mean_intervals(values), 0.0) < 0.85


def test_one_example_repeated_is_one_example() -> None:
    values = np.random.default_rng(6).normal(size=8)
    repeated, names = np.repeat(values, 5), np.repeat([*"abcdefgh"], 5)
    assert mean_interval(repeated, names) == pytest.approx(mean_interval(values))
    hits = values > 0
    assert proportion_interval(np.repeat(hits, 5), names)[0] <= wilson(int(hits.sum()), 8)[0] + 0.02
    shuffled = np.random.default_rng(7).permutation(40)
    low, high = mean_interval(repeated[shuffled], names[shuffled])
    assert (low, high) == pytest.approx(mean_interval(values), rel=0.15)


def test_a_question_that_holds_most_examples_leaves_no_interval() -> None:
    which = np.repeat(np.arange(10), [1] * 9 + [20])
    assert n_independent(29, which) == pytest.approx(29**2 / 409)
    values = np.random.default_rng(8).normal(size=29)
    assert all(math.isnan(end) for end in mean_interval(values, which))
    assert n_independent(6, [*"aabbcc"]) == pytest.approx(3.0)
    with pytest.raises(StatisticsError, match="5 clusters named for 6"):
        mean_interval(np.ones(6), [*"aabbc"])
    with pytest.raises(StatisticsError, match="one text or number"):
        mean_interval(np.arange(6.0), np.ones((6, 2)))
    with pytest.raises(StatisticsError, match="have no cluster"):
        mean_interval(np.arange(6.0), [1.0, 2.0, 3.0, 4.0, 5.0, float("nan")])


def test_known_bounds_are_kept_and_stand_in_for_spread() -> None:
    low, high = mean_interval([1.0] * 12, bounds=(0.0, 1.0))
    assert (low, high) == pytest.approx(wilson(12, 12))
    low, high = mean_interval([-1.0] * 12, bounds=(-1.0, 3.0))
    assert (low, high) == pytest.approx((-1.0, -1 + 4 * wilson(0, 12)[1]))
    rng = np.random.default_rng(9)
    for p in (0.1, 0.5):
        values = (rng.random((TRIALS, 10)) < p).astype(float)
        ends = mean_intervals(values, bounds=(0.0, 1.0))
        assert (ends[0] >= 0).all()
        assert (ends[1] <= 1).all()
        assert coverage(*ends, p) >= 0.95
    with pytest.raises(StatisticsError, match="outside of the bounds"):
        mean_interval([0.5] * 5 + [1.5], bounds=(0.0, 1.0))


def test_two_clusters_of_most_examples_do_not_make_an_interval_too_narrow() -> None:
    """Large clusters draw the mean to themselves, and what is left of them is too small."""
    which = np.repeat(np.arange(22), [15, 15] + [1] * 20)
    rng = np.random.default_rng(16)
    own = rng.normal(size=(TRIALS, which.size))
    values = rng.normal(size=(TRIALS, 22))[:, which] + own
    assert coverage(*mean_intervals(values, which), 0.0) >= 0.925
    found = [tost(row, 100.0, 0.025, which) for row in values]
    assert np.mean([each.low <= 0 <= each.high for each in found]) >= 0.925


@pytest.mark.parametrize("n", [6, 10, 20])
def test_a_median_is_covered_at_least_as_often_as_said(n: int) -> None:
    rng = np.random.default_rng(n)
    for draw, median in ((rng.exponential, math.log(2)), (rng.standard_cauchy, 0.0)):
        found = np.array([median_interval(draw(size=n)) for _ in range(TRIALS)])
        assert 0.94 <= coverage(found[:, 0], found[:, 1], median) <= 0.99


def test_ends_of_a_medians_interval_are_values() -> None:
    """Of ten the second and ninth: P(fewer than 2 of 10 on one side) is .0107."""
    assert median_interval(np.arange(10.0)[::-1]) == (1.0, 8.0)
    assert median_interval(np.arange(6.0)) == (0.0, 5.0)
    assert all(math.isnan(end) for end in median_interval(np.arange(5.0)))
    assert median_interval(np.repeat(np.arange(10.0), 3), np.repeat(range(10), 3)) == (1.0, 8.0)


@pytest.mark.parametrize("spread", [0.3, 0.6])
def test_a_share_of_a_sum_is_covered(spread: float) -> None:
    rng = np.random.default_rng(13)
    hits = []
    for _ in range(300):
        whole = rng.lognormal(0, spread, 10)
        low, high = ratio_interval(whole * rng.beta(4, 3, 10), whole)
        hits.append(low <= 4 / 7 <= high)
    assert 0.92 <= np.mean(hits) <= 0.985


def test_a_ratio_to_ones_is_a_mean_and_one_to_nothing_is_none() -> None:
    values = np.random.default_rng(14).normal(size=(2, 7))
    np.testing.assert_allclose(ratio_intervals(values, np.ones(7)), mean_intervals(values))
    assert all(math.isnan(end) for end in ratio_interval(values[0], np.zeros(7)))
    assert all(math.isnan(end) for end in ratio_interval(values[0], 2 * values[0]))
    with pytest.raises(StatisticsError, match="one denominator for each"):
        ratio_interval(values[0], np.ones(6))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_a_proportion_over_questions_is_covered(p: float) -> None:
    rng = np.random.default_rng(15)
    which = np.repeat(np.arange(12), 3)
    found, plain = [], []
    for rate in rng.beta(p, 1 - p, (600, 12)):
        hits = rng.random(36) < rate[which]
        found.append(proportion_interval(hits, which))
        plain.append(proportion_interval(hits))
    low, high = np.array(found).T
    assert 0.93 <= coverage(low, high, p) <= 0.995
    assert coverage(*np.array(plain).T, p) < 0.9
