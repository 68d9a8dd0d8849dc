"""Intervals over examples and over organisms, against SciPy and by simulation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from experiments.phenomena.estimates import difference, estimate, outcome
from experiments.phenomena.phenomenon import Measured
from experiments.study import Verdict
from interp.stats import mean_interval, proportion_interval, share_difference
from tests.experiments.phenomena.calibration import check_absent, check_planted


def test_one_seed_has_the_interval_over_its_examples() -> None:
    values = np.random.default_rng(0).normal(size=30)
    found = estimate([values])
    assert (found.low, found.high) == mean_interval(values)
    assert found.over == "examples of one model"
    hits = np.arange(30) < 21
    found = estimate([hits], bounds=(0.0, 1.0))
    assert (found.low, found.high) == proportion_interval(hits)
    assert found.share() == "70% [52%, 83%]"
    one, other = hits, np.arange(20) < 5
    found = difference([one], [other], shares=True)
    assert (found.low, found.high) == share_difference(one, other, paired=False)


def test_several_seeds_have_students_interval_where_it_is_the_wider() -> None:
    rng = np.random.default_rng(1)
    seeds = [rng.normal(loc=shift, scale=0.1, size=200) for shift in (0, 1, 2, 3, 4)]
    means = [each.mean() for each in seeds]
    found = estimate(seeds)
    ends = stats.t.interval(0.95, 4, np.mean(means), stats.sem(means))
    assert (found.low, found.high) == pytest.approx(ends)
    assert found.over == "5 organisms"
    # All alike: there is an interval all the same.
    found = estimate([np.ones(20)] * 5, bounds=(0.0, 1.0))
    assert found.low == proportion_interval(np.ones(100))[0] < 1 == found.high


def test_missing_examples_are_left_out_and_nothing_is_no_number() -> None:
    found = estimate([[1.0, np.nan, 2.0, 3.0, 4.0, 5.0]])
    assert (found.mean, found.n) == (3.0, 5)
    for nothing in (estimate([[np.nan]]), difference([[1.0, 2.0]], [[np.nan]])):
        assert np.isnan([nothing.mean, nothing.low, nothing.high]).all()
        assert outcome(nothing, above=0) == "undecided"


def test_examples_of_one_question_count_once() -> None:
    values = np.repeat(np.random.default_rng(2).normal(size=10), 5)
    clusters = np.repeat(np.arange(10), 5)
    wide, narrow = estimate([values], clusters=[clusters]), estimate([values])
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)


def test_an_outcome_needs_an_interval_on_one_side() -> None:
    values = np.random.default_rng(3).normal(1.0, 0.1, 50)
    found = estimate([values])
    assert outcome(found, above=0.5) == "supported"
    assert outcome(found, above=1.0) == "undecided"
    assert outcome(found, above=1.5) == "rejected"
    assert outcome(found, above=1.5, below=0.5) == "undecided"


def arms(rng: np.random.Generator, seeds: int, shift: float) -> dict[str, list[xr.Dataset]]:
    """Organisms that differ from each other, if there are several, and examples that do."""
    spread = 0.3 if seeds > 1 else 0.0
    return {
        "treated": [
            xr.Dataset({"value": ("example", shift + rng.normal(0, spread) + rng.normal(size=20))})
            for _ in range(seeds)
        ]
    }


def judge(measured: Measured) -> Verdict:
    one = estimate([each["value"].values for each in measured["treated"]])
    ends = (one.mean, one.low, one.high)
    return Verdict("E", "", outcome(one, above=0.0), "", *ends, "", one.n, "")


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 5])
def test_verdicts_from_these_intervals_are_calibrated(seeds: int) -> None:
    check_absent(judge, lambda rng: arms(rng, seeds, 0.0))
    check_planted(judge, lambda rng: arms(rng, seeds, 1.0))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("check", "fine", "wrong"), [(check_absent, 0.01, 0.15), (check_planted, 0.98, 0.8)]
)
def test_a_rate_that_is_wrong_is_noticed(
    check: Callable[..., None], fine: float, wrong: float
) -> None:
    rng = np.random.default_rng(0)

    def judged(rate: float) -> Callable[[Measured], Verdict]:
        return lambda _: Verdict(
            "E", "", "supported" if rng.random() < rate else "undecided", "", 0, 0, 0, "", 1, ""
        )

    for _ in range(20):
        check(judged(fine), lambda _: {})
        with pytest.raises(AssertionError):
            check(judged(wrong), lambda _: {})
