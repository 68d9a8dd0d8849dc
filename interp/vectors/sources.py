"""Vectors read from prompts, token by token, at many layers at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from interp.forward.passes import observe
from interp.forward.source import rows_at_once
from interp.model.memory import batches
from interp.model.model import Model
from interp.prompts.tokens import TokenBatch
from interp.sites import Site, shape_at

Indices = npt.NDArray[np.int64]


def read_vectors(
    model: Model,
    batch: TokenBatch,
    site: str,
    layers: Sequence[int],
    example: Indices,
    position: Indices,
) -> Float[Tensor, "layer token ..."]:
    """What these tokens have at a site; only they are kept, on the model's device.

    Args:
        example, position: of each token [token], ascending by example.

    Raises:
        SiteError: the model has no such site or layer.
    """
    sites = [Site(site, layer) for layer in layers]
    shape = (len(layers), len(example), *shape_at(model, site))
    out = torch.empty(shape, dtype=model.dtype, device=model.device)
    size = rows_at_once(model, batch.ids.shape[1], set(sites))

    def work(start: int, stop: int) -> None:
        first, beyond = np.searchsorted(example, [start, stop])
        if first == beyond:
            return
        found = observe(model, batch.ids[start:stop], sites)
        row, at = (
            torch.from_numpy(index).to(model.device)
            for index in (example[first:beyond] - start, position[first:beyond])
        )
        for number, one in enumerate(sites):
            out[number, first:beyond] = found[one][row, at]

    for _ in batches(len(batch), size, work):
        pass
    return out
