"""Intervals over groups, and tests against shuffled labels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import stats as scipy_stats

from probes.labels import Codes

Floats = npt.NDArray[np.float64]
_AT_ONCE = 50


def group_bootstrap(
    values: Floats, groups: Codes, *, n: int = 1000, seed: int = 0, confidence: float = 0.95
) -> tuple[Floats, Floats]:
    """Percentile interval of the mean over examples, groups drawn with replacement.

    Args:
        values: one number for each example [..., example].
        groups: of the examples, as numbers.

    Returns:
        low and high [...].
    """
    count = int(groups.max()) + 1
    flat = values.reshape(-1, values.shape[-1])
    sums = np.stack([np.bincount(groups, row, count) for row in flat])
    sizes = np.bincount(groups, minlength=count).astype(np.float64)
    rng = np.random.default_rng(seed)
    means = []
    for start in range(0, n, _AT_ONCE):
        draws = rng.multinomial(count, np.full(count, 1 / count), min(_AT_ONCE, n - start))
        means.append(sums @ draws.T / (draws @ sizes))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means, 1), [tail, 1 - tail], axis=1)
    return low.reshape(values.shape[:-1]), high.reshape(values.shape[:-1])


def against_shuffled(found: Floats, shuffled: Floats) -> Floats:
    """One-sided p values that a score is larger than those of shuffled labels.

    Under the null hypothesis the score and its shuffled copies are draws of one distribution;
    taken as normal, (score - mean) / (sd · √(1 + 1/m)) follows Student's t with m - 1 degrees of
    freedom, exactly also for few shuffles. Where all shuffles agree, the rank decides.

    Args:
        found: [site].
        shuffled: [site, shuffle].
    """
    m = shuffled.shape[1]
    mean, sd = shuffled.mean(1), shuffled.std(1, ddof=1)
    flat = sd <= 1e-12 * np.maximum(1e-300, np.abs(mean))
    t = (found - mean) / np.where(flat, 1.0, sd * np.sqrt(1 + 1 / m))
    rank = (1 + (shuffled >= found[:, None]).sum(1)) / (m + 1)
    p: Floats = np.where(flat, rank, scipy_stats.t.sf(t, m - 1))
    return p
