"""Which pairs are about the same things, and which of them a search must never see.

A subspace that was trained on Tom Cruise's mother says nothing new of Tom Cruise's mother; so pairs
are held out by what they are about, never one by one.
"""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from interp.errors import PromptError
from interp.prompts.pairs import PromptPairs
from interp.stats import LEAST_N
from interp.stats.clusters import Clusters, number_clusters

Indices = npt.NDArray[np.int64]

_LEAST = 4
"""Groups that two can be trained on and two be held out of."""


def groups_of(pairs: PromptPairs, groups: Clusters | None) -> Indices:
    """The group of each pair, as a number from 0 [example].

    Where none are given, pairs are joined that share an entity: of those with named spans the words
    of a span that differs between their two prompts; of others the tokens from the first to the
    last that differ, wherever they stand in another pair's prompts.

    Raises:
        PromptError: there are too few groups to hold some out.
        StatisticsError: given groups do not fit the pairs.
    """
    if groups is not None:
        codes, count = number_clusters(len(pairs), groups)
    else:
        codes = _joined(pairs)
        count = int(codes.max()) + 1
    if count < _LEAST:
        how = "name groups=… that can be, or pair entities so that few pairs share one"
        raise PromptError(
            f"The {len(pairs)} pairs make {count} group{'s' if count > 1 else ''} without an "
            f"entity in common, and at least {_LEAST} are needed to train on some and hold out "
            f"others; {how}."
        )
    return codes


def split(pairs: PromptPairs, codes: Indices, share: float, seed: int) -> npt.NDArray[np.bool_]:
    """Which pairs are held out: whole groups, drawn by `seed` [example].

    Raises:
        PromptError: a pair that is held out is trained on too.
    """
    count = int(codes.max()) + 1
    wanted = max(round(share * count), min(LEAST_N, count // 2))
    drawn = np.random.default_rng(seed).permutation(count)[: min(max(wanted, 2), count - 2)]
    held = np.isin(codes, drawn)
    seen: dict[Hashable, int] = {}
    for i in range(len(pairs)):
        key = (tuple(pairs.clean.row(i)), tuple(pairs.corrupt.row(i)))
        other = seen.setdefault(key, i)
        if held[other] != held[i]:
            raise PromptError(
                f"Pairs {other} and {i} are the same prompts in two groups, so that one would be "
                "trained on and the other held out; give them one group."
            )
    return held


def arbitrary(codes: Indices, held: npt.NDArray[np.bool_], targets: Indices, seed: int) -> Indices:
    """Answers dealt to other groups: whose answer each pair gets [example].

    Trained and held-out groups keep apart, and the pairs of a group get the answers of one other
    group, so that what had one answer still has one.

    Raises:
        PromptError: all answers of one side begin alike, so that no other can be dealt.
    """
    rng = np.random.default_rng([seed, 1])
    out = np.empty_like(codes)
    for side in (False, True):
        mine = rng.permutation(np.unique(codes[held == side]))
        if len(np.unique(targets[held == side])) < 2:
            which = "held-out" if side else "training"
            raise PromptError(
                f"The counterfactual answers of all {which} pairs begin with the same token, so "
                "that arbitrary ones would be no control; give pairs with several answers."
            )
        for group, other in zip(mine, np.roll(mine, 1), strict=True):
            here, there = (np.flatnonzero(codes == one) for one in (group, other))
            out[here] = np.resize(there, len(here))
    return out


def _joined(pairs: PromptPairs) -> Indices:
    """Numbers of the connected parts of pairs that share an entity."""
    n = len(pairs)
    shared: list[tuple[int, int]] = []
    if pairs.spans:
        seen: dict[Hashable, int] = {}
        for i in range(n):
            for name, words in pairs.spans.items():
                if words[i][0] == words[i][1]:
                    continue
                shared += [(seen.setdefault((name, word), i), i) for word in words[i]]
    else:
        shared = _stretches(pairs)
    one, other = np.array(shared, dtype=np.int64).reshape(-1, 2).T
    links = coo_array((np.ones(len(one)), (one, other)), shape=(n, n))
    return np.asarray(connected_components(links, directed=False)[1], dtype=np.int64)


def _stretches(pairs: PromptPairs) -> list[tuple[int, int]]:
    """Pairs (i, j) where what differs between the two prompts of i stands in a prompt of j."""
    rows = [(pairs.clean.row(i), pairs.corrupt.row(i)) for i in range(len(pairs))]
    owner: dict[str, int] = {}
    found = []
    for i, (clean, corrupt) in enumerate(rows):
        differing = [at for at, (a, b) in enumerate(zip(clean, corrupt, strict=False)) if a != b]
        first = differing[0] if differing else min(len(clean), len(corrupt)) - 1
        last = differing[-1] + 1 if differing else None
        for ids in (clean, corrupt):
            found.append((owner.setdefault(_text(ids[first:last]), i), i))
    prompts: dict[str, int] = {}
    for i, both in enumerate(rows):
        for ids in both:
            found.append((prompts.setdefault(_text(ids), i), i))
    found += [
        (i, j) for text, j in prompts.items() for stretch, i in owner.items() if stretch in text
    ]
    return found


def _text(ids: list[int]) -> str:
    return f" {' '.join(map(str, ids))} "
