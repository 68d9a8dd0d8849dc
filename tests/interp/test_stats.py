"""Intervals and tests agree with scipy, with closed forms, or with what was planted."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from interp.stats import bootstrap, holm, permutation_test, specificity, tost, wilson


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
@pytest.mark.parametrize(("successes", "n"), [(0, 1), (1, 1), (0, 30), (3, 30), (17, 30), (30, 30)])
def test_wilson_is_scipys(successes: int, n: int, confidence: float) -> None:
    interval = scipy_stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
    assert wilson(successes, n, confidence) == pytest.approx((interval.low, interval.high))


@given(st.integers(1, 200), st.floats(0, 1), st.floats(0.5, 0.999))
def test_wilson_bounds_solve_the_score_equation(n: int, rate: float, confidence: float) -> None:
    """Also where the successes are not whole: each bound is z standard errors from the rate."""
    low, high = wilson(rate * n, n, confidence)
    assert 0 <= low <= rate + 1e-9
    assert rate - 1e-9 <= high <= 1
    z = scipy_stats.norm.ppf(0.5 + confidence / 2)
    for bound in (low, high):
        if 1e-9 < bound < 1 - 1e-9:
            assert abs(rate - bound) == pytest.approx(
                z * math.sqrt(bound * (1 - bound) / n), rel=1e-5
            )


def test_wilson_of_nothing_says_nothing_and_refuses_the_impossible() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    for successes, n in ((3, 2), (-1, 2), (0, -1)):
        with pytest.raises(ValueError, match="not possible"):
            wilson(successes, n)


def test_bootstrap_covers_a_normal_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    trials, hits = 200, 0
    for seed in range(trials):
        low, high = bootstrap(rng.normal(3.0, 2.0, size=40), n=400, seed=seed, confidence=0.9)
        hits += low <= 3.0 <= high
    # 180 are expected, and four more or less are one standard error; intervals at the neighbouring
    # 0.95 and 0.85 would give 190 and 170.
    assert 172 <= hits <= 187


def test_bootstrap_is_scipys_percentile_interval() -> None:
    values = np.random.default_rng(2).exponential(size=60)
    for statistic in (np.mean, np.median):
        theirs = scipy_stats.bootstrap(
            (values,), statistic, n_resamples=20_000, method="percentile", random_state=3
        ).confidence_interval
        ours = bootstrap(values, statistic, n=20_000)
        assert ours == pytest.approx((theirs.low, theirs.high), abs=0.03)


def test_bootstrap_depends_on_its_seed_alone() -> None:
    values = np.random.default_rng(3).normal(size=20)
    assert bootstrap(values, seed=4) == bootstrap(values, seed=4)
    assert bootstrap(values, seed=4) != bootstrap(values, seed=5)
    assert bootstrap([2.0, 2.0]) == (2.0, 2.0)
    assert all(math.isnan(bound) for bound in bootstrap([]))


@pytest.mark.parametrize("shift", [0.0, 0.5, 2.0])
def test_permutation_test_is_scipys(shift: float) -> None:
    rng = np.random.default_rng(5)
    first, second = rng.normal(size=8), rng.normal(loc=shift, size=7)

    def difference(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
        return np.mean(a, axis=axis) - np.mean(b, axis=axis)

    theirs = scipy_stats.permutation_test(
        (first, second),
        difference,
        n_resamples=np.inf,
        vectorized=True,  # all 6435 splits
    )
    observed, p = permutation_test(first, second, n=4000)
    assert observed == pytest.approx(theirs.statistic)
    spread = math.sqrt(theirs.pvalue * (1 - theirs.pvalue) / 4000)
    assert p == pytest.approx(theirs.pvalue, abs=4 * spread + 1 / 4000)


def test_permutation_test_is_two_sided_and_never_zero() -> None:
    low, high = [0.0] * 12, [1.0] * 12
    assert permutation_test(low, high, n=99) == (-1.0, pytest.approx(0.01))
    assert permutation_test(high, low, n=99) == (1.0, pytest.approx(0.01))
    assert permutation_test(low, low, n=99) == (0.0, 1.0)


@pytest.mark.parametrize("mean", [-0.8, -0.2, 0.0, 0.3, 1.5])
def test_tost_is_two_one_sided_t_tests(mean: float) -> None:
    values = np.random.default_rng(6).normal(mean, 1.0, size=25)
    margin, alpha = 0.7, 0.05
    above = scipy_stats.ttest_1samp(values, -margin, alternative="greater").pvalue
    below = scipy_stats.ttest_1samp(values, margin, alternative="less").pvalue
    found = tost(values, margin, alpha)
    assert found.p_value == pytest.approx(max(above, below))
    interval = scipy_stats.ttest_1samp(values, 0.0).confidence_interval(1 - 2 * alpha)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.mean == pytest.approx(values.mean())
    assert found.equivalent == (found.p_value < alpha)


def test_tost_knows_both_answers() -> None:
    rng = np.random.default_rng(7)
    assert tost(rng.normal(0.0, 0.1, size=50), 0.2).equivalent
    assert not tost(rng.normal(0.5, 0.1, size=50), 0.2).equivalent
    assert not tost(rng.normal(-0.5, 0.1, size=50), 0.2).equivalent
    assert not tost(rng.normal(0.0, 3.0, size=5), 0.2).equivalent  # absence of evidence


def test_tost_without_spread_or_numbers() -> None:
    assert tost([0.1, 0.1, 0.1], 0.2).equivalent
    assert not tost([0.3, 0.3, 0.3], 0.2).equivalent
    for few in ([], [0.0]):
        assert (tost(few, 0.2).equivalent, tost(few, 0.2).p_value) == (False, 1.0)
    with pytest.raises(ValueError, match="positive"):
        tost([0.0, 1.0], 0.0)


def test_holm_by_hand() -> None:
    """Sorted .005 .01 .03 .04 times 4 3 2 1 is .02 .03 .06 .04, made increasing."""
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.5, 0.9]), [1.0, 1.0])
    assert holm([]).size == 0


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.01, 0.2))
def test_holm_rejects_what_the_step_down_procedure_rejects(p: list[float], alpha: float) -> None:
    rejected: set[int] = set()
    for step, index in enumerate(np.argsort(p, kind="stable")):
        if p[index] * (len(p) - step) > alpha:
            break
        rejected.add(int(index))
    assert set(np.flatnonzero(holm(p) <= alpha)) == rejected


def test_specificity_is_zero_on_average_for_row_and_column_effects() -> None:
    rng = np.random.default_rng(8)
    for n in (3, 10, 25):
        scores = rng.normal(size=(n, 1)) * 5 + rng.normal(size=(1, n)) * 3
        assert np.mean(specificity(scores)) == pytest.approx(0.0, abs=1e-9)


def test_specificity_finds_a_planted_diagonal() -> None:
    rng = np.random.default_rng(9)
    n = 12
    effects = rng.normal(size=(n, 1)) * 5 + rng.normal(size=(1, n)) * 3
    planted = rng.uniform(1, 4, size=n)
    base = specificity(effects)
    np.testing.assert_allclose(specificity(effects + np.diag(planted)) - base, planted)


def test_specificity_by_hand() -> None:
    """Diagonal minus the means of the other entries of row and column, plus their mean of all."""
    scores = np.array([[9.0, 1.0, 3.0], [2.0, 8.0, 4.0], [5.0, 6.0, 7.0]])
    expected = [9 - 2 - 3.5 + 3.5, 8 - 3 - 3.5 + 3.5, 7 - 5.5 - 3.5 + 3.5]
    np.testing.assert_allclose(specificity(scores), expected)


def test_specificity_leaves_out_what_is_not_there() -> None:
    scores = np.array([[9.0, np.nan, 3.0], [2.0, 8.0, 4.0], [5.0, 6.0, 7.0]])
    expected = [9 - 3 - 3.5 + 4, 8 - 3 - 6 + 4, 7 - 5.5 - 3.5 + 4]
    np.testing.assert_allclose(specificity(scores), expected)


@pytest.mark.parametrize("shape", [(2, 2), (3, 4), (4, 3)])
def test_specificity_needs_a_square_of_three(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="square"):
        specificity(np.zeros(shape))
