"""Cases in two halves that share no question, and for each case another one of its half."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt

from interp.errors import PromptError

Indices = npt.NDArray[np.int64]


def joined(*labels: Sequence[Hashable]) -> Indices:
    """A number for each example, the same for examples that share any of their labels [example]."""
    n = len(labels[0])
    parent = list(range(n))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for column in labels:
        first: dict[Hashable, int] = {}
        for i, label in enumerate(column):
            parent[root(i)] = root(first.setdefault(label, i))
    return np.unique([root(i) for i in range(n)], return_inverse=True)[1].astype(np.int64)


def halves(clusters: Indices, seed: int) -> Indices:
    """0 or 1 for each case, the same for all of a cluster; about as many of each [case].

    Raises:
        PromptError: there are too few clusters, or one that is too large.
    """
    sizes = np.bincount(clusters)
    order = np.random.default_rng(seed).permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    half = np.zeros(len(sizes), dtype=np.int64)
    count = [0, 0]
    for cluster in order:
        smaller = int(count[1] < count[0])
        half[cluster] = smaller
        count[smaller] += int(sizes[cluster])
    out = half[clusters]
    for which in (0, 1):
        here = sizes[half == which]
        if len(here) < 2 or 2 * here.max() > here.sum():
            raise PromptError(
                f"There are {len(clusters)} prompts that the model answers wrong, about "
                f"{len(sizes)} different questions, of which the largest takes {sizes.max()}; each "
                "half needs several, none of them more than half of it: give more prompts."
            )
    return np.asarray(out)


def partners(clusters: Indices, half: Indices, seed: int) -> Indices:
    """For each case one of its half, of another cluster; each serves once [case]."""
    rng = np.random.default_rng(seed)
    name = rng.permutation(int(clusters.max()) + 1)[clusters]
    out = np.empty(len(clusters), dtype=np.int64)
    for which in (0, 1):
        cases = np.nonzero(half == which)[0]
        # In order of clusters, a shift by the largest of them leaves every cluster.
        cases = cases[np.argsort(name[cases], kind="stable")]
        out[cases] = np.roll(cases, int(np.bincount(name[cases]).max()))
    return out
