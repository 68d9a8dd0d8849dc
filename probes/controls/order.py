"""Does it matter in which order examples stand? A test by shuffles has to know.

Labels may be shuffled in any way that features would not notice if labels did not matter to them.
Where neighbours are alike, and labels come in runs, a label that is moved on its own is noticed.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from scipy import stats as scipy_stats
from torch import Tensor

from probes.labels import Codes

Floats = npt.NDArray[np.float64]
_AXES = 16
# Standard errors above which order counts: one site in twenty by chance, or hardly ever by chance.
_LEVEL, _DRIFT = 0.05, 3.0

DRIFT = (
    "Groups that follow each other are alike, in their features and in their labels, so that they "
    "cannot be exchanged as the p values suppose, which may be far too small; give groups that "
    "hold together what was measured together."
)


def in_sequence(x: Float[Tensor, "site example dim"], groups: Codes) -> bool:
    """Whether neighbours inside of a group are more alike than its other examples, at any site."""
    members = np.argsort(groups, kind="stable")
    sizes = np.bincount(groups)
    if sizes.max() < 3:
        return False
    values = _projected(x)[:, members]
    level = float(scipy_stats.norm.isf(_LEVEL / len(values)))
    return bool((_alike(values, groups[members]) > level).any())


def drifts(x: Float[Tensor, "site example dim"], labels: Codes, groups: Codes) -> bool:
    """Whether groups that follow each other are alike in labels, and in what labels do not tell.

    Groups stand in the order of their first examples.
    """
    first = np.unique(groups, return_index=True)[1]
    turn = np.argsort(np.argsort(first))[groups]
    told = np.eye(int(labels.max()) + 1)[labels]
    one = np.zeros(len(first), dtype=np.int64)
    if len(first) < 10 or _alike(_means(told[None], turn), one)[0] < _DRIFT:
        return False
    values = _projected(x)
    rest = values - _means(values, labels)[:, labels]
    level = float(scipy_stats.norm.isf(scipy_stats.norm.sf(_DRIFT) / len(values)))
    return bool((_alike(_means(rest, turn), one) > level).any())


def _projected(x: Float[Tensor, "site example dim"]) -> Floats:
    """A few random axes tell as much, at a fraction of the cost."""
    if x.shape[2] > _AXES:
        generator = torch.Generator().manual_seed(0)
        axes = torch.randn(x.shape[2], _AXES, generator=generator).to(x)
        x = x @ axes
    values: Floats = x.double().cpu().numpy()
    return values


def _alike(values: Floats, groups: Codes) -> Floats:
    """Inner products of neighbours, in standard errors above those of any two of a group [site].

    Args:
        values: [site, example, axis], group after group.
        groups: of the examples.
    """
    sizes = np.bincount(groups)
    centred = values - _means(values, groups)[:, groups]
    inside = groups[1:] == groups[:-1]
    found = (centred[:, 1:] * centred[:, :-1]).sum(2)[:, inside].sum(1)
    # Two examples of a group have a negative product, since all of them add up to zero.
    expected = -((centred**2).sum(2) / sizes[groups]).sum(1)
    freedom = max(1, len(groups) - len(sizes))
    covariance = centred.transpose(0, 2, 1) @ centred / freedom
    error = np.sqrt(inside.sum() * (covariance**2).sum((1, 2)))
    return np.where(error > 0, (found - expected) / np.where(error > 0, error, 1), 0.0)


def _means(values: Floats, groups: Codes) -> Floats:
    """Of each group [site, group, axis]."""
    order = np.argsort(groups, kind="stable")
    sizes = np.bincount(groups)
    sums = np.add.reduceat(values[:, order], np.cumsum(sizes) - sizes, axis=1)
    means: Floats = sums / sizes[:, None]
    return means
