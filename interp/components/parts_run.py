"""A run of prompts with what each writer of the residual stream added."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from interp.forward.blocks import BlockCall, Taken, block_call
from interp.forward.hooks import passing
from interp.forward.passes import Recording, check_resumable, record
from interp.model.model import Model
from interp.sites import Site


@dataclass(frozen=True)
class PartsRun:
    """A recorded run with what each writer added.

    Attributes:
        recording: streams into each block, `z` and `mlp_out` of each, and the final stream.
        attention: what each layer's attention was called with.
    """

    recording: Recording
    attention: tuple[BlockCall, ...]

    def pre(self, layer: int) -> Float[Tensor, "example position d_model"]:
        """The stream into block `layer`; the final one after the last block."""
        if layer == len(self.attention):
            return self.recording[Site("resid_post", layer - 1)]
        return self.recording[Site("resid_pre", layer)]

    def z(self, layer: int) -> Float[Tensor, "example position head d_head"]:
        return self.recording[Site("z", layer)]

    def mlp(self, layer: int) -> Float[Tensor, "example position d_model"]:
        return self.recording[Site("mlp_out", layer)]


def run_parts(
    model: Model, ids: Int[Tensor, "example position"], *, for_packing: bool = False
) -> PartsRun:
    """Run prompts once; `for_packing` as for `record`."""
    n = model.n_layers
    sites = [Site(name, i) for name in ("resid_pre", "z", "mlp_out") for i in range(n)]
    calls: dict[int, BlockCall] = {}
    taken: Taken = {}
    check_resumable(model, ids)  # before anything is placed
    with model.lock, contextlib.ExitStack() as stack:
        for layer, block in enumerate(model.bridge.blocks):
            hook = _remember(model, calls, taken, layer, len(ids))
            stack.callback(block.attn.register_forward_pre_hook(hook, with_kwargs=True).remove)
        recording = record(model, ids, [*sites, Site("resid_post", n - 1)], for_packing=for_packing)
    return PartsRun(recording, tuple(calls[layer] for layer in range(n)))


def _remember(
    model: Model, calls: dict[int, BlockCall], taken: Taken, layer: int, batch: int
) -> Any:
    def hook(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # Some blocks pass the stream by name; the attention takes it either way.
        named = {k: v for k, v in kwargs.items() if k != "hidden_states"}
        stream = args or (kwargs["hidden_states"],)
        calls[layer] = block_call(model.name, stream, named, batch, taken)

    return passing(hook)
