"""What a subspace that was found is held against, place by place.

An interchange that works is no evidence on its own: the search fits arbitrary answers (Arora et al.
2024), moving an activation far enough changes any answer, and a subspace may work through
directions in which activations never vary (Makelov et al. 2024, "Is This the Subspace You Are
Looking for? An Interpretability Illusion for Subspace Activation Patching").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.components.linear import affine
from interp.forward.packing import find
from interp.kinds import site_kind
from interp.progress import Progress
from interp.subspaces.rotations import moved
from interp.subspaces.runs import Rows, Runs
from interp.subspaces.search import Stacks

CONTROLS = ("arbitrary labels", "random subspace", "norm-matched placebo", "unchanged")
"""What every result holds: the same search on answers dealt at random, the subspace before the
search, a change as long in another random subspace, and the run as it is."""

# A direction is dormant if a change moves along it this many times as far as the data do.
_FARTHER = 3.0
# Of a subspace's directions those count as lying where the data vary that have this much there.
_WITHIN = 0.1


@dataclass(frozen=True)
class Hits:
    """Whether each interchange gave the answer, NaN where an example has no such token.

    Attributes:
        learned: [example, place, rank].
        control: [control, example, place, rank]; of the two that are not trained,
        natural: of the part of each subspace in which activations vary [example, place, rank], and
        whole: of the whole activation [example, place]: of held-out pairs only.
    """

    learned: npt.NDArray[np.float32]
    control: npt.NDArray[np.float32]
    natural: npt.NDArray[np.float32]
    whole: npt.NDArray[np.float32]


def judge(
    runs: Runs,
    found: Stacks,
    first: Stacks,
    other: Stacks,
    answers: Sequence[Int[Tensor, " example"]],
    held: npt.NDArray[np.bool_],
    progress: Progress | None = None,
) -> Hits:
    """Run every interchange once for each pair, and where nothing was trained for held-out pairs.

    Args:
        runs: both runs.
        found: what the search ended with, for the right and for arbitrary answers.
        first: what it started from.
        other: subspaces drawn apart, for the placebo.
        answers: the right and the arbitrary ones [example].
        held: which pairs are held out [example].
        progress: called with (places done, places in all).
    """
    n_places, n, _ = runs.base.shape
    shape = (n, n_places, len(found))
    learned, natural = np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32)
    control = np.full((len(CONTROLS), *shape), np.nan, np.float32)
    whole = np.full(shape[:2], np.nan, np.float32)
    unchanged, read = runs.right_unchanged(answers[0]), read_neurons(runs)
    for place in range(n_places):
        every = runs.present[place]
        tested, batch = np.flatnonzero(every & held), _Batch(runs, place, answers)
        everyone = np.flatnonzero(every)
        change = runs.source[place] - runs.base[place]
        used: Varying | Tensor | None = read.get(int(runs.layer[place]))
        if used is None:
            used = Varying.of(change[torch.from_numpy(everyone)])
        batch.add(whole[:, place], tested, change)
        for number, rank in enumerate(found):
            mine, dealt = found[rank][place], found[rank][n_places + place]
            step, drawn = moved(mine, change), moved(other[rank][place], change)
            tiny = torch.finfo(drawn.dtype).tiny
            length = step.norm(dim=-1, keepdim=True) / drawn.norm(dim=-1, keepdim=True).clamp(tiny)
            part = within(mine, used)
            batch.add(learned[:, place, number], everyone, step)
            batch.add(natural[:, place, number], tested, moved(part, change))
            arbitrary, plain, placebo, none = control[:, :, place, number]
            batch.add(arbitrary, everyone, moved(dealt, change), kind=1)
            batch.add(plain, tested, moved(first[rank][place], change))
            batch.add(placebo, tested, drawn * length)
            none[everyone] = unchanged[everyone]
        batch.run()
        if progress:
            progress(place + 1, n_places)
    return Hits(learned, control, natural, whole)


class _Batch:
    """Interchanges at one place, collected to be run together."""

    def __init__(self, runs: Runs, place: int, answers: Sequence[Tensor]) -> None:
        self._runs, self._place, self._answers = runs, place, answers
        self._into: list[tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]] = []
        self._vectors: list[Tensor] = []
        self._targets: list[Tensor] = []

    def add(
        self,
        into: npt.NDArray[np.float32],
        examples: npt.NDArray[np.int64],
        move: Float[Tensor, "example width"],
        kind: int = 0,
    ) -> None:
        """Have it written into `into` [example] whether these moves give the answers of `kind`."""
        at = torch.from_numpy(examples)
        self._into.append((into, examples))
        self._vectors.append(self._runs.base[self._place, at] + move[at])
        self._targets.append(self._answers[kind][at])

    def run(self) -> None:
        examples = np.concatenate([examples for _, examples in self._into])
        rows = Rows(np.full(len(examples), self._place), examples)
        right = self._runs.right(rows, torch.cat(self._vectors), torch.cat(self._targets))
        ends = np.cumsum([len(examples) for _, examples in self._into])[:-1]
        for (into, examples), found in zip(self._into, np.split(right, ends), strict=True):
            into[examples] = found


@dataclass(frozen=True)
class Varying:
    """Where activations vary.

    Attributes:
        change: the difference between both runs.
        axes: its principal directions, beyond rounding.
        size: how far the runs lie apart along each, over all examples.
    """

    change: Float[Tensor, "example width"]
    axes: Float[Tensor, "direction width"]
    size: Float[Tensor, " direction"]

    @classmethod
    def of(cls, change: Float[Tensor, "example width"]) -> Varying:
        _, size, axes = torch.linalg.svd(change, full_matrices=False)
        there = size > _rounding(change, size)
        return cls(change, axes[there], size[there])

    def reached(self, rows: Float[Tensor, "rank width"]) -> Float[Tensor, "kept width"]:
        """Directions along which an interchange in a subspace does not go much farther."""
        far = (moved(rows, self.change) @ self.axes.mT).norm(dim=0)
        return self.axes[far <= _FARTHER * self.size]


def within(
    rows: Float[Tensor, "rank width"], where: Varying | Float[Tensor, "direction width"]
) -> Float[Tensor, "part width"]:
    """The part of a subspace that lies where activations vary, or are read; orthonormal rows.

    Where nothing tells exactly what is read, principal directions of the difference between both
    runs are kept: those along which the interchange moves the activation at most three times as far
    (root mean square) as the runs lie apart.

    Args:
        rows: the subspace.
        where: the difference between both runs, or orthonormal directions that alone the model
            reads, where they are known.
    """
    read = where.reached(rows) if isinstance(where, Varying) else where
    left, share, _ = torch.linalg.svd(rows @ read.mT, full_matrices=False)
    part = (left.mT @ rows @ read.mT @ read)[share > _WITHIN]
    scaled: Tensor = part / part.norm(dim=1, keepdim=True)
    return scaled


def read_neurons(runs: Runs) -> dict[int, Tensor]:
    """By layer what the output matrix reads of MLP neurons: its row space (Makelov et al. 2024)."""
    model, out = runs.model, {}
    for layer in sorted(set(runs.layer.tolist())) if site_kind(runs.site).unit == "neuron" else ():
        matrix = find(model.bridge.blocks[layer], "mlp.out")
        if matrix is not None:
            like = torch.zeros(1, dtype=model.dtype, device=model.device)
            weight, _ = affine(matrix, runs.width, like)
            left, size, _ = torch.linalg.svd(weight.to(runs.base.dtype), full_matrices=False)
            out[layer] = left[:, size > _rounding(weight, size)].mT
    return out


def _rounding(matrix: Tensor, size: Tensor) -> Tensor:
    """Singular values up to which there is nothing but rounding."""
    limit: Tensor = size.amax() * max(matrix.shape) * torch.finfo(size.dtype).eps
    return limit
