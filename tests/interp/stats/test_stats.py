"""Intervals and tests agree with scipy, with closed forms, or with what was planted."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from interp.errors import StatisticsError
from interp.stats import (
    bootstrap,
    holm,
    mean_interval,
    median_interval,
    permutation_test,
    proportion_interval,
    ratio_interval,
    specificity,
    tost,
    wilson,
)


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
@pytest.mark.parametrize(("successes", "n"), [(0, 1), (1, 1), (0, 30), (3, 30), (17, 30), (30, 30)])
def test_wilson_is_scipys(successes: int, n: int, confidence: float) -> None:
    interval = scipy_stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
    assert wilson(successes, n, confidence) == pytest.approx((interval.low, interval.high))


@pytest.mark.slow
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


def test_bootstrap_is_scipys_bca_interval() -> None:
    values = np.random.default_rng(2).exponential(size=60)
    for statistic in (np.mean, np.std):
        theirs = scipy_stats.bootstrap(
            (values,), statistic, n_resamples=500, random_state=3
        ).confidence_interval
        ours = bootstrap(values, statistic, n=500, seed=3)
        assert ours == pytest.approx((theirs.low, theirs.high))


def test_bootstrap_depends_on_its_seed_alone() -> None:
    values = np.random.default_rng(3).normal(size=20)
    assert bootstrap(values, seed=4) == bootstrap(values, seed=4)
    assert bootstrap(values, seed=4) != bootstrap(values, seed=5)
    for nothing in ([], [2.0] * 9, [1.0, 2.0, 3.0, 4.0]):
        assert all(math.isnan(bound) for bound in bootstrap(nothing))


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


@pytest.mark.parametrize("offset", [0, 10, 1000])
@pytest.mark.parametrize("sizes", [(1, 1), (1, 5), (4, 1), (3, 5), (4, 4)])
def test_splits_that_are_as_far_apart_count_whatever_their_rounding(
    sizes: tuple[int, int], offset: int
) -> None:
    """Tenths, whose sums round differently in each order, against fractions, which do not."""
    rng = np.random.default_rng(sum(sizes) + offset)
    for _ in range(20):
        tenths = [int(n) + 10 * offset for n in rng.integers(0, 8, sum(sizes))]

        def apart(first: tuple[int, ...], tenths: list[int] = tenths) -> Fraction:
            one = sum(tenths[place] for place in first)
            return abs(Fraction(one, sizes[0]) - Fraction(sum(tenths) - one, sizes[1]))

        splits = [apart(one) for one in itertools.combinations(range(sum(sizes)), sizes[0])]
        wanted = sum(one >= splits[0] for one in splits) / len(splits)
        values = [n / 10 for n in tenths]
        p = permutation_test(values[: sizes[0]], values[sizes[0] :])[1]
        assert p == pytest.approx(wanted)


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


def test_tost_without_spread_or_numbers_is_no_evidence() -> None:
    for few in ([], [0.0], [0.0, 0.0], [0.1, 0.1, 0.1, 0.1], [0.0, 0.01, 0.0, 0.01]):
        found = tost(few, 0.2)
        assert (found.equivalent, found.p_value) == (False, 1.0)
        assert f"no interval: {len(few)} independent example" in found.reason
    constant = tost([0.1] * 20, 0.2)
    assert (constant.equivalent, constant.p_value, constant.mean) == (
        False,
        1.0,
        pytest.approx(0.1),
    )
    assert "have the same value" in constant.reason
    for margin in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="positive"):
            tost([0.0, 1.0], margin)


def test_tost_counts_clusters() -> None:
    """One example said four times is one example."""
    values = np.random.default_rng(10).normal(0.0, 0.2, size=8)
    once, often = (
        tost(values, 0.2),
        tost(np.repeat(values, 4), 0.2, clusters=np.repeat(range(8), 4)),
    )
    assert (often.low, often.high, often.p_value) == pytest.approx(
        (once.low, once.high, once.p_value)
    )
    assert tost(np.repeat(values, 4), 0.2).p_value < once.p_value


def test_holm_by_hand() -> None:
    """Sorted .005 .01 .03 .04 times 4 3 2 1 is .02 .03 .06 .04, made increasing."""
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.5, 0.9]), [1.0, 1.0])
    assert holm([]).size == 0


@pytest.mark.slow
@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.01, 0.2))
def test_holm_rejects_what_the_step_down_procedure_rejects(p: list[float], alpha: float) -> None:
    rejected: set[int] = set()
    for step, index in enumerate(np.argsort(p, kind="stable")):
        if p[index] * (len(p) - step) > alpha:
            break
        rejected.add(int(index))
    assert set(np.flatnonzero(holm(p) <= alpha)) == rejected


def _additive(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.asarray(rng.normal(size=(n, 1)) * 5 + rng.normal(size=(1, n)) * 3 - 200)


@pytest.mark.parametrize("n", [3, 4, 5, 12])
def test_specificity_of_row_and_column_effects_is_zero_whatever_is_missing(n: int) -> None:
    rng = np.random.default_rng(n)
    compared = 0
    for share in (0.0, 0.1, 0.3, 0.6, 0.9):
        for _ in range(5):
            scores = _additive(rng, n)
            missing = (rng.random((n, n)) < share) & ~np.eye(n, dtype=bool)
            found = specificity(np.where(missing, np.nan, scores))
            np.testing.assert_allclose(found[np.isfinite(found)], 0.0, atol=1e-9)
            np.testing.assert_array_equal(np.isfinite(found), _identified(~missing))
            compared += int(np.isfinite(found).sum())
    assert compared > 10 * n


def _identified(present: np.ndarray) -> np.ndarray:
    """Where a row's and a column's effect add up to what off-diagonal entries determine."""
    n = len(present)
    rows, columns = np.nonzero(present & ~np.eye(n, dtype=bool))
    design = np.zeros((len(rows), 2 * n))
    design[np.arange(len(rows)), rows] = design[np.arange(len(rows)), n + columns] = 1
    wanted = np.hstack([np.eye(n), np.eye(n)])
    projected = wanted @ np.linalg.pinv(design) @ design
    return np.asarray(np.abs(projected - wanted).max(1) < 1e-8)


@pytest.mark.slow
def test_specificity_has_no_mean_of_its_own_where_first_tokens_are_shared() -> None:
    """Each name's first token is as likely as any: whatever rows are looked at, 0 is right."""
    rng = np.random.default_rng(11)
    means = []
    for _ in range(400):
        n = int(rng.integers(4, 6))
        token = rng.integers(0, n - 1, size=n)
        by_token = rng.normal(size=n) * 3
        scores = rng.normal(size=(n, 1)) * 3 + by_token[token] + 0.1 * rng.normal(size=(n, n))
        scores[(token[:, None] == token) & ~np.eye(n, dtype=bool)] = np.nan
        found = specificity(scores)
        means.append(found[np.isfinite(found)][:1])
    means = np.concatenate(means)
    assert len(means) > 200
    assert np.abs(means).max() < 1.5  # raw means are off by up to 10
    assert abs(np.mean(means)) < 0.05


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
    """Of three pairs: rows 0, 1, 3 and columns 1, 2, 3 explain all but the diagonal."""
    scores = np.array([[9.0, 2.0, 3.0], [2.0, 8.0, 4.0], [4.0, 5.0, 7.0]])
    np.testing.assert_allclose(specificity(scores), [9 - 1, 8 - 3, 7 - 6])
    scores[0, 1] = np.nan  # five entries still determine five effects
    np.testing.assert_allclose(specificity(scores), [8.0, 5.0, 1.0])
    scores[0, 2] = np.nan  # nothing is known of the first row
    np.testing.assert_allclose(specificity(scores), [np.nan, 5.0, 1.0])


def test_specificity_of_hundreds_of_pairs_takes_no_memory_of_their_pairs() -> None:
    scores = _additive(np.random.default_rng(12), 600)
    scores[3, 3] += 2.0
    found = specificity(scores)
    assert found[3] == pytest.approx(2.0)
    np.testing.assert_allclose(np.delete(found, 3), 0.0, atol=1e-8)


@pytest.mark.parametrize("shape", [(2, 2), (3, 4), (4, 3)])
def test_specificity_needs_a_square_of_three(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="square"):
        specificity(np.zeros(shape))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_missing_is_refused_and_not_counted(bad: float) -> None:
    values = [0.1, 0.2, bad, 0.4, 0.5, 0.6]
    calls: list[Callable[[], object]] = [
        lambda: bootstrap(values),
        lambda: mean_interval(values),
        lambda: mean_interval([1.0] * 6, bounds=(0.0, bad)),
        lambda: median_interval(values),
        lambda: proportion_interval(values),
        lambda: ratio_interval(values, [1.0] * 6),
        lambda: ratio_interval([1.0] * 6, values),
        lambda: permutation_test(values, [0.0, 1.0]),
        lambda: permutation_test([0.0, 1.0], values),
        lambda: tost(values, 0.5),
        lambda: holm(values),
        lambda: wilson(bad, 3),
        lambda: wilson(1, bad),
        lambda: specificity(np.where(np.eye(3) == 1, -math.inf, 0.0)),
    ]
    for call in calls:
        with pytest.raises(StatisticsError) as error:
            call()
        assert str(error.value).endswith(".")


def test_a_test_of_nothing_is_refused() -> None:
    for first, second in (([], [1.0]), ([1.0], []), ([], [])):
        with pytest.raises(StatisticsError, match="two groups"):
            permutation_test(first, second)
    with pytest.raises(StatisticsError, match="P values"):
        holm([0.2, 1.2])
