"""What is put in the place of an activation, where it is not the other run's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from interp.errors import SiteError
from interp.forward import capture
from interp.model import Model
from interp.sites import Site, heads_at
from interp.tokens import Prompts, tokenise

Source = Literal["other", "zero", "mean"] | Mapping[int, Tensor]
Constants = Mapping[int, Tensor]
"""By layer one value [d_model] or [head, d_head], the same for every position and example."""


def constants(
    model: Model,
    site: str,
    layers: Sequence[int],
    source: Source,
    reference: Prompts | None,
) -> Constants | None:
    """The values that `source` stands for; None for "other", which is no constant.

    Args:
        source: "zero"; "mean", the mean over all tokens of the `reference` prompts but BOS; or a
            value for each layer.

    Raises:
        SiteError: an unknown source, a mean without reference prompts, or values that do not fit.
    """
    if isinstance(source, str) and source == "other":
        return None
    shape = _shape(model, site)
    if isinstance(source, Mapping):
        return {layer: _fitting(model, source, layer, shape) for layer in layers}
    if source == "zero":
        nothing = torch.zeros(shape, device=model.device, dtype=model.dtype)
        return dict.fromkeys(layers, nothing)
    if source != "mean":
        raise SiteError(
            f"Unknown source {source!r}; choose 'other', 'zero', 'mean', or give a tensor by layer."
        )
    if reference is None:
        raise SiteError("A mean is taken over prompts; give them as reference=….")
    batch = tokenise(model, reference, what="reference prompts")
    real = torch.arange(batch.ids.shape[1])[None, :] < batch.lengths[:, None]
    if model.tokenizer.bos_token_id is not None:
        # The residual stream at BOS is like no other, and large.
        real &= batch.ids != model.tokenizer.bos_token_id
    found = capture(model, batch, [Site(site, layer) for layer in layers])
    return {layer: found[str(Site(site, layer))][real.to(model.device)].mean(0) for layer in layers}


def _shape(model: Model, site: str) -> tuple[int, ...]:
    if Site(site, 0).kind.per_head:
        return heads_at(model, site), int(model.bridge.cfg.d_head)
    return (model.d_model,)


def _fitting(
    model: Model, source: Mapping[int, Tensor], layer: int, shape: tuple[int, ...]
) -> Tensor:
    if layer not in source or tuple(source[layer].shape) != shape:
        raise SiteError(f"Give a value of shape {shape} for layer {layer}.")
    return source[layer].to(device=model.device, dtype=model.dtype)
