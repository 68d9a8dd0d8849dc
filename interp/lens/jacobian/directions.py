"""Directions that a Jacobian lens gives to tokens, and changes of activations along them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import DirectionError, PromptError
from interp.forward.capture import capture
from interp.forward.exchange import Exchange
from interp.forward.interventions import Intervention
from interp.model.model import Model
from interp.prompts.masks import Positions
from interp.prompts.tokens import Prompts

__all__ = ["Tokens", "exchanges", "single_tokens", "vectors"]

Tokens: TypeAlias = "str | int | Sequence[str | int]"
"""Texts that are one token each, with the space before them, or token ids."""

# Of the cosine of two directions, beyond which coordinates along them are rounding errors.
_PARALLEL = 0.999


def single_tokens(model: Model, tokens: Tokens) -> list[int]:
    """
    Raises:
        PromptError: a text is not one token, or the vocabulary has no such id.
    """
    listed = [tokens] if isinstance(tokens, str | int | Integral) else list(tokens)
    if not listed:
        raise PromptError("There are no tokens; name at least one.")
    found = []
    for one in listed:
        if isinstance(one, str):
            ids = model.encode([one], what="tokens")[0][0][int(model.prepends_bos) :]
            if len(ids) != 1:
                raise PromptError(
                    f"'{one[:40]}' is {len(ids)} tokens for {model.name}; give a text that is one "
                    "(mind the space before a word), or a token id."
                )
            found.append(ids[0])
        elif isinstance(one, bool) or not isinstance(one, Integral) or not 0 <= one < model.d_vocab:
            raise PromptError(
                f"There is no token {one}; {model.name} has 0 to {model.d_vocab - 1}."
            )
        else:
            found.append(int(one))
    return found


@torch.no_grad()
def vectors(
    model: Model, matrix: Float[Tensor, "d_model d_model"], tokens: Tokens
) -> Float[Tensor, "token d_model"]:
    """Rows of W_U J, in float32: the gradient of a token's logit but for the final norm."""
    unembedding: Tensor = model.bridge.W_U[:, single_tokens(model, tokens)].float()
    found: Tensor = unembedding.T @ matrix.to(unembedding.device)
    return found


def exchanges(
    model: Model,
    matrices: Mapping[int, Tensor],
    source: str | int,
    target: str | int,
    strength: float,
    positions: Positions,
    clamp_to: Prompts | str | None,
) -> list[Intervention]:
    """An exchange of two tokens' coordinates after each of these blocks.

    Raises:
        DirectionError: the directions are parallel, or the strength is not finite.
        PromptError: the tokens are no tokens, or the same one.
    """
    if len(set(single_tokens(model, [source, target]))) < 2:
        raise PromptError("Source and target are the same token, so a swap does nothing.")
    if not abs(strength) <= torch.finfo(torch.float32).max:
        raise DirectionError(f"A strength of {strength} has no effect that could be computed.")
    sites = {layer: f"resid_post.{layer}" for layer in matrices}
    clean = None if clamp_to is None else capture(model, clamp_to, list(sites.values()))
    found: list[Intervention] = []
    for layer, matrix in matrices.items():
        basis = vectors(model, matrix, [source, target]).cpu()
        cosine = float(torch.nn.functional.cosine_similarity(basis[0], basis[1], dim=0))
        if not abs(cosine) < _PARALLEL or not bool(basis.norm(dim=1).all()):
            raise DirectionError(
                f"After block {layer} the lens gives both tokens one direction (cosine "
                f"{cosine:.4f}), so they have no coordinates of their own; choose other tokens or "
                "layers."
            )
        kept = None
        if clean is not None:
            streams = clean[sites[layer]].float().cpu()
            kept = (streams @ torch.linalg.pinv(basis)).flip(-1)
        found.append(
            Exchange(
                "swap",
                (sites[layer],),
                amount=float(strength),
                positions=positions,
                basis=basis,
                coordinates=kept,
            )
        )
    return found
