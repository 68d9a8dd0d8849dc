"""How far two models' activations lie apart on the same tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from cache.arguments import typed
from interp.comparison.pair import ModelPair
from interp.errors import SiteError
from interp.forward.passes import observe
from interp.forward.source import rows_at_once
from interp.model.memory import batches
from interp.model.model import Model
from interp.progress import Progress
from interp.prompts.tokens import Prompts, TokenBatch, blank
from interp.sites import Site, check

__all__ = ["activation_difference", "difference_between"]

SITES = ("resid_post", "attn_out", "mlp_out")
_MEASURES = ("norm", "base_norm", "cosine")


@typed
def activation_difference(
    base: Model,
    tuned: Model,
    prompts: Prompts | str,
    sites: str | Sequence[str] = SITES,
    *,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Compare the activations of two models at every layer and position.

    Args:
        base: the model before.
        tuned: the model after, of the same shape.
        prompts: texts, or token ids [example, position].
        sites: kinds of sites, at all layers; of a site with heads, all heads are one vector.
        progress: called with (prompts done, in all).

    Returns:
        norm(example, site, layer, position): the length of tuned − base, in the activation's unit;
        base_norm: of the base's activation; relative: the first divided by the second; cosine: of
        the angle between both models' activations. NaN beyond a shorter prompt's end, and relative
        and cosine where an activation is zero. The coordinate token(example, position) is what
        stands there.

    Raises:
        ModelError: the models cannot be compared (see `compare_models`).
        SiteError: the models have no such site, or it has no vector for each token.
        PromptError: an empty or too long prompt.
    """
    pair = ModelPair.of(base, tuned)
    return difference_between(pair, pair.tokenise(prompts), sites, progress)


def difference_between(
    pair: ModelPair, batch: TokenBatch, sites: str | Sequence[str], progress: Progress | None
) -> xr.Dataset:
    """`activation_difference` of models that were looked at."""
    names = list(dict.fromkeys([sites] if isinstance(sites, str) else sites))
    if not names:
        raise SiteError("There are no sites to compare; name one or more, such as 'resid_post'.")
    layers = range(pair.base.n_layers)
    places = [[check(pair.base, Site(name, layer)) for layer in layers] for name in names]
    for column in places:
        if column[0].kind.pairwise:
            raise SiteError(
                f"{column[0].kind.plural} have a number for each pair of tokens and no vector; "
                "compare another site, such as 'z'."
            )
    every = [site for column in places for site in column]
    shape = (len(batch), len(names), len(layers), batch.ids.shape[1])
    found = {name: np.zeros(shape, np.float32) for name in _MEASURES}

    def run(start: int, stop: int) -> None:
        ids = batch.ids[start:stop]
        ours, theirs = observe(pair.base, ids, every), observe(pair.tuned, ids, every)
        for row, column in enumerate(places):
            for layer, site in enumerate(column):
                measured = _measure(ours[site].flatten(2), theirs[site].flatten(2))
                for name, values in zip(_MEASURES, measured, strict=True):
                    found[name][start:stop, row, layer] = values.cpu().numpy()

    size = max(1, rows_at_once(pair.base, batch.ids.shape[1], every) // 2)
    with pair.locked():
        for _, stop, _ in batches(len(batch), size, run):
            if progress:
                progress(stop, len(batch))
        attrs = pair.attrs("activation difference")
    for values in found.values():
        blank(torch.from_numpy(values), batch.lengths, 3)
    dims = ("example", "site", "layer", "position")
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(found["base_norm"] > 0, found["norm"] / found["base_norm"], np.nan)
    variables = {name: (dims, values) for name, values in found.items()}
    return xr.Dataset(
        {**variables, "relative": (dims, relative.astype(np.float32))},
        {"site": names, "layer": list(layers), **token_coordinates(pair.base, batch)},
        attrs,
    )


def token_coordinates(model: Model, batch: TokenBatch) -> dict[str, Any]:
    """Positions, what stands there, and the prompts."""
    width = batch.ids.shape[1]
    tokens = np.full((len(batch), width), "", dtype=object)
    for example in range(len(batch)):
        strings = model.token_strings(batch.row(example))
        tokens[example, : len(strings)] = strings
    return {
        "position": np.arange(width),
        "token": (("example", "position"), tokens),
        "prompt": ("example", list(batch.texts)),
    }


def _measure(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The length of the difference, of the first, and the cosine [example, position]."""
    if ours.dtype not in (torch.float32, torch.float64):
        ours, theirs = ours.float(), theirs.float()
    here, there = ours.norm(dim=-1), theirs.norm(dim=-1)
    # 0 / 0 is NaN, as it should be.
    cosine = ((ours / here[..., None]) * (theirs / there[..., None])).sum(-1)
    return (theirs - ours).norm(dim=-1), here, cosine.clamp(-1, 1)
