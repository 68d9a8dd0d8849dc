"""Taking a concept out of activations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cache.arguments import typed
from probes.fitting.moments import Moments

_SMALLEST = 1e-8  # of the largest eigenvalue; directions below have no variance


@typed
@dataclass(frozen=True)
class Eraser:
    """The smallest change after which no linear probe does better than a constant.

    Least-squares concept erasure (LEACE, Belrose et al. 2023): x - W⁺ P W (x - mean), with W the
    whitening of the features and P the projection onto the whitened cross-covariance.

    Attributes:
        mean: [site, dim].
        remove: W⁺P, columns that are taken out [site, dim, rank].
        read: PᵀW, rows that read how much [site, rank, dim].
    """

    mean: Float[Tensor, "site dim"]
    remove: Float[Tensor, "site dim rank"]
    read: Float[Tensor, "site rank dim"]

    @classmethod
    def fit(cls, moments: Moments) -> Eraser:
        """From the moments of features and (one-hot) targets."""
        values, vectors = torch.linalg.eigh(moments.xx / moments.n)
        kept = values > _SMALLEST * values.amax(-1, keepdim=True)
        root = torch.where(kept, values.clamp(min=0).sqrt(), 0.0)
        inverse = torch.where(kept, 1 / root.clamp(min=1e-150), 0.0)
        whiten = (vectors * inverse[:, None]) @ vectors.mT
        colour = (vectors * root[:, None]) @ vectors.mT
        u, s, _ = torch.linalg.svd(whiten @ moments.xt, full_matrices=False)
        spanned = u * (s > _SMALLEST * s.amax(-1, keepdim=True).clamp(min=1e-30))[:, None]
        return cls(moments.x_mean, colour @ spanned, spanned.mT @ whiten)

    def __call__(self, x: Float[Tensor, "site example dim"]) -> Float[Tensor, "site example dim"]:
        """The features without the concept."""
        told = (x - self.mean.to(x)[:, None]) @ self.read.to(x).mT
        return x - told @ self.remove.to(x).mT
