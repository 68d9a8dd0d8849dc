"""What weights alone tell of heads and MLPs: who copies, who reads whom, and in which words."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from cache.arguments import typed
from interp.components.linear import affine
from interp.errors import PromptError, SiteError
from interp.forward.packing import find
from interp.model.model import Model
from interp.sites import Site, check, neurons_at
from interp.weights.trials import Scores
from interp.weights.weights import Weights

Matrix = Literal["ov", "mlp_in", "mlp_gate", "mlp_out"]
_MLP = {"mlp_in": "mlp.in", "mlp_gate": "mlp.gate", "mlp_out": "mlp.out"}


@typed
@torch.no_grad()
def copying_scores(model: Model) -> xr.Dataset:
    """Whether each head raises the logits of the tokens it attends to (Elhage et al. 2021).

    Returns:
        copying(layer, head): Σ λ / Σ |λ| over the eigenvalues λ of W_E W_V W_O W_U, from −1 (each
        token is written as its opposite) to 1 (as itself); 0 for a head without any.

    Raises:
        ModelError: the model's weights cannot be read on their own.
    """
    weights = Weights(model)
    around = weights.round_trip().double()
    found = np.zeros((model.n_layers, model.n_heads))
    for layer in range(model.n_layers):
        # The eigenvalues of AB are those of BA, which is [d_head, d_head].
        small = weights.writing(layer).double() @ around @ weights.reading(layer, "v").double()
        values = torch.linalg.eigvals(small.cpu())
        size = values.abs().sum(-1)
        found[layer] = (values.real.sum(-1) / size.clamp(min=1e-30)).numpy()
    coords = {"layer": np.arange(model.n_layers), "head": np.arange(model.n_heads)}
    attrs = {"instrument": "copying scores", **model.identity}
    return xr.Dataset({"copying": (("layer", "head"), found)}, coords, attrs)


@typed
@torch.no_grad()
def composition_scores(model: Model) -> xr.Dataset:
    """How much of what a head reads lies where an earlier head writes (Elhage et al. 2021).

    Returns:
        score(kind, source_layer, source_head, layer, head): ‖W₁ W₂‖ / ‖W₁‖ ‖W₂‖ (Frobenius) with
        W₁ the OV circuit of the source, and W₂ the QK circuit of the reader from its query's side
        (kind "q") or its key's ("k"), or its OV circuit ("v"); from 0 to 1, NaN where the source
        does not come before. Unrelated circuits score `chance`, 1/√d_model, in the root mean
        square. Where queries and keys are rotated by position, QK circuits are their content part,
        the score at distance 0, and the attribute "qk" says so; "qk_without" names what else of
        the scores is no matrix: the sizes that norms divide queries and keys by, a soft cap.

    Raises:
        ModelError: the model's weights cannot be read on their own.
    """
    weights, layers = Weights(model), range(model.n_layers)
    of = [weights.scores(layer) for layer in layers]
    compared = [weights.compared(layer) for layer in layers]
    read = {name: [pair[i].double() for pair in compared] for i, name in enumerate(("q", "k"))}
    read["v"] = [weights.reading(layer, "v").double() for layer in layers]
    write = [weights.writing(layer).double() for layer in layers]
    shape = (3, model.n_layers, model.n_heads, model.n_layers, model.n_heads)
    found = np.full(shape, np.nan)
    for later in layers:
        pairs = (
            (read["q"][later], read["k"][later].mT),
            (read["k"][later], read["q"][later].mT),
            (read["v"][later], write[later]),
        )
        for earlier in range(later):
            source = (read["v"][earlier], write[earlier])
            for kind, reader in enumerate(pairs):
                found[kind, earlier, :, later] = _composed(source, reader)
    coords: dict[str, Any] = {
        "kind": ["q", "k", "v"],
        "source_layer": list(layers),
        "source_head": np.arange(model.n_heads),
        "layer": list(layers),
        "head": np.arange(model.n_heads),
    }
    attrs = {
        "instrument": "composition scores",
        "chance": model.d_model**-0.5,
        "qk": "content part, at distance 0" if any(s.by_distance for s in of) else "whole",
        "qk_without": ", ".join(_left_out(of)) or "nothing",
        **model.identity,
    }
    return xr.Dataset({"score": (tuple(coords), found)}, coords, attrs)


@typed
@torch.no_grad()
def singular_tokens(
    model: Model, matrix: Matrix, layer: int, head: int | None = None, *, n: int = 5, k: int = 8
) -> xr.Dataset:
    """The main directions of a head's or MLP's weights, in tokens (Millidge & Black 2022).

    Args:
        model: the model.
        matrix: "ov" of a head; "mlp_in" or "mlp_gate", by which an MLP's neurons read; "mlp_out",
            by which they write.
        head: for "ov".
        n: directions, from the largest singular value on.
        k: tokens for each.

    Returns:
        singular_value(direction); token, value(side, direction, sign, token_rank): side "reads"
        has the tokens whose embeddings lie furthest along what is read, "writes" those whose
        logits what is written raises most; `value` is how far or how much. Singular vectors have
        no sign of their own: "+" and "−" are the two ways along a direction, and "+" of both
        sides belong together.

    Raises:
        SiteError: the model has no such head or matrix.
        PromptError: numbers below 1.
        ModelError: the model's weights cannot be read on their own.
    """
    if n < 1 or k < 1:
        raise PromptError("Ask for at least one direction and one token.")
    weights = Weights(model)
    left, values, right = _decomposed(weights, matrix, layer, head)
    n, k = min(n, len(values)), min(k, model.d_vocab)
    sides: dict[str, Tensor] = {}
    if left is not None:
        pieces = [rows.float() @ left[:, :n] for _, rows in weights.embeddings()]
        sides["reads"] = torch.cat(pieces).T
    if right is not None:
        sides["writes"] = weights.unembed(right[:n])
    tokens = np.full((len(sides), n, 2, k), "", dtype=object)
    scores = np.zeros(tokens.shape)
    for side, table in enumerate(sides.values()):
        for sign, factor in enumerate((1, -1)):
            top = (factor * table).topk(k, dim=-1)
            scores[side, :, sign] = top.values.cpu().numpy()
            for row, ids in enumerate(top.indices.tolist()):
                tokens[side, row, sign] = model.token_strings(ids)
    dims = ("side", "direction", "sign", "token_rank")
    coords = {
        "side": list(sides),
        "direction": np.arange(n),
        "sign": ["+", "−"],
        "token_rank": np.arange(k),
    }
    where = f"{matrix}.{layer}" + ("" if head is None else f".h{head}")
    variables = {
        "token": (dims, tokens),
        "value": (dims, scores),
        "singular_value": ("direction", values[:n].cpu().numpy()),
    }
    attrs = {"instrument": "singular directions", "matrix": where, **model.identity}
    return xr.Dataset(variables, coords, attrs)


def _left_out(scores: list[Scores]) -> list[str]:
    normed = any(one.query_norm is not None or one.key_norm is not None for one in scores)
    capped = any(one.cap is not None for one in scores)
    return [*(["sizes of queries and keys"] * normed), *(["soft cap"] * capped)]


def _composed(
    source: tuple[Float[Tensor, "one d_model d_head"], Float[Tensor, "one d_head d_model"]],
    reader: tuple[Float[Tensor, "two d_model d_head"], Float[Tensor, "two d_head d_model"]],
) -> npt.NDArray[np.float64]:
    """‖A₁B₁A₂B₂‖ / ‖A₁B₁‖ ‖A₂B₂‖ for each head of one and two, by products of [d_head, d_head]."""
    first, last = source[0].mT @ source[0], reader[1] @ reader[1].mT
    middle = torch.einsum("aid,bdj->abij", source[1], reader[0])
    square = torch.einsum("abij,aik,abkl,blj->ab", middle, first, middle, last)
    one = (first * (source[1] @ source[1].mT)).sum((1, 2))
    two = (last * (reader[0].mT @ reader[0])).sum((1, 2))
    size = (one[:, None] * two[None]).clamp(min=1e-60)
    ratio: npt.NDArray[np.float64] = (square.clamp(min=0) / size).sqrt().cpu().numpy()
    return ratio


def _decomposed(
    weights: Weights, matrix: Matrix, layer: int, head: int | None
) -> tuple[Tensor | None, Tensor, Tensor | None]:
    """What is read [d_model, direction], singular values, what is written [direction, d_model]."""
    model = weights.model
    if matrix == "ov":
        if head is None:
            raise SiteError("An OV circuit belongs to a head; give head=….")
        product = weights.ov(layer, head)
        left, values, right = product.svd()
        return left, values, right.mT
    if head is not None:
        raise SiteError(f"'{matrix}' belongs to a layer and no head; leave the head out.")
    check(model, Site("mlp_out", layer))
    module = find(model.bridge.blocks[layer], _MLP[matrix])
    if module is None:
        raise SiteError(f"The MLPs of {model.name} have no '{matrix}' to read; choose another.")
    like = weights.embed(torch.zeros(1, dtype=torch.long))
    width = neurons_at(model) if matrix == "mlp_out" else model.d_model
    with model.lock:
        found = affine(module, width, like)[0].float()
    if matrix == "mlp_out":
        found = weights.mlp_writing(layer, found)
        _, values, right = torch.linalg.svd(found, full_matrices=False)
        return None, values, right
    left, values, _ = torch.linalg.svd(weights.behind_mlp_norm(layer, found), full_matrices=False)
    return left, values, None
