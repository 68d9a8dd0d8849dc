"""Many subspaces at once: stacked orthonormal rows that are turned by a Riemannian Adam.

A subspace R [rank, width] with orthonormal rows changes a difference d into d Rᵀ R. Only the
subspace matters, not which rows span it; so gradients are those on the Grassmann manifold (Edelman,
Arias & Smith 1998), and each step ends with rows made orthonormal again. No decomposition is
differentiated.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

_DECAY = (0.9, 0.99)


def random_rotations(
    count: int, rank: int, width: int, seed: tuple[int, ...], like: Tensor
) -> Float[Tensor, "subspace rank width"]:
    """Subspaces drawn evenly; the same for the same seed, on any device."""
    drawn = np.random.default_rng(seed).standard_normal((count, width, rank))
    rows: Tensor = torch.linalg.qr(torch.from_numpy(drawn))[0].mT.contiguous().to(like)
    return rows


def moved(
    rotations: Float[Tensor, "subspace rank width"], change: Float[Tensor, "subspace row width"]
) -> Float[Tensor, "subspace row width"]:
    """The part of each change that lies in the subspace."""
    return change @ rotations.mT @ rotations


class Rotations:
    """Subspaces of one rank, and the moments of their gradients.

    Attributes:
        rows: [subspace, rank, width], orthonormal.
    """

    def __init__(self, rows: Float[Tensor, "subspace rank width"]) -> None:
        self.rows = rows.clone()
        self._first = torch.zeros_like(rows)
        self._second = torch.zeros_like(rows)
        self._steps = 0

    def step(
        self,
        chosen: Tensor,
        change: Float[Tensor, "chosen row width"],
        gradient: Float[Tensor, "chosen row width"],
        angle: float,
    ) -> None:
        """Turn some of the subspaces downhill.

        Args:
            chosen: which, ascending.
            change: what was projected onto each.
            gradient: of the loss by what came out.
            angle: about how far each row is turned, in radians.
        """
        self._steps += 1
        every = len(chosen) == len(self.rows)
        at = slice(None) if every else chosen  # nothing is copied where all are turned
        rows = self.rows[at]
        back, forth = gradient @ rows.mT, change @ rows.mT  # [chosen, row, rank]
        slope = _tangent(forth.mT @ gradient + back.mT @ change, rows)
        first = self._first[at].lerp(slope, 1 - _DECAY[0])
        second = self._second[at].lerp(slope.square(), 1 - _DECAY[1])
        self._first[at], self._second[at] = first, second
        first = first / (1 - _DECAY[0] ** self._steps)
        size = (second / (1 - _DECAY[1] ** self._steps)).sqrt()
        # Relative to the largest, so that what hardly matters to the loss is hardly turned.
        floor = 1e-8 + 1e-4 * size.amax((1, 2), keepdim=True)
        turn = _tangent(first / (size + floor), rows)
        self.rows[at] = orthonormal(rows - angle / math.sqrt(rows.shape[2]) * turn)


def orthonormal(rows: Float[Tensor, "... rank width"]) -> Float[Tensor, "... rank width"]:
    """Orthonormal rows of the same span; the given ones must be nearly so."""
    triangle = torch.linalg.cholesky(rows @ rows.mT)
    found: Tensor = torch.linalg.solve_triangular(triangle, rows, upper=False)
    return found


def _tangent(slope: Tensor, rows: Tensor) -> Tensor:
    """What of a slope turns the subspace, rather than its rows within it."""
    return slope - slope @ rows.mT @ rows
