"""Probes at all sites at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cache.arguments import Seed, typed
from interp.errors import ProbeError
from probes.features import Features, fittable
from probes.fitting import (
    Basis,
    Problems,
    Solution,
    Workspace,
    closed,
    factored,
    plain,
    rotated,
    solve,
)
from probes.fitting.mlp import fit_mlp
from probes.fitting.moments import Moments
from probes.fitting.parallel import over_sites
from probes.labels import Labels, encode
from probes.probes import Probes

Kind = Literal["logistic", "ridge", "lda", "mean", "mlp"]
KINDS: tuple[Kind, ...] = ("logistic", "ridge", "lda", "mean", "mlp")
# Features of sites solved in one batch: enough to spread the cost of each step, few enough to stay
# in the processor's cache.
_BATCH = 8 << 20
# Below so many dims the eigenvectors of all features are had faster than many steps without them.
WIDE = 1024
# A fit is soon done if after so many steps its gradient is within so many tolerances.
_TRIAL, _PROMISING = 8, 50


@typed
def fit_probes(
    features: Any,
    labels: Any,
    kind: Kind = "logistic",
    *,
    l2: float = 1.0,
    tol: float = 1e-4,
    max_iter: int = 1000,
    neurons: int = 32,
    seed: Seed = 0,
) -> Probes:
    """Fit one probe for each site, all on the same labels.

    What a probe decodes means little by itself; `probe_report` adds what it has to be compared
    with.

    Args:
        features: `Features`, an xarray.DataArray [site, example, dim], or numbers of this shape or
            [example, dim]. Computed in float64 where they are float64, else in float32.
        labels: one for each example: classes, or with kind="ridge" numbers too [example] or
            [example, target].
        kind: "logistic" (two classes or more), "ridge", "lda", "mean" (difference of means), or
            "mlp" (one hidden layer, for comparison).
        l2: penalty: scikit-learn's 1/C for "logistic" and alpha for "ridge"; "lda" adds it to the
            within-class scatter; "mean" has none.
        tol: logistic probes are done when no entry of the mean loss' gradient exceeds this,
            scikit-learn's measure.
        max_iter: most steps of a logistic probe.
        neurons: of the hidden layer of "mlp".
        seed: of the starting weights of "mlp".

    Raises:
        ProbeError: features or labels do not make a probe; the message says why.
    """
    if l2 < 0 or (l2 == 0 and kind in ("logistic", "mlp")):
        raise ProbeError(
            "The penalty l2 must be positive: without one, classes that can be separated have no "
            "best probe."
        )
    found = fittable(features)
    settings: dict[str, str | int | float] = {"kind": kind, "l2": l2, "examples": len(found)}
    if kind == "ridge" and _are_numbers(labels):
        targets = _targets(labels, found)
        coef, intercept = closed.ridge(Moments.of(found.values, targets), l2)
        return _linear(found, "ridge", coef, intercept, (), settings)
    encoded = encode(labels, len(found))
    if kind == "logistic":
        return _logistic(found, encoded, l2, tol, max_iter, settings | {"tol": tol})
    if kind == "mlp":
        return _mlp(found, encoded, l2, neurons, seed, settings | {"neurons": neurons})
    moments = Moments.of(found.values, one_hot(encoded, found.values))
    if kind == "mean":
        coef, intercept = closed.mean_difference(moments)
    elif kind == "lda":
        coef, intercept = closed.discriminant(moments, l2)
    else:
        coef, intercept = _signed(*closed.ridge(moments, l2))
    return _linear(found, kind, coef, intercept, encoded.classes, settings)


def one_hot(labels: Labels, like: Tensor) -> Float[Tensor, "example class"]:
    """Labels as columns of 0 and 1."""
    return torch.eye(labels.n_classes, dtype=like.dtype)[labels.codes].to(like.device)


def batches_of_sites(values: Float[Tensor, "site example dim"], most: int = _BATCH) -> list[slice]:
    """Sites in batches of at most so many bytes, at least one site each."""
    size = max(1, most // max(1, values[0].numel() * values.element_size()))
    return [slice(i, i + size) for i in range(0, len(values), size)]


Fitted = tuple[Tensor, Tensor, Tensor, Tensor]
"""Coefficients, intercepts, gradients and steps of some sites."""


def _told(basis: Basis, solution: Solution) -> Fitted:
    coef, intercept = basis.coefficients(solution.weights[:, 0])
    return coef, intercept, solution.gradient[:, 0], solution.iterations[:, 0]


def _logistic(
    found: Features,
    labels: Labels,
    l2: float,
    tol: float,
    max_iter: int,
    settings: dict[str, str | int | float],
) -> Probes:
    n, x = len(found), found.values
    problem = Problems(
        torch.as_tensor(labels.codes, device=x.device)[None],
        x.new_ones(1, n),
        x.new_tensor([l2]),
        labels.n_classes,
    )
    curvature = 0.25 if labels.n_classes == 2 else 1 / labels.n_classes

    def in_eigenvectors(some: slice, work: Workspace) -> Fitted:
        basis = rotated(x[some])
        return _told(basis, solve(basis, problem, tol=tol, max_iter=max_iter, workspace=work))

    def in_dims(some: slice, work: Workspace) -> Fitted:
        basis = plain(x[some], work)
        # A factor costs about as much as so many steps without one; after the first few one sees
        # whether they will do.
        few = min(max_iter, max(5, found.dim // 10))
        trial = _TRIAL, _PROMISING * tol
        solution = solve(basis, problem, tol=tol, max_iter=few, trial=trial, workspace=work)
        steps = solution.iterations
        left = max_iter - int(steps.max())
        if left > 0 and bool((solution.gradient > tol).any()):
            basis = factored(basis, l2, curvature)
            start = solution.weights
            solution = solve(basis, problem, tol=tol, max_iter=left, start=start, workspace=work)
            solution = replace(solution, iterations=steps + solution.iterations)
        return _told(basis, solution)

    fit = in_dims if n >= found.dim > WIDE else in_eigenvectors
    parts = list(over_sites(fit, batches_of_sites(x), x.device))
    coef, intercept, gradient, iterations = (torch.cat(of) for of in zip(*parts, strict=True))
    return Probes(
        "logistic",
        coef,
        intercept,
        found.sites,
        labels.classes,
        settings,
        _identity(found),
        gradient,
        iterations,
    )


def _mlp(
    found: Features,
    labels: Labels,
    l2: float,
    neurons: int,
    seed: int,
    settings: dict[str, str | int | float],
) -> Probes:
    codes = torch.as_tensor(labels.codes, device=found.values.device)
    weight, bias, coef, intercept = fit_mlp(
        found.values, codes, labels.n_classes, l2=l2, neurons=neurons, seed=seed
    )
    return Probes(
        "mlp",
        coef,
        intercept,
        found.sites,
        labels.classes,
        settings | {"seed": seed},
        _identity(found),
        hidden=(weight, bias),
    )


def _linear(
    found: Features,
    kind: str,
    coef: Tensor,
    intercept: Tensor,
    classes: Sequence[str],
    settings: dict[str, str | int | float],
) -> Probes:
    like = found.values
    return Probes(
        kind,
        coef.to(like),
        intercept.to(like),
        found.sites,
        tuple(classes),
        settings,
        _identity(found),
    )


def _signed(coef: Tensor, intercept: Tensor) -> tuple[Tensor, Tensor]:
    """Regression on 0/1 columns as scores; of two classes the difference, zero in the middle."""
    if coef.shape[1] != 2:
        return coef, intercept
    return coef[:, 1:] - coef[:, :1], intercept[:, 1:] - intercept[:, :1]


def _identity(found: Features) -> dict[str, str]:
    return {**found.identity, "obverse_version": version("obverse")}


def _are_numbers(labels: Any) -> bool:
    values = np.asarray(labels.detach().cpu() if isinstance(labels, Tensor) else labels)
    return values.dtype.kind == "f"


def _targets(labels: Any, found: Features) -> Tensor:
    targets = torch.as_tensor(labels).to(found.values)
    targets = targets[:, None] if targets.ndim == 1 else targets
    if targets.ndim != 2 or len(targets) != len(found):
        raise ProbeError(
            f"There are {len(found)} examples but targets of shape {tuple(targets.shape)}; give "
            "one row for each."
        )
    if not bool(torch.isfinite(targets).all()):
        raise ProbeError("The targets are not finite; leave such examples out.")
    return targets
