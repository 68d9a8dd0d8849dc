"""Where heads attend, and how much of what they attend to they bring along."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cache.arguments import typed
from interp.components.linear import each_head
from interp.components.writers import output_matrix
from interp.errors import ModelError, SiteError
from interp.forward.passes import TOLERANCE, observe, recording_memory, relative_error
from interp.model.memory import batches, rows_that_fit
from interp.model.model import Model
from interp.progress import Progress
from interp.prompts.tokens import Prompts, TokenBatch, token_table, tokenise
from interp.sites import Site, check


@typed
def attention_patterns(
    model: Model,
    prompts: Prompts | str,
    *,
    layers: Sequence[int] | None = None,
    weighted: bool = False,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Attention patterns, and what is moved along them.

    Args:
        model: the model.
        prompts: texts, or token ids [example, position].
        layers: all if left out.
        weighted: whether to add value-weighted patterns (Kobayashi et al. 2020).
        progress: called with (prompts done, prompts in all).

    Returns:
        pattern(example, layer, head, destination, source): probabilities, rows sum to 1. With
        `weighted` also moved(…): ‖pattern · v W_O‖, the length of what a head brings from the
        source to the destination's residual stream, before a norm or scale that a model may apply
        afterwards, in the stream's unit. Beyond a shorter prompt's end NaN. Coordinates
        destination_token and source_token(example, …) are what stands there.

    Raises:
        PromptError: empty or too long prompts.
        SiteError: the model has no such layer, or does not show its patterns.
        ModelError: its heads do not put out pattern times values.
    """
    batch = tokenise(model, prompts)
    chosen = list(range(model.n_layers)) if layers is None else list(layers)
    if not chosen:
        raise SiteError("There are no layers to look at; name one or more, or leave layers out.")
    for layer in chosen:
        check(model, Site("pattern", layer))
    if weighted:
        check_values(model, batch)
    width = batch.ids.shape[1]
    shape = (len(batch), len(chosen), model.n_heads, width, width)
    found = {"pattern": np.full(shape, np.nan, dtype=np.float32)}
    if weighted:
        found["moved"] = np.full(shape, np.nan, dtype=np.float32)
    for start, stop, activations in patterns_of(model, batch, chosen, values=weighted):
        for at, layer in enumerate(chosen):
            pattern = activations[Site("pattern", layer)].float()
            values = {"pattern": pattern}
            if weighted:
                length = value_lengths(model, layer, activations[Site("v", layer)])
                values["moved"] = pattern * length[:, :, None]
            for row, example in enumerate(range(start, stop)):
                n = int(batch.lengths[example])
                for name, value in values.items():
                    found[name][example, at, :, :n, :n] = value[row, :, :n, :n].cpu().numpy()
        if progress:
            progress(stop, len(batch))
    dims = ("example", "layer", "head", "destination", "source")
    tokens = token_table(model, batch)
    coords: dict[str, Any] = {
        "layer": chosen,
        "head": np.arange(model.n_heads),
        "destination": np.arange(width),
        "source": np.arange(width),
        "destination_token": (("example", "destination"), tokens),
        "source_token": (("example", "source"), tokens),
        "prompt": ("example", list(batch.texts)),
    }
    attrs = {"instrument": "attention patterns", **model.identity}
    return xr.Dataset({name: (dims, value) for name, value in found.items()}, coords, attrs)


def patterns_of(
    model: Model,
    batch: TokenBatch,
    layers: Sequence[int],
    *,
    values: bool = False,
    outputs: bool = False,
) -> Iterator[tuple[int, int, Mapping[Site, Tensor]]]:
    """Patterns of some layers, as many prompts at a time as fit: (start, stop, activations).

    Args:
        values: whether to keep "v" too.
        outputs: whether to keep "z" too.
    """
    names = ["pattern", *(["v"] if values else []), *(["z"] if outputs else [])]
    sites = [Site(name, layer) for name in names for layer in layers]
    length = batch.ids.shape[1]
    # Of each pattern a few copies are made while it is read.
    streams = len(layers) * (len(names) - 1 + -(-4 * model.n_heads * length // model.d_model))

    def work(start: int, stop: int) -> Mapping[Site, Tensor]:
        return observe(model, batch.ids[start:stop], sites)

    size = rows_that_fit(model, recording_memory(model, length, streams))
    yield from batches(len(batch), size, work)


def last_to_spans(
    pattern: Float[Tensor, "row head dest source"],
    ends: Int[Tensor, " row"],
    masks: Bool[Tensor, "span row source"],
) -> Float[Tensor, "row head span"]:
    """Attention from each row's last token, at `ends`, summed over the tokens of each span."""
    here = torch.arange(len(pattern), device=pattern.device)
    last = pattern[here, :, ends.to(pattern.device)]
    return torch.einsum("ehs,nes->ehn", last, masks.to(last))


def value_lengths(
    model: Model, layer: int, v: Float[Tensor, "row position key_value_head d_head"]
) -> Float[Tensor, "row head position"]:
    """‖v W_O‖ for each head, which may share its values with others."""
    shared = v.repeat_interleave(model.n_heads // v.shape[2], dim=2)
    written = each_head(shared.transpose(1, 2), output_matrix(model, layer))
    lengths: Tensor = torch.linalg.vector_norm(written.float(), dim=-1)
    return lengths


def check_values(model: Model, batch: TokenBatch) -> None:
    """See on the first prompt whether each head puts out its pattern times its values.

    Raises:
        ModelError: it does not.
    """
    layers = range(model.n_layers)
    sites = [Site(name, layer) for name in ("pattern", "v", "z") for layer in layers]
    seen = observe(model, batch.ids[:1], sites)
    for layer in layers:
        pattern, v, z = (seen[Site(name, layer)].float() for name in ("pattern", "v", "z"))
        shared = v.repeat_interleave(model.n_heads // v.shape[2], dim=2)
        ours = (pattern @ shared.transpose(1, 2)).transpose(1, 2)
        if not relative_error(ours, z) <= TOLERANCE[model.dtype]:
            raise ModelError(
                f"The heads of {model.name} do not put out their pattern times their values, so "
                "their patterns cannot be weighted; look at the plain ones."
            )
