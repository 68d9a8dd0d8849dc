"""Calibration of verdicts, for the tests of any study.

`judge` is tried on results that are simulated with a known truth: where the effect is absent by
construction it may say *supported* in at most 5% of runs, where it is planted it must in 90%, and
where the control is broken it must say *undecided*.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np

from experiments.phenomena.phenomenon import Measured
from experiments.study import Verdict

__all__ = ["RUNS", "check_absent", "check_planted", "check_undecided", "outcomes"]

RUNS = 200
Judge = Callable[[Measured], Verdict]
Simulate = Callable[[np.random.Generator], Measured]


def outcomes(judge: Judge, simulate: Simulate, runs: int = RUNS) -> Counter[str]:
    """How often each outcome comes up, over simulated results."""
    return Counter(
        judge(simulate(np.random.default_rng([17, number]))).outcome for number in range(runs)
    )


def check_absent(judge: Judge, simulate: Simulate, runs: int = RUNS) -> None:
    found = outcomes(judge, simulate, runs)
    assert found["supported"] <= 0.05 * runs, found


def check_planted(judge: Judge, simulate: Simulate, runs: int = RUNS) -> None:
    found = outcomes(judge, simulate, runs)
    assert found["supported"] >= 0.9 * runs, found


def check_undecided(judge: Judge, simulate: Simulate, runs: int = 20) -> None:
    found = outcomes(judge, simulate, runs)
    assert found["undecided"] == runs, found
