"""Right-hand sides, and what comes out for them."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Problems:
    """Right-hand sides that share their features.

    Attributes:
        labels: class of each example, 0 … n_classes - 1 [problem, example].
        weights: how much each example counts, 0 to leave it out [problem, example].
        l2: penalty, scikit-learn's 1/C [site, problem], or [problem] for all sites.
        n_classes: two are told apart by one sigmoid, more by a softmax, as in scikit-learn.
    """

    labels: Int[Tensor, "problem example"]
    weights: Float[Tensor, "problem example"]
    l2: Float[Tensor, "*site problem"]
    n_classes: int

    @property
    def columns(self) -> int:
        """Linear predictors of each problem."""
        return 1 if self.n_classes == 2 else self.n_classes

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Solution:
    """Solved problems.

    Attributes:
        weights: along the axes of the basis [site, problem, column, axis].
        gradient: largest entry of the gradient of the mean loss [site, problem], the measure that
            scikit-learn stops by.
        iterations: steps taken [site, problem].
    """

    weights: Float[Tensor, "site problem column axis"]
    gradient: Float[Tensor, "site problem"]
    iterations: Int[Tensor, "site problem"]
