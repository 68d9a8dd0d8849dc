"""Who is trained on and who is tested: folds, resamples, control labels, prefixes.

Everything is drawn over groups, so that what belongs together stays together.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from interp.errors import ProbeError
from probes.labels import Codes, Labels

Floats = npt.NDArray[np.float64]

TRIES = 100
"""How often to draw anew what lacks a class."""


def folds(labels: Labels, groups: Codes, n: int, rng: np.random.Generator) -> Codes:
    """The fold of each example; folds are alike in size and in their shares of the classes.

    Groups are dealt out, large ones first, each to the fold that then differs least from an equal
    share of every class.

    Args:
        n: number of folds.

    Raises:
        ProbeError: there are fewer groups than folds, or leaving a fold out leaves out a class.
    """
    counts = counts_of(labels.codes, groups, labels.n_classes)
    if len(counts) < n:
        raise ProbeError(
            f"{n} folds need at least {n} groups, but there are {len(counts)}; use fewer folds, or "
            "groups that are smaller."
        )
    order = rng.permutation(len(counts))
    order = order[np.argsort(-counts[order].max(1), kind="stable")]
    share = counts.sum(0) / n
    filled = np.zeros((n, labels.n_classes))
    fold_of = np.zeros(len(counts), dtype=np.int64)
    for group in order:
        excess = (filled + counts[group] - share) / share
        # Squares above the share weigh; below it, only how empty the fold is on the whole.
        cost = (np.maximum(excess, 0) ** 2).sum(1) + 1e-3 * filled.sum(1) / share.sum()
        fold_of[group] = int(np.argmin(cost))
        filled[fold_of[group]] += counts[group]
    found = fold_of[groups]
    for fold in range(n):
        left = np.bincount(labels.codes[found != fold], minlength=labels.n_classes)
        if (left == 0).any():
            missing = labels.classes[int((left == 0).argmax())]
            raise ProbeError(
                f"Class '{missing}' is in one fold only, for its examples are of one group; it "
                "cannot be both learned and tested, so leave it out or use smaller groups."
            )
    return found


def resamples(labels: Codes, groups: Codes, n: int, rng: np.random.Generator) -> Floats:
    """How often each example is drawn, groups with replacement [resample, example].

    A draw that leaves no group out to be tested on, or a class, is drawn again.
    """
    count = int(groups.max()) + 1
    n_classes = len(np.unique(labels))
    out = np.empty((n, len(groups)))
    for row in out:
        for _ in range(TRIES):
            row[:] = np.bincount(rng.integers(0, count, count), minlength=count)[groups]
            if not row.all() and len(np.unique(labels[row > 0])) == n_classes:
                break
    return out


def control_labels(labels: Codes, types: Codes, rng: np.random.Generator) -> Codes:
    """A random label for each word type, drawn as labels are distributed (Hewitt & Liang 2019).

    Every class is drawn at least once where there are types enough.
    """
    count = int(types.max()) + 1
    n_classes = int(labels.max()) + 1
    drawn = rng.choice(labels, count)
    if count >= n_classes:
        missing = np.setdiff1d(np.arange(n_classes), drawn)
        drawn[rng.permutation(count)[: len(missing)]] = missing
    found: Codes = drawn[types]
    return found


def prefixes(
    labels: Codes, groups: Codes, n: int, rng: np.random.Generator
) -> tuple[Codes, tuple[int, ...]]:
    """An order of the examples, and the ends of growing prefixes of it (Voita & Titov 2020).

    Groups stay together. Each prefix is about half of the next, the last one is everything; those
    in which a class is missing are left out.

    Args:
        labels: one labelling, or several that are to be told by the same prefixes
            [labelling, example]; a prefix must hold every class of each.
        groups: of the examples, as numbers.
        n: most blocks.
        rng: random numbers.

    Returns:
        (order [example], ends): block i is order[ends[i]:ends[i + 1]], and the first block, before
        ends[0], is told without a probe.
    """
    members = _members(groups)
    order = np.concatenate([members[i] for i in rng.permutation(len(members))])
    boundaries = np.flatnonzero(np.diff(groups[order])) + 1
    told = np.atleast_2d(labels)[:, order]
    total, n_classes = len(order), [len(np.unique(each)) for each in told]
    ends: list[int] = []
    for halvings in range(n, 0, -1):
        if not len(boundaries):
            break
        wanted = total / 2**halvings
        end = int(boundaries[np.argmin(np.abs(boundaries - wanted))])
        whole = [len(np.unique(each)) for each in told[:, :end]] == n_classes
        if whole and (not ends or end > ends[-1]):
            ends.append(end)
    return order, (*ends, total)


def counts_of(labels: Codes, groups: Codes, n_classes: int) -> Floats:
    """How many examples of each class a group has [group, class]."""
    counts = np.zeros((int(groups.max()) + 1, n_classes))
    np.add.at(counts, (groups, labels), 1)
    return counts


def _members(groups: Codes) -> list[Codes]:
    order = np.argsort(groups, kind="stable")
    return [
        part.astype(np.int64)
        for part in np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    ]
