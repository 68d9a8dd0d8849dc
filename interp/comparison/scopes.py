"""What a model writes where the mean difference of two models is put into a prompt that asks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from cache.arguments import Seed, typed
from interp.errors import DirectionError, MetricError, ModelError, PromptError
from interp.generation.writing import check_room
from interp.model.model import Model
from interp.progress import Progress
from interp.prompts.places import At, token_places
from interp.prompts.tokens import tokenise
from interp.results import MeanDifference
from interp.vectors.scope import Scope, variables_of

__all__ = ["patchscope_difference"]

_DIMS = ("layer", "position", "scale")


@typed
def patchscope_difference(
    model: Model,
    means: MeanDifference,
    target: str,
    *,
    at: At = "last",
    scales: Sequence[float] = (1.0,),
    max_new_tokens: int = 8,
    next_tokens: int = 5,
    draws: int = 1,
    seed: Seed = 0,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Put mean differences into a prompt that asks, each at its own layer, and let a model write.

    A patchscope (Ghandeharioun et al. 2024) of the activation difference (Minder et al. 2025).

    Args:
        model: which writes: the base or the tuned model that the means are of.
        means: of `mean_difference`, or the means of `compare_models`.
        target: the prompt that asks, such as "cat → cat; blue → blue; x".
        at: the token of it that is replaced, or a list of one list of tokens [[3, 4]].
        scales: how long the vector is that is written, in lengths of the base's streams there.
        max_new_tokens: how much is written, greedily; 0 for the next token's distribution only.
        next_tokens: how many of the likeliest next tokens to keep.
        draws: of random directions that go through the same.
        seed: of these.
        progress: called with (layers done, in all).

    Returns:
        text(layer, position, scale), what was written; top_token and top_logprob (…, k), the
        likeliest tokens after the target prompt and their log-probabilities in nats; the same with
        `control_` in front by (draw, …), and with `unpatched_` of the target prompt as it is.
        Layer l is the stream after l blocks. Where there is no difference, texts and tokens are "",
        numbers NaN. With several tuned models there is the dimension `model` as well.

    Raises:
        ModelError: the means are not of this model.
        DirectionError: scales that are no positive numbers, or means that lack layers.
        PromptError: no such place in the prompt, nothing to read, or no room for so many tokens.
        MetricError: not so many next tokens.
    """
    if "model" in means.dims:
        each = [
            patchscope_difference(
                model,
                means.sel(model=name),
                target,
                at=at,
                scales=scales,
                max_new_tokens=max_new_tokens,
                next_tokens=next_tokens,
                draws=draws,
                seed=seed,
                progress=progress,
            )
            for name in means["model"].values
        ]
        return xr.concat(each, means["model"], coords="minimal", compat="override")
    _check(model, means, scales, max_new_tokens, next_tokens, draws)
    asked = tokenise(model, target, what="target prompts")
    check_room(model, asked, max(1, max_new_tokens))
    places = token_places(asked, at, None, what="target prompts")
    if places.several or not places.tokens[0][0]:
        raise PromptError("Name one place of the target prompt, such as 'last' or [[3, 4]].")
    # By their numbers: which layers are there, and in what order, is the caller's.
    written_at = means[["difference", "base_norm"]].sel(layer=list(range(1, model.n_layers + 1)))
    differences = torch.from_numpy(
        written_at["difference"].transpose("layer", "position", "d_model").values
    )
    lengths = torch.from_numpy(written_at["base_norm"].transpose("layer", "position").values)
    n_positions, rows = differences.shape[1], differences.shape[1] * len(scales)
    batch = asked.subset([0] * rows)
    generator = torch.Generator().manual_seed(seed)
    found = []
    for layer in range(1, model.n_layers + 1):
        scope = Scope(
            model,
            batch,
            places.tokens[0] * rows,
            "resid_post",
            (layer - 1,),
            max_new_tokens,
            next_tokens,
            True,
        )
        random = torch.randn(draws, *differences[layer - 1].shape, generator=generator)
        directions = torch.cat([differences[layer - 1][None], random])
        put, there = _scaled(directions, lengths[layer - 1], scales)
        written = scope.run(put[:, None].to(model.dtype), (1 + draws, rows, 1, 1), None)
        shape = (n_positions, len(scales))
        variables: dict[str, Any] = {}
        for prefix, dims, first, beyond in (
            ("", _DIMS[1:], 0, rows),
            ("control_", ("draw", *_DIMS[1:]), rows, (1 + draws) * rows),
        ):
            if first < beyond:
                sizes = shape if not prefix else (draws, *shape)
                part = written.part(first, beyond)
                variables |= variables_of(model, part, prefix, dims, sizes, max_new_tokens)
        found.append(_blanked(xr.Dataset(variables), there))
        if progress:
            progress(layer, model.n_layers)
    plain = Scope(
        model, asked, places.tokens[0], "resid_post", (), max_new_tokens, next_tokens, True
    ).run(None, (1,), None)
    unpatched = xr.Dataset(variables_of(model, plain, "unpatched_", ("one",), (1,), max_new_tokens))
    out = xr.concat(found, "layer").merge(unpatched.isel(one=0))
    coords = {
        "layer": np.arange(1, model.n_layers + 1),
        "position": means["position"].values,
        "scale": list(scales),
    }
    order = [dim for dim in ("draw", *_DIMS, "k") if dim in out.dims]
    noted = {name: means.attrs[name] for name in ("tuned", "tuned_fingerprint")}
    about = {"instrument": "patchscope of a difference", "target": target, "seed": seed}
    return (
        out.assign_coords(coords)
        .transpose(*order)
        .assign_attrs({**about, **model.identity, **noted})
    )


def _check(
    model: Model,
    means: xr.Dataset,
    scales: Sequence[float],
    max_new_tokens: int,
    next_tokens: int,
    draws: int,
) -> None:
    known = [means.attrs.get(name) for name in ("fingerprint", "tuned_fingerprint")]
    if model.fingerprint not in known:
        raise ModelError(
            f"The means are of {means.attrs.get('model')} and {means.attrs.get('tuned')} as they "
            f"were, and {model.name} is neither; give one of these."
        )
    layers = means["layer"].values.tolist() if "layer" in means.dims else []
    if not set(range(1, model.n_layers + 1)) <= set(layers) or len(set(layers)) < len(layers):
        raise DirectionError(
            "The means lack layers, or have some twice, and each is written at its own; give all "
            "that mean_difference returned."
        )
    if "position" not in means.dims:
        raise DirectionError(
            "The means have no dimension 'position'; choose positions with a list, such as "
            "isel(position=[0])."
        )
    if not len(scales) or not all(math.isfinite(scale) and scale > 0 for scale in scales):
        raise DirectionError("Scales are positive numbers, one or more.")
    if max_new_tokens < 0 or (max_new_tokens == 0 and next_tokens == 0) or draws < 0:
        raise PromptError("Ask for 1 new or next token or more, and for 0 or more directions.")
    if not 0 <= next_tokens <= model.d_vocab:
        raise MetricError(
            f"{next_tokens} next tokens cannot be kept; {model.name} knows {model.d_vocab}."
        )


def _scaled(
    directions: Tensor, lengths: Tensor, scales: Sequence[float]
) -> tuple[Tensor, np.ndarray[Any, Any]]:
    """[kind, position and scale, d_model], and at which positions there is a difference."""
    size = directions.norm(dim=-1, keepdim=True)
    there = (size[0, :, 0] > 0) & torch.isfinite(size[0, :, 0])
    unit = torch.where(there[:, None], directions / size, 0.0)
    steps = torch.tensor(list(scales), dtype=lengths.dtype)
    long = torch.where(there, lengths, 0.0)[:, None] * steps  # [position, scale]
    put = unit[:, :, None, :] * long[..., None].to(unit.dtype)
    return put.flatten(1, 2), there.numpy()


def _blanked(found: xr.Dataset, there: np.ndarray[Any, Any]) -> xr.Dataset:
    """Nothing stands where there is no difference."""
    known = xr.DataArray(there, dims="position")
    return found.map(lambda one: one.where(known, "" if one.dtype == object else np.nan))
