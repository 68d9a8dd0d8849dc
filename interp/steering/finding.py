"""Directions that tell two classes of prompts apart, in every layer and at the last tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from cache.arguments import typed
from interp.errors import DirectionError, PromptError
from interp.forward.capture import capture
from interp.model.model import Model
from interp.progress import Progress
from interp.prompts.tokens import Prompts, TokenBatch, tokenise
from interp.sites import Site, named
from interp.steering.directions import difference_of_means

__all__ = ["last_activations", "mean_directions"]


@typed
def mean_directions(
    model: Model,
    positive: Prompts,
    negative: Prompts,
    *,
    site: str = "resid_post",
    positions: Sequence[int] = (-1,),
    held_out: tuple[Prompts, Prompts] | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """The difference of two classes' means, layer by layer and token by token (Arditi et al. 2024).

    Args:
        model: the model.
        positive: prompts of the class that the direction leads to, of any lengths.
        negative: of the other class.
        site: one kind of site with a vector for each token, in all its layers.
        positions: tokens counted from each prompt's end: −1 is the last.
        held_out: prompts of both classes that are not among the others, to see how well each
            direction tells those apart.
        progress: called with (prompts done, prompts in all).

    Returns:
        direction(layer, position, d_model), not scaled: positive minus negative.
        positive(layer, position) and negative(layer, position): the classes' mean coordinates along
        it, in the stream's unit. With `held_out` also auroc(layer, position): how often a positive
        one of these has a larger coordinate than a negative one; 0.5 is chance.

    Raises:
        DirectionError: the classes have one mean, or the site has no vector for each token.
        PromptError: a prompt is empty, too long, or shorter than the positions reach.
    """
    batches = [tokenise(model, prompts) for prompts in (positive, negative, *(held_out or ()))]
    total, before = sum(len(batch) for batch in batches), 0
    found = []
    for batch in batches:

        def tell(done: int, _: int, start: int = before) -> None:
            if progress:
                progress(start + done, total)

        found.append(last_activations(model, batch, site, positions, progress=tell))
        before += len(batch)
    layers = sorted(found[0])
    directions = torch.stack(
        [
            torch.stack(
                [
                    difference_of_means(found[0][layer][:, i], found[1][layer][:, i])
                    for i in range(len(positions))
                ]
            )
            for layer in layers
        ]
    )
    unit = directions.double() / directions.double().norm(dim=-1, keepdim=True)
    along = [_coordinates(one, layers, unit) for one in found]
    values = {
        "direction": (("layer", "position", "d_model"), directions.numpy()),
        "positive": (("layer", "position"), along[0].mean(0).numpy()),
        "negative": (("layer", "position"), along[1].mean(0).numpy()),
    }
    if held_out is not None:
        above = along[2][:, None] - along[3][None]
        wins = (above > 0).double() + 0.5 * (above == 0).double()
        values["auroc"] = (("layer", "position"), wins.mean((0, 1)).numpy())
    return xr.Dataset(
        values,
        coords={"layer": layers, "position": list(positions)},
        attrs={
            "instrument": "directions of means",
            "site": site,
            "n_positive": len(batches[0]),
            "n_negative": len(batches[1]),
            **model.identity,
        },
    )


@typed
def last_activations(
    model: Model,
    prompts: Prompts | TokenBatch,
    site: str = "resid_post",
    positions: Sequence[int] = (-1,),
    *,
    progress: Progress | None = None,
) -> dict[int, Float[Tensor, "example position d_model"]]:
    """Activations at tokens counted from each prompt's end, by layer; on the CPU.

    Raises:
        DirectionError: the site has no vector for each token, or positions are not counted from
            the end.
        PromptError: a prompt is shorter than the positions reach.
    """
    batch = prompts if isinstance(prompts, TokenBatch) else tokenise(model, prompts)
    sites = [one for one in named(model, site) if _is_stream(one)]
    if not sites:
        raise DirectionError(
            f"'{site}' has no vector of the stream for each token; choose 'resid_post', say."
        )
    if not positions or max(positions) >= 0 or len(set(positions)) < len(positions):
        raise DirectionError(
            "Positions are counted from each prompt's end: −1 for the last token; give one or more "
            "different ones."
        )
    reach = -min(positions)
    shortest = int(batch.lengths.min())
    if shortest < reach:
        raise PromptError(
            f"The shortest prompt has {shortest} tokens, and position −{reach} is asked for; "
            "choose positions nearer the end."
        )
    where = batch.lengths[:, None] + torch.tensor(list(positions))
    rows = torch.arange(len(batch))[:, None]
    found = {}
    for number, one in enumerate(sites):
        # One layer at a time: all of them at all tokens would fill the memory of a large model.
        values = capture(model, batch, one)[str(one)].cpu()
        found[one.layer] = values[rows, where].float()
        if progress:
            progress(len(batch) * (number + 1) // len(sites), len(batch))
    return found


def _is_stream(site: Site) -> bool:
    return site.kind.axes == ("position", "d_model") and site.head is None


def _coordinates(
    found: dict[int, Tensor], layers: Sequence[int], unit: Tensor
) -> Float[Tensor, "example layer position"]:
    values = torch.stack([found[layer] for layer in layers], dim=1).double()
    return (values * unit).sum(-1)
