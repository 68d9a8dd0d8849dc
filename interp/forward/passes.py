"""The hooked forward passes that everything else is made of.

`observe` runs prompts as far as needed and keeps activations; `record` runs them to the end and
keeps what each block was called with too; `resume` goes on from any block with other rows in the
residual stream.
"""

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
from interp.errors import ModelError, first_sentence
from interp.forward import packing
from interp.forward.access import keeping
from interp.forward.blocks import BlockCall, Taken, block_call
from interp.forward.calls import Gives, what_blocks_give
from interp.forward.finite import no_numbers
from interp.forward.packing import Active
from interp.model.identity.structure import hooks, walk
from interp.model.memory import batches, is_out_of_memory
from interp.model.model import Model
from interp.sites import Site

# Relative disagreement of two orders of summation; a skipped norm or soft cap is off by 0.1 or
# more.
TOLERANCE = {
    torch.float64: 1e-3,
    torch.float32: 1e-3,
    torch.float16: 3e-2,
    torch.bfloat16: 1e-1,
}
# Positions at which the logits of a resumed run are compared: the last, which depend on the others.
_CHECKED = 16


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


@typed
def record(
    model: Model,
    ids: Int[Tensor, "example position"],
    sites: Iterable[Site],
    *,
    for_packing: bool = False,
    queries: bool = False,
    past: bool = False,
) -> Recording:
    """Run `ids` once and keep what `resume` needs, and the activations at `sites`.

    With `for_packing`, keys and values are kept too, and with `queries` these as well (see
    `interp.forward.packing`); with `past`, keys and values as they are compared (see
    `interp.forward.windows`).

    No gradients are recorded. The first call on a model checks, on the first two prompts, that
    resuming and reading out reproduce the model's logits, and refuses the model otherwise.

    Raises:
        ModelError: this architecture cannot be resumed exactly.
        SiteError: the model has no such site.
    """
    check_resumable(model, ids)
    return recorded(model, ids, sites, for_packing=for_packing, queries=queries, past=past)[0]


def recorded(
    model: Model,
    ids: Int[Tensor, "example position"],
    sites: Iterable[Site],
    *,
    for_packing: bool = False,
    queries: bool = False,
    past: bool = False,
    whole: bool = False,
) -> tuple[Recording, Tensor | None]:
    """As `record`, where `check_resumable` holds; and the logits of a `whole` run."""
    calls: dict[int, BlockCall] = {}
    taken: Taken = {}
    kept_for_others: tuple[dict[str, Tensor], ...] = ()
    ids = ids.to(model.device)
    batch = len(ids)

    def remember(layer: int) -> Callable[[Any, tuple[Any, ...], dict[str, Any]], None]:
        def hook(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            calls[layer] = block_call(model.name, args, kwargs, batch, taken)

        return hook

    with model.lock, contextlib.ExitStack() as stack:
        kept = stack.enter_context(keeping(model, sites))
        for layer, block in enumerate(model.bridge.blocks):
            handle = block.register_forward_pre_hook(remember(layer), with_kwargs=True)
            stack.callback(handle.remove)
        if for_packing:
            kept_for_others = tuple({} for _ in range(model.n_layers))
            for block, block_kept in zip(model.bridge.blocks, kept_for_others, strict=True):
                for remove in packing.keep_for_others(block, block_kept, queries=queries):
                    stack.callback(remove)
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


def packs(model: Model, ids: Int[Tensor, "example position"]) -> bool:
    """Whether `resume` with a span gives this model's numbers; tried once, on the first prompt.

    Everything outside of the span is zeroed for the trial, so that an architecture in which
    something else than the recorded keys and values reads it cannot pass.
    """
    if ids.shape[1] < 2:
        return False  # nothing to try it on

    def trial() -> bool:
        # One piece of one prompt, so that it is told where not even this fits into memory.
        return next(batches(1, 1, lambda *_: _packs(model, ids[:1])))[-1]

    return model.once("packs", trial)


def _packs(model: Model, ids: Int[Tensor, "1 position"]) -> bool:
    if not all(packing.can_pack(block) for block in model.bridge.blocks):
        return False
    if any(not hook.momentary for hook in hooks(walk(model.bridge))):
        return False  # which was written for whole activations
    length = ids.shape[1]
    entry, exit_ = Site("resid_pre", 0), Site("resid_post", model.n_layers - 1)
    recording = record(model, ids, [entry, exit_], for_packing=True)
    row = torch.zeros(1, dtype=torch.long, device=model.device)
    changed = Active.between(row + length // 2, row + length - 1, length)
    read = Active.between(row + length - 1, row + length - 1, length)
    stream = recording[entry]
    stream[:, : length // 2] = 0
    try:
        ours = resume(model, recording, stream, row, start=0, span=(changed, read))[:, -1]
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError):
        return False
    return relative_error(ours, recording[exit_][:, -1]) <= TOLERANCE[model.dtype]


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


def check_resumable(model: Model, ids: Int[Tensor, "example position"]) -> Gives | None:
    """See that resuming reproduces the logits; tried once, on the first two prompts.

    Returns:
        What its blocks give, if what they are called with can be found without running them.

    Raises:
        ModelError: it does not.
    """
    return model.once("resumes", lambda: _check_resumes(model, ids))


def _check_resumes(model: Model, ids: Int[Tensor, "example position"]) -> Gives | None:
    # Two rows, since arguments made for one example can look as if they were made for the batch.
    rows = torch.zeros(2, dtype=torch.long, device=model.device)
    entry = Site("resid_pre", 0)
    recording, logits = recorded(model, ids[:2], [entry], whole=True)
    assert logits is not None
    sound = logits.amax(-1).isfinite().all(1)
    if not bool(sound.all()):
        row = ids[int((~sound).cpu().nonzero()[0])][None]
        text = model.decode(row[0].tolist())
        raise no_numbers(model, text, lambda sites: observe(model, row, sites))
    stream = recording[entry].index_select(0, rows)
    try:
        ours = readout(model, resume(model, recording, stream, rows, start=0)[1:, -_CHECKED:])
    except (AttributeError, IndexError, RuntimeError, TypeError) as error:
        if isinstance(error, RuntimeError) and is_out_of_memory(error):
            raise
        raise ModelError(
            f"{model.name} cannot be resumed block by block ({first_sentence(error)}); choose "
            "another architecture, such as GPT-2 or Llama."
        ) from error
    found = relative_error(ours, logits[:1, -_CHECKED:].float())
    if not found <= TOLERANCE[model.dtype]:
        raise ModelError(
            f"Resuming {model.name} block by block does not reproduce its own logits (relative "
            f"error {found:.2g}); its architecture computes something between the blocks, so no "
            "patch on it would be exact."
        )
    return what_blocks_give(model, ids[:2], recording[entry], recording.calls)
