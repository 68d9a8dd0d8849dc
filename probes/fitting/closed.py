"""Probes that have a formula: difference of means, discriminant analysis, ridge regression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from probes.fitting.moments import Moments

Linear = tuple[Float[Tensor, "site column dim"], Float[Tensor, "site column"]]


def mean_difference(moments: Moments) -> Linear:
    """Scores of the nearest class mean: x·μ_k - |μ_k|²/2. Of two classes, the difference.

    Their direction μ_1 - μ_0 is the one that moving along adds one class and takes the other.
    """
    _, means = moments.class_means()
    return _two(means, -(means**2).sum(-1) / 2)


def discriminant(moments: Moments, l2: float) -> Linear:
    """Linear discriminant analysis (Fisher 1936): x·Σ⁻¹μ_k - μ_k·Σ⁻¹μ_k/2 + log share_k.

    Args:
        l2: added to the diagonal of the summed within-class scatter, like ridge regression's.
    """
    share, means = moments.class_means()
    within = moments.within()
    _add(within, l2)
    solved = _solve(within, means.mT).mT * moments.n
    return _two(solved, -(means * solved).sum(-1) / 2 + share.log())


def ridge(moments: Moments, l2: float) -> Linear:
    """Least squares with l2·|coefficients|², intercept free (Hoerl & Kennard 1970)."""
    gram = moments.xx.clone()
    _add(gram, l2)
    coef = _solve(gram, moments.xt).mT
    return coef, moments.t_mean - (coef * moments.x_mean[:, None]).sum(-1)


@dataclass(frozen=True)
class RidgePath:
    """Ridge regression at several strengths.

    Attributes:
        l2: the strengths [strength].
        coef: [site, strength, target, dim].
        intercept: [site, strength, target].
        left_out: prediction for each example by the probe that never saw it
            [site, strength, example, target].
    """

    l2: tuple[float, ...]
    coef: Float[Tensor, "site strength target dim"]
    intercept: Float[Tensor, "site strength target"]
    left_out: Float[Tensor, "site strength example target"]

    def errors(self, targets: Float[Tensor, "example target"]) -> Float[Tensor, "site strength"]:
        """Mean squared leave-one-out error."""
        return ((self.left_out - targets.to(self.left_out)) ** 2).mean((-2, -1))


def ridge_path(
    x: Float[Tensor, "site example dim"],
    targets: Float[Tensor, "example target"],
    l2: Sequence[float],
) -> RidgePath:
    """All strengths from one decomposition, with exact leave-one-out predictions (Allen 1974).

    Leaving example i out changes its residual by 1/(1 - h_ii), h being the hat matrix, whose
    diagonal is 1/n + Σ_j u_ij² s_j²/(s_j² + l2).
    """
    mean, t_mean = x.double().mean(1, keepdim=True), targets.double().mean(0)
    centred, t = x.double() - mean, targets.double() - t_mean
    u, s, vt = torch.linalg.svd(centred, full_matrices=False)
    projected = u.mT @ t
    strengths = torch.tensor(list(l2), dtype=torch.float64, device=x.device)[:, None]
    squared = (s**2)[:, None]
    kept = s[:, None] > 1e-12 * s.amax(-1)[:, None, None]
    shrunk = torch.where(kept, squared / (squared + strengths), 0.0)
    inner = torch.where(kept, s[:, None] / (squared + strengths), 0.0)
    coef = torch.einsum("skj,sjt,sjd->sktd", inner, projected, vt)
    fitted = torch.einsum("sij,skj,sjt->skit", u, shrunk, projected)
    hat = 1 / x.shape[1] + torch.einsum("sij,skj->ski", u**2, shrunk)
    left_out = targets.double() - (t - fitted) / (1 - hat).clamp(min=1e-12)[..., None]
    intercept = t_mean - torch.einsum("sktd,sd->skt", coef, mean[:, 0])
    return RidgePath(tuple(l2), coef, intercept, left_out)


def _two(coef: Tensor, intercept: Tensor) -> Linear:
    if coef.shape[1] != 2:
        return coef, intercept
    return coef[:, 1:] - coef[:, :1], intercept[:, 1:] - intercept[:, :1]


def _add(matrix: Tensor, l2: float) -> None:
    # Constant features have no scatter; they need no weight either.
    floor = 1e-10 * matrix.diagonal(dim1=1, dim2=2).amax(1, keepdim=True).clamp(min=1e-30)
    matrix.diagonal(dim1=1, dim2=2).add_(torch.clamp(floor, min=l2))


def _solve(matrix: Tensor, right: Tensor) -> Tensor:
    return torch.cholesky_solve(right, torch.linalg.cholesky(matrix))
