"""What training has done to each weight: how much, and in how many directions."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor, nn

from cache.arguments import typed
from interp.comparison.pair import ModelPair
from interp.comparison.parts import owners, parts_of
from interp.errors import ModelError
from interp.model.identity.fingerprint import canonical_weights, place
from interp.model.model import Model
from interp.progress import Progress

__all__ = ["changes_between", "weight_difference"]

_Where = tuple[Hashable, int]


@typed
def weight_difference(
    base: Model, tuned: Model, *, top: int = 16, progress: Progress | None = None
) -> xr.Dataset:
    """Compare the weights of two models, one by one and part by part.

    Args:
        base: the model before.
        tuned: the model after, of the same shape.
        top: how many singular values to keep of each change.
        progress: called with (weights done, in all).

    Returns:
        By parameter (Hugging Face's names; a tied one once): norm: of the change, Frobenius;
        base_norm; relative: the first divided by the second; rounding: the most that storing both
        in their dtype can make of no change at all. Of matrices also singular_value(parameter,
        rank) of the change, the largest first; effective_rank: exp of the entropy of the singular
        values as shares of their sum (Roy & Vetterli 2007); stable_rank: the sum of their squares
        divided by the largest one's. NaN where a matrix has not changed, and where the weight is
        no matrix. part_norm(part), part_base_norm and part_relative: of all weights of an
        embedding, attention, MLP …, as in `swap_modules`. Coordinates: layer(parameter) and
        module(parameter), where it belongs, and component(parameter), what TransformerLens calls
        its module.

    Raises:
        ModelError: the models cannot be compared (see `compare_models`).
    """
    return changes_between(ModelPair.of(base, tuned), top, progress)


def changes_between(pair: ModelPair, top: int, progress: Progress | None) -> xr.Dataset:
    """`weight_difference` of models that were looked at."""
    if top < 1:
        raise ModelError(f"{top} singular values show nothing; ask for 1 or more.")
    parts = parts_of(pair.base)
    owned = owners(pair.base, parts)
    called = _components(pair.base)
    names = _each_once(pair.base)
    ranks = max((min(pair.weights[n][0].shape) for n in names if _is_matrix(pair, n)), default=1)
    ranks = min(top, ranks)
    columns = ("norm", "base_norm", "rounding", "effective_rank", "stable_rank")
    table = {name: np.full(len(names), np.nan) for name in columns}
    spectrum = np.full((len(names), ranks), np.nan)
    squares = {part.name: np.zeros(2) for part in parts}
    with pair.locked(), torch.no_grad():
        for row, name in enumerate(names):
            mine, theirs = (_wide(tensor) for tensor in pair.weights[name])
            change = theirs - mine
            norm, before, after = (float(t.norm()) for t in (change, mine, theirs))
            table["norm"][row], table["base_norm"][row] = norm, before
            table["rounding"][row] = _unit_roundoff(pair.weights[name][0].dtype) * (before + after)
            for part in owned[name]:
                squares[part.name] += (norm**2, before**2)
            if _is_matrix(pair, name) and norm > 0:
                values = torch.linalg.svdvals(change).double().cpu().numpy()
                kept = values[:ranks]
                spectrum[row, : len(kept)] = kept
                table["effective_rank"][row] = _effective_rank(values)
                table["stable_rank"][row] = (values**2).sum() / values[0] ** 2
            if progress:
                progress(row + 1, len(names))
        attrs = pair.attrs("weight difference")
    total = np.sqrt(np.array([squares[part.name] for part in parts]))
    homes = [owned[name][0] if owned[name] else None for name in names]
    coords: dict[str, Any] = {
        "parameter": names,
        "rank": np.arange(1, ranks + 1),
        "layer": ("parameter", [home.layer if home else -1 for home in homes]),
        "module": ("parameter", [home.module if home else "" for home in homes]),
        "component": ("parameter", [called.get(name, "") for name in names]),
        "shape": ("parameter", [" × ".join(map(str, pair.weights[n][0].shape)) for n in names]),
        "part": [part.name for part in parts],
        "part_layer": ("part", [part.layer for part in parts]),
        "part_module": ("part", [part.module for part in parts]),
    }
    variables: dict[str, Any] = {name: ("parameter", values) for name, values in table.items()}
    variables["relative"] = ("parameter", _ratio(table["norm"], table["base_norm"]))
    variables["singular_value"] = (("parameter", "rank"), spectrum)
    variables["part_norm"] = ("part", total[:, 0])
    variables["part_base_norm"] = ("part", total[:, 1])
    variables["part_relative"] = ("part", _ratio(total[:, 0], total[:, 1]))
    return xr.Dataset(variables, coords, attrs)


def _each_once(model: Model) -> list[str]:
    """The names of the weights, of which one stands for each tensor."""
    with model.unread():
        weights = canonical_weights(model.bridge.original_model)
    seen: set[_Where] = set()
    names = []
    for name, mine in weights.items():
        if _where(mine) not in seen and mine.is_floating_point():
            names.append(name)
        seen.add(_where(mine))
    return names


def _is_matrix(pair: ModelPair, name: str) -> bool:
    return pair.weights[name][0].ndim == 2


def _wide(tensor: Tensor) -> Tensor:
    """In float32 at least: differences of half precision are lost in half precision."""
    return tensor.detach() if tensor.dtype == torch.float64 else tensor.detach().float()


def _unit_roundoff(dtype: torch.dtype) -> float:
    """The most by which storing a number moves it, relative to its size."""
    return torch.finfo(dtype).eps / 2


def _effective_rank(values: Float[np.ndarray[Any, Any], " rank"]) -> float:
    shares = values[values > 0] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _ratio(change: np.ndarray[Any, Any], before: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(before > 0, change / before, np.nan)


def _components(model: Model) -> dict[str, str]:
    """By Hugging Face's name what TransformerLens calls the module that a weight lies in.

    Of a fused matrix it is the module that holds all of it, and not the copies cut out of it.
    """
    with model.unread():
        return _named(model)


def _named(model: Model) -> dict[str, str]:
    found: dict[_Where, str] = {}
    homes = [("", model.bridge), *((f"blocks.{i}.", b) for i, b in enumerate(model.bridge.blocks))]
    for prefix, home in homes:
        _name_weights(home, prefix, found)
    held = canonical_weights(model.bridge.original_model)
    return {name: found[_where(t)] for name, t in held.items() if _where(t) in found}


def _name_weights(home: Any, prefix: str, found: dict[_Where, str]) -> None:
    for name, part in home.named_children():
        inside = getattr(part, "original_component", None)
        if name == "blocks" or name.startswith("_") or not isinstance(inside, nn.Module):
            continue
        for parameter in inside._parameters.values():
            if parameter is not None:
                found.setdefault(_where(parameter), prefix + name)
        _name_weights(part, f"{prefix}{name}.", found)


def _where(tensor: Tensor) -> _Where:
    """Where it lies in memory, and how much there is: a copy cut out of a matrix may lie in it."""
    return place(tensor), tensor.numel()
