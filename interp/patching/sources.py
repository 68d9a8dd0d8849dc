"""What is put in the place of an activation, where it is not the other run's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from interp.errors import SiteError
from interp.forward.capture import capture
from interp.model.model import Model
from interp.prompts.tokens import Prompts, tokenise
from interp.sites import Site, heads_at, neurons_at

Source = Literal["other", "zero", "mean"] | Mapping[int, Tensor]
Constants = Mapping[Site, Tensor]
"""By site one value [d_model], [neuron] or [head, d_head], the same for every position and example;
of patterns [head, 1, 1]."""


def constants(
    model: Model,
    sites: Sequence[Site],
    source: Source,
    reference: Prompts | None,
) -> Constants | None:
    """The values that `source` stands for; None for "other", which is no constant.

    Args:
        source: "zero"; "mean", the mean over all tokens of the `reference` prompts but BOS; or a
            value for each layer.

    Raises:
        SiteError: an unknown source, a mean without reference prompts, values that do not fit, or
            patterns that are to be replaced by anything else than the other run's or zero.
    """
    if isinstance(source, str) and source == "other":
        return None
    if source != "zero" and any(site.name == "pattern" for site in sites):
        raise SiteError(
            "Attention patterns of different prompts have no common mean or value; replace them "
            "by source='other' or 'zero'."
        )
    if isinstance(source, Mapping):
        return {site: _fitting(model, source, site) for site in sites}
    if source == "zero":
        return {
            site: torch.zeros(_shape(model, site), device=model.device, dtype=model.dtype)
            for site in sites
        }
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
    found = capture(model, batch, sites)
    return {site: found[str(site)][real.to(model.device)].mean(0) for site in sites}


def _shape(model: Model, site: Site) -> tuple[int, ...]:
    if site.name == "pattern":
        return heads_at(model, site.name), 1, 1
    if site.kind.per_head:
        return heads_at(model, site.name), int(model.bridge.cfg.d_head)
    return (neurons_at(model) if site.name == "mlp_act" else model.d_model,)


def _fitting(model: Model, source: Mapping[int, Tensor], site: Site) -> Tensor:
    shape = _shape(model, site)
    if site.layer not in source or tuple(source[site.layer].shape) != shape:
        raise SiteError(f"Give a value of shape {shape} for layer {site.layer}.")
    return source[site.layer].to(device=model.device, dtype=model.dtype)
