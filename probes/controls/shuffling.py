"""Labels shuffled as the null hypothesis allows: what is found in them is found in noise."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np

from probes.controls.splits import TRIES, counts_of
from probes.labels import Codes, Labels

LEAST_EXCHANGED = 10
"""So many groups at least exchange their labels with each other, if there are so many."""
_LIKE = 2  # mixed groups exchange labels if none is so many times as large as another
_MANY = 1e6  # arrangements, beyond which their number sets no limit
_COUNTED = 1000  # groups, which mostly have so many
_TURNS = 64  # of a sequence, likewise
_NAMED = 4  # classes whose names are exchanged to see which arrangements are one


def shuffled(
    labels: Codes,
    groups: Codes,
    rng: np.random.Generator,
    *,
    within: Codes | None = None,
    turned: bool = True,
) -> tuple[Codes, Codes]:
    """Labels as they might have been dealt under the null hypothesis: by whole groups.

    The labels of a group are a sequence. Sequences are dealt anew among groups of like size, and
    each is then turned by a random number of places (a circular shift), or shuffled. So groups need
    only be exchangeable, with whatever features their examples share, and examples inside of a
    group stationary (turned) or exchangeable (shuffled). Where all labels of a group are one, this
    shuffles groups; where all groups hold the same labels, it shuffles inside of them; and between
    the two nothing jumps.

    Groups of one label exchange with each other, and mixed groups with mixed ones, or large groups
    could seem to be more mixed than they are, and examples more independent. Groups are of like
    size if they stand in one stratum: sorted by size, equal ones always together, in as many strata
    as have `LEAST_EXCHANGED` groups each; mixed groups are never of like size if one is more than
    twice as large. A sequence that goes to a group of another size is cut, or repeated.

    Args:
        labels: [example], in the order in which they stand.
        groups: of the examples, as numbers.
        rng: random numbers.
        within: groups are exchanged only inside of one of these parts [example].
        turned: sequences are turned, not shuffled.

    Returns:
        labels [example], and the group that each example has its label from [example].
    """
    sizes = np.bincount(groups)
    starts = np.cumsum(sizes) - sizes
    members = np.argsort(groups, kind="stable")
    source = np.arange(len(sizes))
    for stratum in _strata(labels, groups, within):
        source[stratum] = rng.permutation(stratum)
    of = np.repeat(source, sizes)
    place = np.arange(len(labels)) - np.repeat(starts, sizes)
    if turned:
        place += rng.integers(0, sizes)[of]
        sequences = labels[members]
    else:
        sequences = labels[np.lexsort((rng.random(len(labels)), groups))]
    dealt, origin = np.empty_like(labels), np.empty_like(groups)
    dealt[members] = sequences[starts[of] + place % sizes[of]]
    origin[members] = of
    return dealt, origin


def shuffles(
    labels: Labels,
    groups: Codes,
    fold_of: Codes,
    n: int,
    rng: np.random.Generator,
    *,
    turned: bool,
) -> tuple[Codes, Codes]:
    """Shuffled labels, and the folds that go with them [shuffle, example] twice.

    The fold of a group goes where its labels go: as if not labels but features were exchanged, all
    that folds were balanced by stays as it was. A draw in which cut sequences leave a training part
    without a class is drawn again.
    """
    out, folds_of = np.empty((2, n, len(groups)), dtype=np.int64)
    by_group = np.zeros(int(groups.max()) + 1, dtype=np.int64)
    by_group[groups] = fold_of
    for number in range(n):
        for _ in range(TRIES):
            out[number], origin = shuffled(labels.codes, groups, rng, turned=turned)
            folds_of[number] = by_group[origin]
            tested = counts_of(out[number], folds_of[number], labels.n_classes)
            if (tested < tested.sum(0)).all():
                break
    return out, folds_of


def arrangements(
    labels: Codes,
    groups: Codes,
    *,
    within: Codes | None = None,
    turned: bool = True,
    symmetric: bool = False,
) -> float:
    """How many label arrangements `shuffled` can make that a score may tell apart.

    One over it is the least p value that these groups allow. Counted up to a million, and as if
    groups of a stratum were of one size.

    Args:
        labels, groups, within, turned: see `shuffled`.
        symmetric: exchanging the names of classes does not change the score.
    """
    some = groups < _COUNTED
    if not some.all():
        part = None if within is None else within[some]
        few = arrangements(labels[some], groups[some], within=part, turned=turned)
        if few == _MANY:
            return _MANY
    sizes = np.bincount(groups)
    sequences = np.split(labels[np.argsort(groups, kind="stable")], np.cumsum(sizes)[:-1])
    strata = _strata(labels, groups, within)

    def held(names: Codes) -> tuple[float, list[Counter[bytes]]]:
        kinds = [_orders(names[sequence], turned) for sequence in sequences]
        return sum(n for n, _ in kinds), [
            Counter(kinds[group][1] for group in stratum) for stratum in strata
        ]

    n_classes = int(labels.max()) + 1
    logs, alike = held(np.arange(n_classes))
    for kinds in alike:
        logs += math.lgamma(kinds.total() + 1) - sum(math.lgamma(n + 1) for n in kinds.values())
    if logs > math.log(_MANY):
        return _MANY
    same = 1
    if symmetric and n_classes <= _NAMED:
        renamings = itertools.permutations(range(n_classes))
        same = sum(held(np.array(names))[1] == alike for names in renamings)
    return max(1.0, round(math.exp(logs)) / same)


def too_few(ways: float, sites: int) -> str:
    """What to say where no p value over so many sites can be below .05; empty where one can."""
    if sites / ways < 0.05:
        return ""
    where = "one site" if sites == 1 else f"{sites} sites"
    return (
        f"Labels can be shuffled between these groups in {ways:,.0f} ways only, so that no p value "
        f"corrected for {where} can be below {min(1.0, sites / ways):.2g}; take more groups, or "
        "fewer sites."
    )


def _orders(sequence: Codes, turned: bool) -> tuple[float, bytes]:
    """The logarithm of how many orders a group's labels can take, and a name for all of them."""
    if not turned:
        classes, counts = np.unique(sequence, return_counts=True)
        orders = math.lgamma(len(sequence) + 1) - sum(math.lgamma(n + 1) for n in counts.tolist())
        return orders, classes.tobytes() + (counts // np.gcd.reduce(counts)).tobytes()
    few = min(len(sequence), _TURNS)
    turns = {np.roll(sequence, shift).tobytes() for shift in range(few)}
    # What repeats itself is named by what it repeats, at any length.
    return math.log(len(turns)), min(turns)[: len(turns) * sequence.itemsize]


def _strata(labels: Codes, groups: Codes, within: Codes | None) -> list[Codes]:
    """Groups that may exchange their labels: of one part, alike in kind and in size."""
    sizes = np.bincount(groups)
    first = np.zeros_like(sizes)
    first[groups] = labels
    part, mixed = np.zeros_like(sizes), np.zeros(len(sizes), dtype=bool)
    mixed[groups[labels != first[groups]]] = True
    if within is not None:
        part[groups] = within
    out: list[Codes] = []
    for one in np.unique(2 * part + mixed):
        inside = np.flatnonzero(2 * part + mixed == one)
        inside = inside[np.argsort(sizes[inside], kind="stable")]
        cuts: list[int] = [0]
        for cut in (np.flatnonzero(np.diff(sizes[inside])) + 1).tolist():
            enough = min(cut - cuts[-1], len(inside) - cut) >= LEAST_EXCHANGED
            unlike = sizes[inside[cut]] > _LIKE * sizes[inside[cuts[-1]]]
            if enough or (one % 2 and unlike):
                cuts.append(cut)
        out += [stratum.astype(np.int64) for stratum in np.split(inside, cuts[1:])]
    return out
