"""Which object each subject leads to through the weights, without a prompt.

Facts that are stored in a feed-forward layer are keyed by the subject: what the MLP writes for it
holds the object, if anything does, and later heads carry that to where it is said. So the object's
logits are computed from the subject's embeddings along each such path.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from cache.arguments import typed
from interp.errors import PromptError
from interp.model.model import Model
from interp.prompts.tokens import check_vocabulary
from interp.weights.weights import Weights


@typed
@torch.no_grad()
def association_matrix(
    model: Model,
    subjects: Sequence[str],
    objects: Sequence[str],
    *,
    tokens: Literal["first", "all"] = "first",
) -> xr.Dataset:
    """How far the weights lead from each subject to each object.

    Args:
        model: the model.
        subjects: what is asked about (" Tom Cruise"), as it is written in the middle of a text.
        objects: what might be answered, likewise.
        tokens: whether an object counts by its first token or by the mean over all of them.

    Returns:
        raw(path, subject, object): the logit that a path adds to the object, before the final
        norm's division, so that its unit is arbitrary but common to all; association(…): the same
        after double centring, without what subjects and objects have in common with all others
        (rows and columns sum to 0). Paths are "m0" (from layer 0's MLP straight to the logits),
        "m0>a1" (from there through the values of all heads of layer 1) and so on; sum over them
        for the whole.

    Raises:
        PromptError: nothing to compare, or a text without tokens.
        ModelError: the model's weights cannot be read on their own.
    """
    if min(len(subjects), len(objects)) < 2:
        raise PromptError("An association needs at least two subjects and two objects to compare.")
    weights = Weights(model)
    read, said = (_token_ids(model, texts) for texts in (subjects, objects))
    if tokens == "first":
        said = [ids[:1] for ids in said]
    flat = torch.tensor([i for ids in said for i in ids], device=model.device)
    owner = torch.tensor([n for n, ids in enumerate(said) for _ in ids], device=model.device)
    share = torch.zeros(len(flat), len(objects), device=model.device)
    share[torch.arange(len(flat)), owner] = 1.0 / torch.bincount(owner)[owner]
    raw: dict[str, npt.NDArray[np.float32]] = {}
    for path, written in paths(weights, read):
        logits = weights.unembed(written).index_select(1, flat)
        raw[path] = (logits @ share).cpu().numpy()
    table = np.stack(list(raw.values()))
    dims = ("path", "subject", "object")
    coords: dict[str, Any] = {
        "path": list(raw),
        "subject": list(subjects),
        "object": list(objects),
    }
    attrs = {"instrument": "association matrix", "tokens": tokens, **model.identity}
    return xr.Dataset(
        {"association": (dims, double_centred(table)), "raw": (dims, table)}, coords, attrs
    )


def paths(
    weights: Weights, subjects: Sequence[Sequence[int]]
) -> Iterator[tuple[str, Float[Tensor, "subject d_model"]]]:
    """What each path writes to the final stream for each subject.

    The subject's last token stands in the stream with what every head of the first layer brings
    when it attends evenly to the subject's tokens. The MLPs read that, one after the other, each
    with what those before it have added. What an MLP has written goes to the logits, or first
    through the values of all heads of a later layer.
    """
    parts, model = weights.parts, weights.model
    stream = torch.cat([weights.embed(torch.tensor(ids[-1:])) for ids in subjects])
    joined = torch.stack([_joined(weights, ids) for ids in subjects]).to(stream.dtype)
    written: list[Tensor] = []
    for layer in range(model.n_layers):
        for earlier, vectors in enumerate(written):
            yield f"m{earlier}>a{layer}", _moved(weights, layer, stream, vectors)
        if layer == 0 and parts.mlp_reads_mid:
            stream = stream + joined
        added = parts.mlp(layer, stream)
        written.append(added)
        if layer == 0 and not parts.mlp_reads_mid:
            stream = stream + joined
        stream = stream + added
        yield f"m{layer}", added


def double_centred(table: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
    """Without the means of rows and columns, over the last two axes."""
    centred: npt.NDArray[np.floating[Any]] = (
        table
        - table.mean(-1, keepdims=True)
        - table.mean(-2, keepdims=True)
        + table.mean((-2, -1), keepdims=True)
    )
    return centred


def _joined(weights: Weights, ids: Sequence[int]) -> Float[Tensor, " d_model"]:
    """What the first layer's heads bring, attending evenly to a subject's tokens."""
    normed = weights.parts.normed(0, "attn", weights.embed(torch.tensor(ids)))
    values = weights.parts.projected(0, "v", normed).mean(0)  # [key_value_head, d_head]
    return _written(weights, 0, values[None].float(), values[None])[0]


def _moved(
    weights: Weights, layer: int, stream: Tensor, vectors: Float[Tensor, "subject d_model"]
) -> Float[Tensor, "subject d_model"]:
    """A part of the stream through the values of all heads, normed with the whole stream's size."""
    parts, norm = weights.parts, weights.parts.attention_norm(layer)
    size = norm.moments(stream)[1] if norm is not None else 1.0
    shared = weights.reading(layer, "v")[:: weights.model.n_heads // parts.n_readers("v")]
    reading = torch.einsum("sm,hmd->shd", vectors.float() * size, shared)
    whole = parts.projected(layer, "v", parts.normed(layer, "attn", stream))
    return _written(weights, layer, reading, whole)


def _written(
    weights: Weights,
    layer: int,
    part: Float[Tensor, "subject key_value_head d_head"],
    whole: Float[Tensor, "subject key_value_head d_head"],
) -> Float[Tensor, "subject d_model"]:
    """What all heads write of a part of their values; a norm behind has the size of the whole."""
    model, parts = weights.model, weights.parts
    part, whole = (v.repeat_interleave(model.n_heads // v.shape[1], dim=1) for v in (part, whole))
    scale = parts.inverse_scale(layer, whole[:, None])[:, 0].float()
    return scale * torch.einsum("shd,hdm->sm", part, weights.writing(layer))


def _token_ids(model: Model, texts: Sequence[str]) -> list[tuple[int, ...]]:
    """The tokens of each text, without BOS."""
    bos = [int(model.tokenizer.bos_token_id)] if model.prepends_bos else []
    out = []
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise PromptError(f"Subjects and objects must be text; number {number} is not.")
        ids = model.token_ids(text)[len(bos) :]
        if not ids:
            raise PromptError(f"'{text}' has no tokens; give visible text.")
        check_vocabulary(model, ids, "names")
        out.append(tuple(ids))
    return out
