"""Sufficient statistics of features and targets, gathered batch by batch.

Difference of means, discriminant analysis, ridge regression and concept erasure need nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cache.arguments import typed
from interp.errors import ProbeError


@typed
@dataclass(frozen=True)
class Moments:
    """Count, means and centred second moments, float64.

    Attributes:
        n: examples seen.
        x_mean, t_mean: means [site, dim] and [target].
        xx: Σ (x - mean)(x - mean)ᵀ [site, dim, dim].
        xt: Σ (x - mean)(t - mean)ᵀ [site, dim, target].
        tt: Σ (t - mean)(t - mean)ᵀ [target, target].
    """

    n: int
    x_mean: Float[Tensor, "site dim"]
    t_mean: Float[Tensor, " target"]
    xx: Float[Tensor, "site dim dim"]
    xt: Float[Tensor, "site dim target"]
    tt: Float[Tensor, "target target"]

    @classmethod
    def of(
        cls, x: Float[Tensor, "site example dim"], targets: Float[Tensor, "example target"]
    ) -> Moments:
        """Those of one batch. Class labels go in as one-hot targets.

        Products are taken in the features' own precision, after centring.
        """
        if x.shape[1] != len(targets):
            raise ProbeError(
                f"{x.shape[1]} examples do not fit {len(targets)} targets; give one for each."
            )
        mean, t_mean = x.double().mean(1), targets.double().mean(0)
        centred = x - mean.to(x.dtype)[:, None]
        t = (targets.double() - t_mean).to(x)
        return cls(
            x.shape[1],
            mean,
            t_mean.to(mean),
            (centred.mT @ centred).double(),
            (centred.mT @ t).double(),
            (t.mT @ t).double(),
        )

    def __add__(self, other: Moments) -> Moments:
        """Those of both batches together (Chan, Golub & LeVeque 1979)."""
        n = self.n + other.n
        dx, dt = other.x_mean - self.x_mean, other.t_mean - self.t_mean
        weight = self.n * other.n / n
        return Moments(
            n,
            self.x_mean + dx * (other.n / n),
            self.t_mean + dt * (other.n / n),
            self.xx + other.xx + weight * dx[:, :, None] * dx[:, None, :],
            self.xt + other.xt + weight * dx[:, :, None] * dt,
            self.tt + other.tt + weight * torch.outer(dt, dt),
        )

    def class_means(self) -> tuple[Float[Tensor, " target"], Float[Tensor, "site target dim"]]:
        """Shares of the classes, and the mean of each, where targets are one-hot."""
        share = self.t_mean
        # Σ (x - mean) over a class is the column of xt.
        shift = self.xt.mT / (self.n * share)[:, None]
        return share, self.x_mean[:, None] + shift

    def within(self) -> Float[Tensor, "site dim dim"]:
        """Scatter of the features around the mean of their own class."""
        share, means = self.class_means()
        shift = (means - self.x_mean[:, None]) * (self.n * share).sqrt()[:, None]
        return self.xx - shift.mT @ shift
