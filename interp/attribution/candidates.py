"""Direct logit attribution of many tokens at once: what each part says for every candidate.

The same shares as `direct_logit_attribution` gives, one token at a time: the final stream is a sum
of parts, the final norm's scale is held at what it is, and so each token's logit is a sum over
parts. Here the parts themselves are normed and read out, so that a token more costs a column.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from cache.arguments import typed
from interp.attribution.labels import component_names
from interp.attribution.shares import at_end
from interp.components.frozen import logit_transform
from interp.components.linear import affine, position_wise, precise
from interp.components.norms import closed_norm
from interp.components.writers import Writer
from interp.errors import ModelError, PromptError
from interp.forward.passes import TOLERANCE, Recording, record, recording_memory, relative_error
from interp.model.memory import batches, rows_that_fit
from interp.model.model import Model
from interp.progress import Progress
from interp.prompts.tokens import Prompts, check_vocabulary, tokenise
from interp.sites import Site, check, width_at

__all__ = ["attribute_candidates"]


@typed
def attribute_candidates(
    model: Model,
    prompts: Prompts,
    candidates: Sequence[int],
    *,
    by: Literal["component", "head"] = "head",
    progress: Progress | None = None,
) -> xr.Dataset:
    """Divide the logit of each candidate token among what wrote to the stream at a prompt's end.

    Args:
        model: the model.
        prompts: texts, or token ids [example, position].
        candidates: token ids, the same for all prompts; each once.
        by: "head": attention by head, with "a0.bias" for what no head owns; or "component": each
            layer's attention as one.
        progress: called with (prompts done, in all).

    Returns:
        contribution(example, component, candidate) in logits before any soft cap, with coordinates
        layer and head (-1 where a component has none). The sum over components, "input" (the
        embedding) and "bias" (of final norm and unembedding) among them, is the logit.

    Raises:
        PromptError: no candidates, or one that is not in the vocabulary.
        ModelError: the parts do not add up to the logits, or the model has no such parts.
        SiteError: it does not show them.
    """
    batch = tokenise(model, prompts)
    tokens = [int(token) for token in candidates]
    if not tokens or len(set(tokens)) < len(tokens):
        raise PromptError("Give at least one candidate, and each token once.")
    check_vocabulary(model, tokens, "candidates")
    layers = range(model.n_layers)
    names = ("attn_out", "mlp_out", *(("z",) if by == "head" else ()))
    sites = [Site("resid_pre", 0), Site("resid_post", model.n_layers - 1)]
    sites += [check(model, Site(name, layer)) for name in names for layer in layers]
    columns = _unembedding(model, tokens)

    def work(start: int, stop: int) -> npt.NDArray[np.float32]:
        recording = record(model, batch.ids[start:stop], sites)
        end = batch.lengths[start:stop] - 1
        parts = _parts(model, recording, end, heads=by == "head")
        shares = _read(model, at_end(recording, sites[1], end), parts, tokens, columns)
        return shares.float().cpu().numpy()

    length = batch.ids.shape[1]
    width = -(-sum(width_at(model, site.name, length) for site in sites) // model.d_model)
    labels = component_names(model, by)
    # Parts in double precision, before and behind the norm.
    each = recording_memory(model, length, width) + 8 * len(labels) * (
        3 * model.d_model + 2 * len(tokens)
    )
    found = []
    for _, stop, shares in batches(len(batch), rows_that_fit(model, each), work):
        found.append(shares)
        if progress:
            progress(stop, len(batch))
    components, layer, head = zip(*labels, strict=True)
    return xr.Dataset(
        {"contribution": (("example", "component", "candidate"), np.concatenate(found))},
        coords={
            "component": list(components),
            "layer": ("component", np.array(layer)),
            "head": ("component", np.array(head)),
            "candidate": tokens,
            "token": ("candidate", np.array(model.token_strings(tokens), dtype=object)),
            "prompt": ("example", list(batch.texts)),
        },
        attrs={"instrument": "attribution of candidates", "by": by, **model.identity},
    )


def _parts(
    model: Model, recording: Recording, end: Int[Tensor, " example"], *, heads: bool
) -> Float[Tensor, "example component d_model"]:
    """What the embedding, and each head (or layer's attention) and MLP, put into the stream."""
    parts = [precise(at_end(recording, Site("resid_pre", 0), end))[:, None]]
    for layer in range(model.n_layers):
        added = at_end(recording, Site("attn_out", layer), end)
        if heads:
            each = _by_head(model, layer, at_end(recording, Site("z", layer), end), added)
            parts += [each, (precise(added) - each.sum(1))[:, None]]
        else:
            parts.append(precise(added)[:, None])
        parts.append(precise(at_end(recording, Site("mlp_out", layer), end))[:, None])
    return torch.cat(parts, 1)


def _by_head(
    model: Model,
    layer: int,
    z: Float[Tensor, "example head d_head"],
    added: Float[Tensor, "example d_model"],
) -> Float[Tensor, "example head d_model"]:
    writer = Writer.of(model, layer, "attn", z.flatten(1), added)
    if writer is None:
        raise ModelError(
            f"What the attention of layer {layer} of {model.name} adds to the residual stream is "
            "not made of its heads by one matrix, so it has no attribution by head; attribute by "
            "component."
        )
    matrix = precise(writer.folded[0]).reshape(*z.shape[1:], -1)
    written: Tensor = torch.einsum("ehk,hkd->ehd", precise(z), matrix)
    return written * precise(writer.inverse_scale(z.flatten(1)))[..., None]


def _read(
    model: Model,
    final: Float[Tensor, "example d_model"],
    parts: Float[Tensor, "example component d_model"],
    tokens: list[int],
    unembedding: tuple[Float[Tensor, "d_model candidate"], Float[Tensor, " candidate"]],
) -> Float[Tensor, "example component candidate"]:
    """The candidates' logits of each part, and of "bias", through the norm as it is at `final`."""
    norm = closed_norm(model, model.bridge.ln_final, final)
    if norm is None:
        raise ModelError(
            f"The final norm of {model.name} is neither a layer norm nor an RMS norm, so its "
            "logits cannot be attributed; use another architecture."
        )
    columns, constant = unembedding
    scale, _ = logit_transform(model)
    if norm.centred:
        parts = parts - parts.mean(-1, keepdim=True)
    _, inverse_scale = norm.moments(final)
    normed = parts * precise(inverse_scale)[:, None] * precise(norm.gain)
    bias = (precise(norm.shift) @ columns + constant).expand(len(final), 1, -1)
    shares = scale * torch.cat([normed @ columns, bias], 1)
    with model.lock, torch.no_grad():
        theirs = position_wise(model.bridge.unembed, position_wise(model.bridge.ln_final, final))
    whole = scale * precise(theirs[:, tokens])
    if not relative_error(shares.sum(1), whole) <= TOLERANCE[model.dtype]:
        raise ModelError(
            f"The parts of {model.name}'s residual stream do not add up to its logits; use another "
            "architecture."
        )
    return shares


@torch.no_grad()
def _unembedding(
    model: Model, tokens: list[int]
) -> tuple[Float[Tensor, "d_model candidate"], Float[Tensor, " candidate"]]:
    """The tokens' columns of the unembedding, and their biases."""
    like = next(model.bridge.original_model.parameters())
    with model.lock:
        matrix, bias = affine(model.bridge.unembed, model.d_model, like)
    return precise(matrix[:, tokens]), precise(bias[tokens])
