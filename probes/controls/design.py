"""Everything that a report fits on each site: drawn once, the same for all sites."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from probes.controls import splits
from probes.controls.shuffling import shuffles
from probes.fitting import Problems
from probes.labels import Codes, Labels

TRUE, CONTROL = 0, 1


@dataclass(frozen=True)
class Design:
    """Labels, and who is trained on, of about 150 problems.

    Attributes:
        labels: the classes.
        groups: of the examples, as numbers.
        fold_of: the fold in which each example is tested.
        control: control labels.
        nulls: shuffled labels [null, example].
        null_folds: the fold in which each example is tested with shuffled labels: that of the group
            which it has its labels from, so that folds stay as alike as they were made
            [null, example].
        resamples: how often each example is drawn [bootstrap, example].
        order, ends: see `splits.prefixes`.
        strengths: relative penalties.
    """

    labels: Labels
    groups: Codes
    fold_of: Codes
    control: Codes
    nulls: npt.NDArray[np.int64]
    null_folds: npt.NDArray[np.int64]
    resamples: splits.Floats
    order: Codes
    ends: tuple[int, ...]
    strengths: tuple[float, ...]

    @classmethod
    def draw(
        cls,
        labels: Labels,
        groups: Codes,
        types: Codes,
        *,
        strengths: Sequence[float],
        folds: int,
        nulls: int,
        bootstraps: int,
        prefixes: int,
        seed: int,
        turned: bool = False,
    ) -> Design:
        """Each part has random numbers of its own, so that asking for more of one leaves others.

        Args:
            turned: see `splits.shuffled`.
        """
        rngs = np.random.default_rng(seed).spawn(5)
        control = splits.control_labels(labels.codes, types, rngs[1])
        both = np.stack([labels.codes, control])
        order, ends = splits.prefixes(both, groups, prefixes, rngs[4])
        fold_of = splits.folds(labels, groups, folds, rngs[0])
        dealt = shuffles(labels, groups, fold_of, nulls, rngs[2], turned=turned)
        return cls(
            labels,
            groups,
            fold_of,
            control,
            *dealt,
            splits.resamples(labels.codes, groups, bootstraps, rngs[3]),
            order,
            ends,
            tuple(strengths),
        )

    @property
    def folds(self) -> int:
        return int(self.fold_of.max()) + 1

    @property
    def n_problems(self) -> int:
        """How many probes are fitted on each site."""
        n_prefixes = 2 * (len(self.ends) - 1)
        rest = len(self.nulls) * self.folds + len(self.resamples) + n_prefixes
        return int(np.prod(self.path_shape)) + rest

    @property
    def path_shape(self) -> tuple[int, int, int]:
        """Problems of `path`: labels (true, control) × strengths × (folds, and all examples)."""
        return 2, len(self.strengths), self.folds + 1

    def training(self) -> splits.Floats:
        """1 where an example is trained on [fold, example]; the last row is all examples."""
        out = [self.fold_of != fold for fold in range(self.folds)]
        return np.stack([*out, np.ones_like(out[0])]).astype(np.float64)

    def null_training(self) -> splits.Floats:
        """The same with shuffled labels, without the last row [null, fold, example]."""
        tested = self.null_folds[:, None] == np.arange(self.folds)[:, None]
        training: splits.Floats = (~tested).astype(np.float64)
        return training

    def prefix_training(self) -> splits.Floats:
        """1 where an example is in the prefix before a block [block, example]."""
        seen = np.zeros((len(self.ends) - 1, len(self.labels)))
        for row, end in zip(seen, self.ends, strict=False):
            row[self.order[:end]] = 1
        return seen

    def counts(self, codes: Codes, trained: npt.NDArray[np.bool_]) -> Codes:
        """How many of the examples that are trained on [example] are of each class [class]."""
        return np.bincount(codes[trained], minlength=self.labels.n_classes)

    def path(self, scale: Tensor) -> Problems:
        """Every strength on every fold, for true and control labels.

        Args:
            scale: of the penalties [site].
        """
        shape = (*self.path_shape, len(self.labels))
        codes = np.stack([self.labels.codes, self.control])[:, None, None]
        l2 = np.broadcast_to(np.array(self.strengths)[None, :, None], self.path_shape).reshape(-1)
        return Problems(
            _flat(codes, shape, scale).long(),
            _flat(self.training(), shape, scale),
            scale[:, None] * torch.as_tensor(l2).to(scale),
            self.labels.n_classes,
        )

    @property
    def middle(self) -> int:
        """Index of the strength that true and shuffled labels are compared at."""
        return len(self.strengths) // 2

    def rest(self, null_l2: Tensor, l2: Tensor, control_l2: Tensor) -> Problems:
        """Shuffled labels on every fold, resampled groups, and prefixes.

        Args:
            null_l2: penalty for shuffled labels [site].
            l2: penalty for true labels [site].
            control_l2: penalty for control labels [site].
        """
        n, blocks = len(self.labels), len(self.ends) - 1
        grid = (len(self.nulls), self.folds, n)
        seen = self.prefix_training()
        codes = np.concatenate(
            [
                np.broadcast_to(self.nulls[:, None], grid).reshape(-1, n),
                np.broadcast_to(self.labels.codes, (len(self.resamples), n)),
                np.broadcast_to(self.labels.codes, (blocks, n)),
                np.broadcast_to(self.control, (blocks, n)),
            ]
        )
        weights = np.concatenate(
            [
                self.null_training().reshape(-1, n),
                self.resamples,
                seen,
                seen,
            ]
        )
        counts = len(self.nulls) * self.folds, len(self.resamples) + blocks, blocks
        penalties = torch.cat(
            [
                each[:, None].expand(-1, count)
                for each, count in zip((null_l2, l2, control_l2), counts, strict=True)
            ],
            1,
        )
        return Problems(
            torch.as_tensor(codes, device=l2.device),
            torch.as_tensor(weights).to(l2),
            penalties,
            self.labels.n_classes,
        )


def _flat(values: npt.NDArray[np.generic], shape: tuple[int, ...], like: Tensor) -> Tensor:
    wide = np.ascontiguousarray(np.broadcast_to(values, shape)).reshape(-1, shape[-1])
    return torch.as_tensor(wide).to(like)
