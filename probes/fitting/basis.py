"""Coordinates in which many probes on the same features are easy to solve together.

Features are centred (the intercept is not penalised, so this changes no solution), and one
factorisation of their Gram matrix serves every right-hand side: labels, folds, bootstraps and
strengths of regularisation differ little from it once they are seen in its eigenbasis.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from probes.fitting.workspace import Workspace

_TINY = 1e-30


@dataclass(frozen=True)
class Basis:
    """Features of some sites, centred, with a column of ones for the intercept.

    Attributes:
        features: [site, example, axis]; the last axis is the ones.
        mean: what was subtracted [site, 1, dim].
        spectrum: squared norm of each column [site, 1, axis].
        rotation: from axes to dims [site, dim, axis - 1]; None where axes are dims.
        factor: Cholesky factor of the preconditioner [site, axis, axis]; None where the spectrum
            is one.
    """

    features: Float[Tensor, "site example axis"]
    mean: Float[Tensor, "site 1 dim"]
    spectrum: Float[Tensor, "site 1 axis"]
    rotation: Float[Tensor, "site dim axis"] | None = None
    factor: Float[Tensor, "site axis axis"] | None = None

    @property
    def variance(self) -> Float[Tensor, " site"]:
        """Mean variance of a site's dims, which strengths are relative to; 1 where all is constant.

        So no unit of the features matters, and no rotation.
        """
        n, dims = self.features.shape[1], self.mean.shape[2]
        found = self.spectrum[:, 0, :-1].sum(1) / (n * dims)
        return torch.where(found > 0, found, 1.0)

    def solve(
        self, gradient: Float[Tensor, "site column axis"]
    ) -> Float[Tensor, "site column axis"]:
        """What the factored preconditioner makes of gradients."""
        if self.factor is None:
            raise ValueError("this basis is preconditioned by its spectrum")
        return torch.cholesky_solve(gradient.mT, self.factor).mT.contiguous()

    def coefficients(
        self, weights: Float[Tensor, "site column axis"]
    ) -> tuple[Float[Tensor, "site column dim"], Float[Tensor, "site column"]]:
        """Coefficients and intercepts for the features as they were given."""
        inner = weights[..., :-1]
        coef = inner if self.rotation is None else inner @ self.rotation.mT
        return coef, weights[..., -1] - (coef @ self.mean.mT)[..., 0]

    def largest_gradient(
        self, gradient: Float[Tensor, "site column axis"]
    ) -> Float[Tensor, "site column"]:
        """The largest entry of the gradient by coefficients and intercept as given."""
        inner, ones = gradient[..., :-1], gradient[..., -1:]
        if self.rotation is not None:
            inner = inner @ self.rotation.mT
        # Moving a coefficient also moves what the mean contributes.
        return torch.maximum((inner + ones * self.mean).abs().amax(-1), ones[..., 0].abs())


def plain(x: Float[Tensor, "site example dim"], workspace: Workspace) -> Basis:
    """Axes are dims, and the preconditioner is diagonal: all that a few steps need.

    Args:
        x: the features.
        workspace: holds the basis' features, until it is used for the next.
    """
    mean = x.mean(1, keepdim=True)
    features = workspace.take("features", (*x.shape[:2], x.shape[2] + 1), x)
    torch.sub(x, mean, out=features[..., :-1])
    features[..., -1] = 1
    return Basis(features, mean, features.square().sum(1, keepdim=True))


def factored(basis: Basis, l2: float, curvature: float) -> Basis:
    """A plain basis with the Cholesky factor of the Hessian at zero, for one problem a site.

    Args:
        basis: from `plain`.
        l2: of the problem.
        curvature: of the loss by the linear predictor at zero: 1/4 for two classes, 1/k for k.
    """
    hessian = curvature * (basis.features.mT @ basis.features)
    diagonal = hessian.diagonal(dim1=1, dim2=2)
    # The intercept has no penalty and needs none; constant features would have no inverse.
    floor = 10 * float(torch.finfo(hessian.dtype).eps) * diagonal.amax(1, keepdim=True)
    diagonal.add_(torch.clamp(floor, min=l2))
    return replace(basis, factor=torch.linalg.cholesky(hessian))


def rotated(x: Float[Tensor, "site example dim"]) -> Basis:
    """A basis for many problems a site: the eigenvectors of the Gram matrix.

    With fewer examples than dims the axes are those of the examples' Gram matrix, of which there
    are no more than examples; no solution has a part outside of them. Decomposed in float64.
    """
    sites, n, dim = x.shape
    mean = x.mean(1, keepdim=True)
    centred = x - mean
    if n < dim:
        wide = centred.double()
        values, left = torch.linalg.eigh(wide @ wide.mT)
        values = values.clamp(min=0)
        scale = values.sqrt()
        kept = scale > 1e-7 * scale.amax(1, keepdim=True)
        inverse = torch.where(kept, 1 / scale.clamp(min=_TINY), torch.zeros_like(scale))
        rotation = wide.mT @ (left * inverse[:, None])
        inner = left * torch.where(kept, scale, torch.zeros_like(scale))[:, None]
    else:
        values, rotation = torch.linalg.eigh((centred.mT @ centred).double())
        rotation = rotation.to(x.dtype)
        inner = centred @ rotation
    features = x.new_empty(sites, n, inner.shape[2] + 1)
    features[..., :-1] = inner
    features[..., -1] = 1
    spectrum = torch.cat([values.clamp(min=0), torch.full_like(values[:, :1], n)], 1)
    return Basis(features, mean, spectrum.to(x.dtype)[:, None], rotation.to(x.dtype))
