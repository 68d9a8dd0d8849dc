"""Single forward passes: observed, recorded, resumed at a block, and read out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from cache.arguments import typed
from interp.forward import packing
from interp.forward.access import keeping
from interp.forward.blocks import BlockCall, Taken, block_call
from interp.forward.packing import Active
from interp.model.model import Model
from interp.sites import Site

__all__ = [
    "TOLERANCE",
    "Recording",
    "embedded",
    "observe",
    "readout",
    "recorded",
    "recording_memory",
    "relative_error",
    "resume",
]

# Relative disagreement of two orders of summation; a skipped norm or soft cap is off by 0.1 or
# more.
TOLERANCE = {
    torch.float64: 1e-3,
    torch.float32: 1e-3,
    torch.float16: 3e-2,
    torch.bfloat16: 1e-1,
}


@dataclass(frozen=True)
class Recording:
    """One forward pass over a batch of prompts.

    Attributes:
        calls: what each block was called with.
        batch: how many rows were run.
        activations: by site, [example, position, …]; copies, safe to change.
        kept: for each block what `interp.forward.packing` needs, where it was asked for.
        past: for each block the keys and values that its attention compared, where they were asked
            for [example, head, position, d_head].
    """

    calls: tuple[BlockCall, ...]
    batch: int
    activations: Mapping[Site, Tensor]
    kept: tuple[packing.Kept, ...] = ()
    past: tuple[tuple[Tensor, Tensor], ...] = ()

    def __getitem__(self, site: Site) -> Tensor:
        return self.activations[site]


def observe(
    model: Model, ids: Int[Tensor, "example position"], sites: Iterable[Site]
) -> dict[Site, Tensor]:
    """Run `ids` as far as the deepest of `sites`, and keep the activations there.

    Returns:
        By site [example, position, …]; copies, safe to change.

    Raises:
        SiteError: the model has no such site.
        ModelError: TransformerLens does not see it there.
    """
    wanted = set(sites)
    with model.lock, torch.no_grad(), contextlib.ExitStack() as stack:
        kept = stack.enter_context(keeping(model, wanted))
        beyond = 1 + max(site.layer for site in wanted)
        inside = beyond < model.n_layers
        stop_before = model.bridge.blocks[beyond] if inside else model.bridge.ln_final
        stack.callback(stop_before.register_forward_pre_hook(_stop).remove)
        model.bridge(ids.to(model.device), use_cache=False, return_type="logits")
    return kept


def embedded(
    model: Model, ids: Int[Tensor, "example position"]
) -> Float[Tensor, "example position d_model"]:
    """The stream into the first block; no block is run."""
    found: list[Tensor] = []

    def stop(_module: Any, args: tuple[Any, ...]) -> None:
        found.append(args[0].detach().clone())
        _stop(_module, args)

    with model.lock, torch.no_grad():
        handle = model.bridge.blocks[0].register_forward_pre_hook(stop)
        try:
            model.bridge(ids.to(model.device), use_cache=False, return_type="logits")
        finally:
            handle.remove()
    return found[0]


def recorded(
    model: Model,
    ids: Int[Tensor, "example position"],
    sites: Iterable[Site],
    *,
    for_packing: bool = False,
    queries: bool = False,
    past: bool = False,
    whole: bool = False,
    then: Callable[[Recording, Tensor, Tensor], None] | None = None,
) -> tuple[Recording, Tensor | None]:
    """As `record`, where `check_resumable` holds; and the logits of a `whole` run.

    Args:
        then: is called after each block, while its weights are here, with what is recorded so far
            and the streams into and out of the block, which it may run again; for no sites.
    """
    calls: dict[int, BlockCall] = {}
    taken: Taken = {}
    streams: list[Tensor] = []
    placed: list[contextlib.ExitStack] = []
    kept_for_others: tuple[dict[str, Tensor], ...] = ()
    ids = ids.to(model.device)
    batch = len(ids)

    def remember(layer: int) -> Callable[[Any, tuple[Any, ...], dict[str, Any]], None]:
        def hook(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            calls[layer] = block_call(model.name, args, kwargs, batch, taken)
            streams[:] = [args[0].detach().clone()] if then is not None else []

        return hook

    def go_on(layer: int) -> Callable[[Any, Any, Any], None]:
        def hook(_module: Any, _args: Any, output: Any) -> None:
            assert then is not None
            placed[layer].close()  # what runs the block again is not recorded
            out = output[0] if isinstance(output, tuple) else output
            so_far = Recording(tuple(calls.values()), batch, {}, kept_for_others)
            then(so_far, streams[0], out)

        return hook

    with model.lock, contextlib.ExitStack() as stack:
        kept = stack.enter_context(keeping(model, sites))
        if for_packing:
            kept_for_others = tuple({} for _ in range(model.n_layers))
        for layer, block in enumerate(model.bridge.blocks):
            placed.append(stack.enter_context(contextlib.ExitStack()))
            handle = block.register_forward_pre_hook(remember(layer), with_kwargs=True)
            placed[layer].callback(handle.remove)
            if for_packing:
                others = kept_for_others[layer]
                for remove in packing.keep_for_others(block, others, queries=queries):
                    placed[layer].callback(remove)
            if then is not None:
                placed[layer].callback(block.register_forward_hook(go_on(layer)).remove)
        if not whole:
            # Nobody reads these logits, and unembedding every position can be a third of the work.
            stack.callback(model.bridge.ln_final.register_forward_pre_hook(_stop).remove)
        # Without a configuration it keeps all positions, those beyond a window too.
        cache = DynamicCache() if past else None
        given = {"past_key_values": cache} if past else {}
        with torch.no_grad():
            logits = model.bridge(ids, use_cache=False, return_type="logits", **given)
    in_order = tuple(calls[layer] for layer in range(model.n_layers))
    layers = [] if cache is None else cache.layers
    seen = tuple((layer.keys.contiguous(), layer.values.contiguous()) for layer in layers)
    recording = Recording(in_order, batch, kept, kept_for_others, seen)
    return recording, logits if whole else None


@typed
def resume(
    model: Model,
    recording: Recording,
    hidden: Float[Tensor, "row position d_model"],
    rows: Int[Tensor, " row"],
    *,
    start: int,
    stop: int | None = None,
    span: tuple[Active, Active] | None = None,
    grad: bool = False,
) -> Float[Tensor, "row position d_model"]:
    """Run blocks `start` to `stop` (all that are left) from a given residual stream.

    Args:
        model: the model; hooks that the caller has placed fire.
        recording: a run of the prompts that the rows were made from.
        hidden: the residual stream into block `start`.
        rows: for each row of `hidden` the recorded example it belongs to.
        span: positions that may have changed, and those of them that will be read at the end;
            only these are computed, and the result holds nothing else. Needs a recording made
            `for_packing` and a model for which `packs` holds.
        grad: whether the result can be differentiated by `hidden`.
    """
    with model.lock, torch.set_grad_enabled(grad):
        for layer in range(start, model.n_layers if stop is None else stop):
            args, kwargs = recording.calls[layer].at(rows, recording.batch)
            block = model.bridge.blocks[layer]
            with contextlib.ExitStack() as stack:
                if span is not None:
                    changed, read = span
                    last = layer == model.n_layers - 1
                    kept = recording.kept[layer]
                    stack.enter_context(
                        packing.packed(block, kept, rows, changed, read if last else None)
                    )
                output = block(hidden, *args, **kwargs)
            hidden = output[0] if isinstance(output, tuple) else output
    return hidden


def readout(
    model: Model, hidden: Float[Tensor, "... d_model"], *, grad: bool = False
) -> Float[Tensor, "... vocabulary"]:
    """Logits, in float32, of final residual streams: norm, unembedding, soft cap or scale.

    With `grad` they can be differentiated by `hidden`.
    """
    with model.lock, torch.set_grad_enabled(grad):
        # Norm components expect [batch, position, d_model].
        flat = hidden.reshape(1, -1, hidden.shape[-1])
        logits: Tensor = model.bridge.unembed(model.bridge.ln_final(flat))
        logits = model.bridge.adapter.apply_output_logits_transform(logits)
    return logits.float().reshape(*hidden.shape[:-1], -1)


def recording_memory(model: Model, length: int, n_sites: int) -> int:
    """Bytes that `record` takes for one prompt of `length` tokens (estimate).

    Args:
        n_sites: how many sites as wide as the residual stream are kept.
    """
    kept = n_sites * length * model.d_model * model.dtype.itemsize
    masks = 2 * length * length * model.dtype.itemsize
    # Some runs go on to the logits, which are in float32 where they are read.
    logits = length * model.d_vocab * model.dtype.itemsize
    return model.memory_per_row(length) + kept + masks + logits


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    difference = (ours.float() - theirs.float()).norm()
    return float(difference / theirs.float().norm().clamp(min=1e-12))


def _stop(_module: Any, args: tuple[Any, ...]) -> None:
    from transformer_lens.model_bridge.exceptions import StopAtLayerException

    # The bridge's forward catches this and puts its own state in order.
    raise StopAtLayerException(args[0])
