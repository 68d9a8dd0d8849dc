"""Intervals and tests over examples: all statistics of the house."""

from interp.stats.clusters import LEAST_N, connected, n_independent, no_interval
from interp.stats.differences import difference_intervals, share_difference
from interp.stats.effects import Effect, effect, shares
from interp.stats.means import (
    bootstrap,
    mean_interval,
    mean_intervals,
    median_interval,
    ratio_interval,
    ratio_intervals,
)
from interp.stats.proportions import proportion_interval, proportion_intervals, wilson
from interp.stats.ranking import auroc, auroc_difference, auroc_interval
from interp.stats.significance import Equivalence, holm, permutation_test, specificity, tost

__all__ = [
    "LEAST_N",
    "Effect",
    "Equivalence",
    "auroc",
    "auroc_difference",
    "auroc_interval",
    "bootstrap",
    "connected",
    "difference_intervals",
    "effect",
    "holm",
    "mean_interval",
    "mean_intervals",
    "median_interval",
    "n_independent",
    "no_interval",
    "permutation_test",
    "proportion_interval",
    "proportion_intervals",
    "ratio_interval",
    "ratio_intervals",
    "share_difference",
    "shares",
    "specificity",
    "tost",
    "wilson",
]


def __dir__() -> list[str]:
    return sorted(__all__)
