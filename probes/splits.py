"""Who is trained on and who is tested: folds, resamples, shuffles, control labels, prefixes.

Everything is drawn over groups, so that what belongs together stays together.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from interp.errors import ProbeError
from probes.labels import Codes, Labels

Floats = npt.NDArray[np.float64]


def folds(labels: Labels, groups: Codes, n: int, rng: np.random.Generator) -> Codes:
    """The fold of each example; folds are alike in size and in their shares of the classes.

    Groups are dealt out, large ones first, each to the fold that then differs least from an equal
    share of every class.

    Args:
        n: number of folds.

    Raises:
        ProbeError: there are fewer groups than folds, or leaving a fold out leaves out a class.
    """
    counts = _counts(labels.codes, groups, labels.n_classes)
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


def resamples(groups: Codes, n: int, rng: np.random.Generator) -> Floats:
    """How often each example is drawn, groups with replacement [resample, example]."""
    count = int(groups.max()) + 1
    draws = rng.integers(0, count, (n, count))
    times = np.stack([np.bincount(draw, minlength=count) for draw in draws])
    return times[:, groups].astype(np.float64)


def shuffled(labels: Codes, groups: Codes, fold_of: Codes, rng: np.random.Generator) -> Codes:
    """Labels shuffled as the null hypothesis allows.

    Where all examples of each group have one label, groups of one fold exchange their labels, so
    that folds stay as alike as they were made; where labels differ inside of a group, examples of
    that group do.
    """
    count = int(groups.max()) + 1
    first, fold = np.full(count, -1), np.zeros(count, dtype=np.int64)
    first[groups[::-1]], fold[groups] = labels[::-1], fold_of
    if (first[groups] == labels).all():
        moved = first.copy()
        for members in _members(fold):
            moved[members] = first[rng.permutation(members)]
        return moved[groups]
    out = labels.copy()
    for members in _members(groups):
        out[members] = labels[rng.permutation(members)]
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

    Returns:
        (order [example], ends): block i is order[ends[i]:ends[i + 1]], and the first block, before
        ends[0], is told without a probe.
    """
    members = _members(groups)
    order = np.concatenate([members[i] for i in rng.permutation(len(members))])
    boundaries = np.flatnonzero(np.diff(groups[order])) + 1
    total, n_classes = len(order), int(labels.max()) + 1
    ends: list[int] = []
    for halvings in range(n, 0, -1):
        if not len(boundaries):
            break
        wanted = total / 2**halvings
        end = int(boundaries[np.argmin(np.abs(boundaries - wanted))])
        whole = len(np.unique(labels[order[:end]])) == n_classes
        if whole and (not ends or end > ends[-1]):
            ends.append(end)
    return order, (*ends, total)


def _counts(labels: Codes, groups: Codes, n_classes: int) -> Floats:
    counts = np.zeros((int(groups.max()) + 1, n_classes))
    np.add.at(counts, (groups, labels), 1)
    return counts


def _members(groups: Codes) -> list[Codes]:
    order = np.argsort(groups, kind="stable")
    return [
        part.astype(np.int64)
        for part in np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    ]
