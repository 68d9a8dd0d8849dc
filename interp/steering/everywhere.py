"""A direction taken out of a model, or held at a value, wherever its stream is read.

At one layer that does little: later layers write the direction again. All give interventions for
`logits`, `capture`, `generate` and `applied`.
"""

from __future__ import annotations

from typing import Literal

import torch

from cache.arguments import typed
from interp.errors import DirectionError
from interp.forward.capture import capture
from interp.forward.interventions import Intervention, Vector, as_direction
from interp.model.model import Model
from interp.prompts.masks import Positions
from interp.prompts.tokens import Prompts, tokenise

__all__ = ["ablate_everywhere", "clamp_to_mean", "stream_sites"]

_MOST_BYTES = 256 << 20


@typed
def stream_sites(model: Model) -> tuple[str, ...]:
    """Where the residual stream of a model can be changed so that nothing reads it unchanged.

    After the embedding, after the attention of each block (but in parallel blocks, in which
    nothing reads it there), and after each block.
    """
    within = [] if model.parallel_blocks else ["resid_mid"]
    layers = range(model.n_layers)
    return (
        "resid_pre.0",
        *(f"{name}.{layer}" for layer in layers for name in (*within, "resid_post")),
    )


@typed
def ablate_everywhere(
    model: Model, direction: Vector, *, positions: Positions = "all"
) -> tuple[Intervention, ...]:
    """Project the direction out of the stream wherever it is read (Arditi et al. 2024).

    At all positions this is what orthogonalising every matrix that writes to the stream does.
    Where the classes that a direction tells apart do not lie around 0, this moves both beside
    themselves: compare `clamp_to_mean`.

    Raises:
        DirectionError: the direction is zero, not finite, or not as wide as the stream (when it is
            used).
    """
    return (Intervention.ablate(direction, stream_sites(model), positions=positions),)


@typed
def clamp_to_mean(
    model: Model,
    direction: Vector,
    reference: Prompts,
    *,
    at: Literal["last", "all"] = "last",
    positions: Positions | None = None,
) -> tuple[Intervention, ...]:
    """Hold the coordinate along the direction at the mean that it has on reference prompts.

    Wherever the stream is read, each time at the mean of that place: the stream grows from layer
    to layer.

    Args:
        model: the model.
        direction: of the stream.
        reference: prompts of the class whose mean is taken.
        at: over which of their tokens: the last of each, or all.
        positions: where the coordinate is held: at the tokens that `at` names if left out.

    Raises:
        DirectionError: the direction is zero, not finite, or not as wide as the stream.
    """
    vector = as_direction(direction)
    if vector.shape != (model.d_model,):
        raise DirectionError(
            f"A direction of shape {tuple(vector.shape)} does not fit the stream of {model.name}, "
            f"which is {model.d_model} wide."
        )
    unit = vector.double() / vector.double().norm()
    batch = tokenise(model, reference)
    there = torch.arange(batch.ids.shape[1]) < batch.lengths[:, None]
    if at == "last":
        there = torch.arange(batch.ids.shape[1]) == batch.lengths[:, None] - 1
    names = stream_sites(model)
    # Together where that is little; all places of a large model at once would fill the memory.
    size = batch.ids.numel() * model.d_model * 4
    step = max(1, _MOST_BYTES // size)
    where = positions if positions is not None else at
    changes = []
    for start in range(0, len(names), step):
        for name, found in capture(model, batch, names[start : start + step]).items():
            mean = float((found.cpu().double()[there] @ unit).mean())
            changes.append(Intervention.clamp(vector, name, mean, positions=where))
    return tuple(changes)
