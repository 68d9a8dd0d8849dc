"""Intervals and tests over examples: all statistics of the house."""

from interp.stats.intervals import (
    LEAST_N,
    bootstrap,
    mean_interval,
    mean_intervals,
    median_interval,
    n_independent,
    no_interval,
    proportion_interval,
    ratio_interval,
    ratio_intervals,
    wilson,
)
from interp.stats.significance import Equivalence, holm, permutation_test, specificity, tost

__all__ = [
    "LEAST_N",
    "Equivalence",
    "bootstrap",
    "holm",
    "mean_interval",
    "mean_intervals",
    "median_interval",
    "n_independent",
    "no_interval",
    "permutation_test",
    "proportion_interval",
    "ratio_interval",
    "ratio_intervals",
    "specificity",
    "tost",
    "wilson",
]
