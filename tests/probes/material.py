"""Data on which probes are tried."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def data(
    name: str, n_classes: int = 2, sites: int = 2, seed: int = 0
) -> tuple[Array, npt.NDArray[np.int64]]:
    """Features [site, example, dim] and labels [example] of one of the hard kinds below."""
    rng = np.random.default_rng(seed)
    n, dim = (40, 90) if name == "n < d" else (300, 12)
    share = None if name != "unbalanced" else [0.95, *[0.05 / (n_classes - 1)] * (n_classes - 1)]
    labels = rng.choice(n_classes, n, p=share)
    labels[: 3 * n_classes] = np.repeat(np.arange(n_classes), 3)
    x = rng.standard_normal((sites, n, dim))
    strength = 12.0 if name == "separable" else 0.7
    x[..., :n_classes] += strength * np.eye(n_classes)[labels]
    if name == "collinear":
        x[..., 5] = x[..., 0] + x[..., 1]
        x[..., 6] = 3 * x[..., 2]
    if name == "constant feature":
        x[..., 7] = 4.0
        x[..., 8] = 0.0
    if name == "far from zero":
        x += 300 * rng.standard_normal(dim)
    if name == "unequal scales":
        x *= 10.0 ** rng.uniform(-2, 2, dim)
    return x, labels


KINDS = (
    "plain",
    "separable",
    "unbalanced",
    "collinear",
    "constant feature",
    "n < d",
    "far from zero",
    "unequal scales",
)
