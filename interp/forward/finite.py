"""Runs whose numbers overflow, or are none: where that begins, told instead of what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from interp.errors import ModelError
from interp.model.model import Model
from interp.model.vocabulary import quoted
from interp.sites import Site

__all__ = ["no_numbers"]


def no_numbers(
    model: Model, text: str, run: Callable[[Sequence[Site]], dict[Site, Tensor]]
) -> ModelError:
    """The error for a text after which the logits are infinite or NaN.

    Args:
        run: runs this text alone, and keeps the activations at some sites [1, position, …].
    """
    last = model.n_layers - 1
    streams = {"the embedding": Site("resid_pre", 0)}
    streams |= {f"block {layer}": Site("resid_post", layer) for layer in range(last + 1)}
    kept = run(list(streams.values()))
    finite = {name: bool(torch.isfinite(kept[site]).all()) for name, site in streams.items()}
    where = next((name for name, sound in finite.items() if not sound), "the unembedding")
    advice = (
        "load it in bfloat16 or float32, which hold larger numbers"
        if model.dtype == torch.float16
        else "look at its weights there, and at what is put or added into it"
    )
    return ModelError(
        f"{model.name} has no finite logits after {quoted(text)}: they overflow, or are NaN, from "
        f"{where} on; {advice}."
    )
