"""The search: all subspaces of a grid turned together until their interchange gives the answers.

Every step takes the same mini-batch for all cells. A cell that no longer gets better is left alone,
and its rows are no longer run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import ModelError, PromptError
from interp.progress import Progress
from interp.subspaces.rotations import Rotations, moved
from interp.subspaces.runs import Rows, Runs

Floats = npt.NDArray[np.float64]
Stacks = Mapping[int, Float[Tensor, "subspace rank width"]]
"""By rank: the subspace of each place, once for each of several kinds of answers."""

# With fewer steps the accuracy that is reached depends on their number; with more it hardly does.
_STEPS = 84


@dataclass(frozen=True)
class Settings:
    """How a search goes.

    Attributes:
        epochs: passes over the training pairs, at most; the rate falls linearly to 0 over them.
            None for two, or more where these are fewer than 84 steps.
        batch_size: pairs in one step.
        learning_rate: radians, about, by which each direction is turned in the first step.
        patience: passes after which a cell is left alone that has not got better.
        seed: of the first subspaces, of the split and of the order.
    """

    epochs: int | None
    batch_size: int
    learning_rate: float
    patience: int
    seed: int

    # A pass that takes less than this share of the first one's loss away is no progress.
    TOLERANCE = 0.01

    def check(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("patience", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise PromptError(f"{name} must be at least {least}, not {value}.")
        if not 0 < self.learning_rate < np.inf:
            raise PromptError(f"The learning rate must be above 0, not {self.learning_rate}.")

    def passes(self, n: int) -> int:
        """How many passes over n pairs there are, at most."""
        return self.epochs or max(2, -(-_STEPS // self.batches(n)))

    def batches(self, n: int) -> int:
        """How many steps there are in one pass over n pairs."""
        return -(-n // self.batch_size)


Turned = tuple[tuple[npt.NDArray[np.int64], ...], Floats, npt.NDArray[np.bool_]]
"""Cells, as indices of answers, places and ranks [cell], their losses [cell, example], 0 where an
example has no such token, and whether there was any slope [cell]."""


@dataclass(frozen=True)
class Found:
    """What a search ended with.

    Attributes:
        rows: the subspaces.
        epochs: passes that each had [answers, place, rank].
        loss: mean cross-entropy in the last of them, in nats [answers, place, rank].
    """

    rows: Stacks
    epochs: npt.NDArray[np.int64]
    loss: Floats


def search(
    runs: Runs,
    first: Stacks,
    answers: Sequence[Int[Tensor, " example"]],
    examples: npt.NDArray[np.int64],
    settings: Settings,
    progress: Progress | None = None,
) -> Found:
    """Turn the subspaces downhill.

    Args:
        runs: both runs.
        first: where each starts; the same for all kinds of answers.
        answers: kinds of answers, each with the token that every pair is to have.
        examples: the pairs to train on.
        settings: of the search.
        progress: called with (passes of cells done, of all).

    Raises:
        ModelError: the loss is not finite.
    """
    ranks, n_places = list(first), len(runs.layer)
    shape = (len(answers), n_places, len(ranks))
    stacks = {r: Rotations(first[r].repeat(len(answers), 1, 1)) for r in ranks}
    watch = _Watch(shape, settings)
    rng = np.random.default_rng([settings.seed, 2])
    n_batches, n_passes = settings.batches(len(examples)), settings.passes(len(examples))
    n_cells = int(np.prod(shape))
    for epoch in range(n_passes):
        active = watch.active()
        if not active.any():
            break
        total, count = np.zeros(shape), np.zeros(shape)
        turned = np.zeros(shape, dtype=np.bool_)
        for number, batch in enumerate(np.array_split(rng.permutation(examples), n_batches)):
            angle = settings.learning_rate * (1 - (epoch + number / n_batches) / n_passes)
            step = _Step(runs, answers, batch, active)
            for index, loss, slope in step.take(stacks, ranks, angle):
                total[index] += loss.sum(1)
                count[index] += step.present[index[1]].sum(1)
                turned[index] |= slope
            if progress and watch.active().any():
                done = watch.done(n_passes) + int(active.sum()) * (number + 1) // n_batches
                progress(done, n_cells * n_passes)
        watch.look(active, total / np.maximum(count, 1), turned)
    if progress:
        progress(n_cells * n_passes, n_cells * n_passes)
    return Found({r: stack.rows for r, stack in stacks.items()}, watch.epochs, watch.loss)


class _Watch:
    """The loss of each cell from pass to pass, and whether it still gets better."""

    def __init__(self, shape: tuple[int, ...], settings: Settings) -> None:
        self._settings = settings
        self.epochs = np.zeros(shape, dtype=np.int64)
        self.loss = np.full(shape, np.nan)
        self._first = np.full(shape, np.inf)
        self._best = np.full(shape, np.inf)
        self._stale = np.zeros(shape, dtype=np.int64)

    def active(self) -> npt.NDArray[np.bool_]:
        return np.asarray(self._stale < self._settings.patience)

    def done(self, n_passes: int) -> int:
        """Passes that were made, or will not be."""
        return int(np.where(self.active(), self.epochs, n_passes).sum())

    def look(
        self, active: npt.NDArray[np.bool_], loss: Floats, turned: npt.NDArray[np.bool_]
    ) -> None:
        """Take down a pass; `turned` tells where there was any slope to go down."""
        if not np.isfinite(loss[active]).all():
            raise ModelError(
                "The loss of a search for a subspace is not finite; load the model in float32."
            )
        self.epochs += active
        self._first = np.where(np.isinf(self._first), loss, self._first)
        better = loss < self._best - self._settings.TOLERANCE * self._first
        stale = np.where(turned, np.where(better, 0, self._stale + 1), self._settings.patience)
        self._stale = np.where(active, stale, self._stale)
        self._best = np.where(active & better, loss, self._best)
        self.loss = np.where(active, loss, self.loss)


class _Step:
    """One step of all active cells on one batch."""

    def __init__(
        self,
        runs: Runs,
        answers: Sequence[Int[Tensor, " example"]],
        batch: npt.NDArray[np.int64],
        active: npt.NDArray[np.bool_],
    ) -> None:
        self._runs, self._answers, self._batch, self._active = runs, answers, batch, active
        self.present = runs.present[:, batch]
        at = torch.from_numpy(batch).to(runs.base.device)
        self._base = runs.base[:, at]
        self._change = runs.source[:, at] - self._base

    def take(
        self, stacks: Mapping[int, Rotations], ranks: Sequence[int], angle: float
    ) -> list[Turned]:
        """Turn them, rank by rank."""
        cells = [np.nonzero(self._active[:, :, number]) for number in range(len(ranks))]
        chosen, values = [], []
        for rank, (kind, place) in zip(ranks, cells, strict=True):
            device = self._base.device
            which = torch.from_numpy(kind * len(self._base) + place).to(device)
            at = torch.from_numpy(place).to(device)
            chosen.append((which, at))
            values.append(self._base[at] + moved(stacks[rank].rows[which], self._change[at]))
        loss, gradient = self._gradient(cells, torch.cat(values))
        sizes = [len(place) for _, place in cells]
        parts = zip(torch.split(loss, sizes), torch.split(gradient, sizes), strict=True)
        out: list[Turned] = []
        for number, (mine, down) in enumerate(parts):
            (kind, place), (which, at) = cells[number], chosen[number]
            if not len(place):
                continue
            count = torch.from_numpy(self.present[place].sum(1)).to(down).clamp(min=1)
            slope = down / count[:, None, None]
            stacks[ranks[number]].step(which, self._change[at], slope, angle)
            index = (kind, place, np.full(len(place), number))
            slopes = slope.flatten(1).any(1).cpu().numpy()
            out.append((index, mine.cpu().numpy().astype(np.float64), slopes))
        return out

    def _gradient(
        self, cells: Sequence[tuple[npt.NDArray[np.int64], ...]], values: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Losses [cell, example], and gradients by the values [cell, example, width]."""
        n = len(self._batch)
        kind = np.concatenate([kind for kind, _ in cells]).repeat(n)
        place = np.concatenate([place for _, place in cells]).repeat(n)
        column = np.tile(np.arange(n), len(values))
        order = np.argsort(place, kind="stable")
        order = order[self.present[place[order], column[order]]]
        rows = Rows(place[order], self._batch[column[order]])
        targets = torch.stack(list(self._answers))[kind[order], rows.example]
        at = torch.from_numpy(order).to(values.device)
        flat = values.flatten(0, 1)
        loss, gradient = self._runs.gradient(rows, flat[at], targets)
        losses = torch.zeros(len(flat), device=values.device)
        losses[at] = loss
        gradients = torch.zeros_like(flat)
        gradients[at] = gradient
        return losses.reshape(-1, n), gradients.reshape(values.shape)
