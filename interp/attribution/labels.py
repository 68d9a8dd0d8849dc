"""Shares of a logit as a result with names that a person can read."""

from __future__ import annotations

from typing import Literal

import numpy as np
import xarray as xr
from torch import Tensor

from interp.model.model import Model
from interp.prompts.pairs import PromptPairs, Run
from interp.prompts.tokens import TokenBatch, token_table

__all__ = ["By", "component_names", "labelled", "with_questions"]

By = Literal["component", "head", "neurons", "source"]


def labelled(
    model: Model,
    shares: dict[str, Tensor],
    by: By,
    groups: tuple[int | str, ...],
    batch: TokenBatch,
) -> xr.Dataset:
    """The shares by name, with the coordinates of their axes."""
    axes: dict[str, tuple[str, ...]] = {
        "component": ("component",),
        "head": ("component",),
        "neurons": ("layer", "neurons"),
        "source": ("layer", "head", "source"),
    }
    found = xr.Dataset(
        {
            name: (("example", *(axes[by] if name == "contribution" else ())), value.numpy())
            for name, value in shares.items()
        },
        coords={"prompt": ("example", list(batch.texts))},
    )
    if by in ("component", "head"):
        names, layers, heads = zip(*component_names(model, by), strict=True)
        return found.assign_coords(
            component=list(names),
            layer=("component", np.array(layers)),
            head=("component", np.array(heads)),
        )
    found = found.assign_coords(layer=np.arange(model.n_layers))
    if by == "neurons":
        return found.assign_coords(neurons=list(groups))
    return found.assign_coords(
        head=np.arange(model.n_heads),
        source=np.arange(batch.ids.shape[1]),
        token=(("example", "source"), token_table(model, batch)),
    )


def component_names(model: Model, by: By) -> list[tuple[str, int, int]]:
    """Name, layer and head of each component, in the order of the model; -1 for what it has not."""
    out = [("input", -1, -1)]
    for layer in range(model.n_layers):
        if by == "head":
            out += [(f"a{layer}.h{head}", layer, head) for head in range(model.n_heads)]
            out.append((f"a{layer}.bias", layer, -1))
        else:
            out.append((f"a{layer}", layer, -1))
        out.append((f"m{layer}", layer, -1))
    return [*out, ("bias", -1, -1)]


def with_questions(
    model: Model,
    found: xr.Dataset,
    tokens: tuple[Tensor, Tensor | None],
    pairs: PromptPairs | None,
    run: Run,
) -> xr.Dataset:
    """The same with what was asked: the tokens of answers and foils, and the pairs' labels."""
    for name, ids in zip(("answer", "foil"), tokens, strict=True):
        if ids is not None:
            strings = np.array(model.token_strings(ids.tolist()), dtype=object)
            found = found.assign_coords({name: ("example", strings)})
    if pairs is not None and "source" in found.dims:
        slots = pairs.alignment.clean if run == "clean" else pairs.alignment.corrupt
        labels = np.full((len(pairs), found.sizes["source"]), "", dtype=object)
        for example, slot in np.argwhere(slots >= 0):
            labels[example, slots[example, slot]] = pairs.positions[slot]
        found = found.assign_coords(label=(("example", "source"), labels))
    return found
