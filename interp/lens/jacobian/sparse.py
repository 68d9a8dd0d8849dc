"""Vectors as sums of a few tokens' directions, none of them taken away."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from interp.model.model import Model

__all__ = ["decomposition", "pursuit"]

# Shares of a vector's length: nothing that a further direction would explain in float32, and no
# more than the error of the fit.
_ENOUGH = float(np.finfo(np.float32).eps) ** 0.5
_NOTHING = float(np.finfo(np.float64).eps) ** 0.5


@torch.no_grad()
def decomposition(
    model: Model,
    matrix: Float[Tensor, "d_model d_model"],
    vectors: Float[Tensor, "example d_model"],
    layer: int,
    k: int,
) -> xr.Dataset:
    """See `JacobianLens.decompose`."""
    unembedding: Tensor = model.bridge.W_U.float()
    atoms = unembedding.T @ matrix.to(unembedding.device)
    ids = np.full((len(vectors), k), -1, dtype=np.int64)
    tokens = np.full(ids.shape, "", dtype=object)
    coordinates, explained = np.full(ids.shape, np.nan), np.zeros(len(vectors))
    for example, vector in enumerate(vectors):
        chosen, values, explained[example] = pursuit(vector.to(atoms.device), atoms, k)
        ids[example, : len(chosen)] = chosen.numpy()
        coordinates[example, : len(chosen)] = values
        tokens[example, : len(chosen)] = model.token_strings(chosen.tolist())
    dims = ("example", "k")
    variables: dict[str, Any] = {
        "token": (dims, tokens),
        "id": (dims, ids),
        "coordinate": (dims, coordinates),
        "explained": ("example", explained),
    }
    attrs = {"instrument": "Jacobian lens decomposition", "layer": layer, **model.identity}
    return xr.Dataset(variables, attrs=attrs)


def pursuit(
    vector: Float[Tensor, " d_model"], atoms: Float[Tensor, "token d_model"], k: int
) -> tuple[Int[Tensor, " chosen"], npt.NDArray[np.float64], float]:
    """Orthogonal matching pursuit with coefficients that are not negative.

    The direction most like what is left is taken next, and all coefficients are fitted anew
    (Lawson & Hanson 1974), until `k` are chosen or none points the same way as what is left.

    Returns:
        The chosen rows of `atoms`, their coefficients, both by what each contributes, and the share
        of the squared length that they explain.
    """
    from scipy.optimize import nnls

    # Of length 1, whatever the unit: squares of what is very long or short leave float32.
    whole = float(vector.double().norm())
    vector = (vector.double() / whole).to(vector) if whole else vector
    norms = atoms.norm(dim=1)
    length = float(vector.norm())
    left, chosen = vector, torch.zeros(0, dtype=torch.long)
    coefficients: npt.NDArray[np.float64] = np.zeros(0)
    usable = norms > 0
    exact = vector.double().cpu().numpy()
    while len(chosen) < k and length > 0:
        alike = torch.where(usable, (atoms @ left) / norms.clamp(min=1e-30), -torch.inf)
        alike[chosen.to(alike.device)] = -torch.inf
        best = int(alike.argmax())
        if float(alike[best]) <= _ENOUGH * length:
            break
        chosen = torch.cat([chosen, torch.tensor([best])])
        columns = atoms[chosen.to(atoms.device)].double().cpu().numpy().T
        coefficients = nnls(columns, exact)[0]
        left = torch.from_numpy(exact - columns @ coefficients).to(vector)
    shares = coefficients * norms.cpu().double().numpy()[chosen.numpy()]
    order = np.argsort(-shares, kind="stable")
    order = order[shares[order] > _NOTHING * length]
    explained = 1.0 - (float(left.norm()) / length) ** 2 if length else 0.0
    return chosen[torch.from_numpy(order)], coefficients[order] * whole, explained
