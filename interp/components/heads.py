"""Change what heads put out without running their attention again.

What attention adds is linear in its heads' outputs, so where only these are replaced, the recorded
output of the attention, plus the change times the output matrix, stands for it. The rest of the
block runs as always. Whether a model is like this is tried on its own numbers.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.components.writers import output_matrix
from interp.forward import packing
from interp.forward.access import changing
from interp.forward.packing import Active
from interp.forward.passes import (
    TOLERANCE,
    Recording,
    packs,
    record,
    relative_error,
    resume,
)
from interp.model.model import Model
from interp.sites import Site


def through_block(
    model: Model,
    recording: Recording,
    layer: int,
    change: Float[Tensor, "row position d_model"],
    rows: Int[Tensor, " row"],
    *,
    span: tuple[Active, Active] | None = None,
) -> Float[Tensor, "row position d_model"]:
    """The stream out of a block whose attention adds `change` more than it did in the recording.

    Args:
        recording: made `for_packing`, with the stream into the block.
        rows: for each row the recorded example it belongs to.
        span: as for `resume`.
    """
    stream = recording[Site("resid_pre", layer)].index_select(0, rows)
    added = recording.kept[layer]["attn"].index_select(0, rows) + change
    with model.lock, packing.attention_adds(model.bridge.blocks[layer], added):
        return resume(model, recording, stream, rows, start=layer, stop=layer + 1, span=span)


def linear_in_heads(model: Model, ids: Int[Tensor, "example position"]) -> bool:
    """Whether `through_block` gives this model's numbers; tried once, on the first prompt."""
    return model.once("heads", lambda: packs(model, ids) and _is_linear(model, ids[:1]))


def _is_linear(model: Model, ids: Int[Tensor, "1 position"]) -> bool:
    layers = range(model.n_layers)
    sites = [Site(name, layer) for name in ("resid_pre", "z") for layer in layers]
    recording = record(model, ids, [*sites, Site("resid_post", layers[-1])], for_packing=True)
    row = torch.zeros(1, dtype=torch.long, device=model.device)

    def silence(z: Tensor) -> Tensor:
        z = z.clone()
        z[:, :, 0] = 0
        return z

    for layer in layers:
        stream = recording[Site("resid_pre", layer)]
        try:
            change = -recording[Site("z", layer)][:, :, 0] @ output_matrix(model, layer)[0]
            ours = through_block(model, recording, layer, change, row)
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError):
            return False
        with changing(model, [(Site("z", layer), silence)]):
            theirs = resume(model, recording, stream, row, start=layer, stop=layer + 1)
        plain = resume(model, recording, stream, row, start=layer, stop=layer + 1)
        if not relative_error(ours - plain, theirs - plain) <= 10 * TOLERANCE[model.dtype]:
            return False
    return True
