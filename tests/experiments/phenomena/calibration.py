"""Calibration of verdicts, for the tests of any study.

`judge` is tried on results that are simulated with a known truth: where the effect is absent by
construction it may say *supported* in at most 5% of runs, where it is planted it must in 90%, and
where the control is broken it must say *undecided*.

Of `RUNS` runs no more are made than it takes to tell: where those so far are twenty times likelier
under a rate that is fine than under one that is not, the rest is left out (Wald's sequential
test). A judge that says *supported* at a true 10% where nothing is passes in one of twenty trials.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np

from experiments.phenomena.phenomenon import Measured
from experiments.study import Verdict

__all__ = ["RUNS", "check_absent", "check_planted", "check_undecided", "outcomes"]

RUNS = 200
CLEAR = 20.0
Judge = Callable[[Measured], Verdict]
Simulate = Callable[[np.random.Generator], Measured]


def outcomes(judge: Judge, simulate: Simulate, runs: int = RUNS) -> Counter[str]:
    """How often each outcome comes up, over simulated results."""
    return Counter(_outcomes(judge, simulate, runs))


def check_absent(judge: Judge, simulate: Simulate, runs: int = RUNS) -> None:
    found = _supported(judge, simulate, runs, fine=0.03, wrong=0.1)
    assert found["supported"] <= 0.05 * found.total(), found


def check_planted(judge: Judge, simulate: Simulate, runs: int = RUNS) -> None:
    found = _supported(judge, simulate, runs, fine=0.95, wrong=0.85)
    assert found["supported"] >= 0.9 * found.total(), found


def check_undecided(judge: Judge, simulate: Simulate, runs: int = 20) -> None:
    found = outcomes(judge, simulate, runs)
    assert found["undecided"] == runs, found


def _outcomes(judge: Judge, simulate: Simulate, runs: int) -> Iterator[str]:
    for number in range(runs):
        yield judge(simulate(np.random.default_rng([17, number]))).outcome


def _supported(
    judge: Judge, simulate: Simulate, runs: int, *, fine: float, wrong: float
) -> Counter[str]:
    """Outcomes of so many runs, or of as many as show that *supported* has a rate that is fine."""
    found: Counter[str] = Counter()
    evidence = 0.0
    for one in _outcomes(judge, simulate, runs):
        found[one] += 1
        rates = (fine, wrong) if one == "supported" else (1 - fine, 1 - wrong)
        evidence += math.log(rates[0] / rates[1])
        if evidence > math.log(CLEAR):
            break
    return found
