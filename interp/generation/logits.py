"""What a model predicts: its own logits, with or without interventions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cache.arguments import typed
from interp.forward.access import Points, keeping
from interp.forward.interventions import Intervention, Plan, plan
from interp.forward.passes import recording_memory
from interp.forward.past import Past
from interp.forward.plain import PlainBlocks
from interp.model.memory import batches, rows_that_fit
from interp.model.model import Model
from interp.progress import Progress
from interp.prompts.tokens import Prompts, TokenBatch, blank, tokenise
from interp.sites import Site


@typed
def logits(
    model: Model,
    prompts: Prompts | str | TokenBatch,
    *,
    positions: Literal["all", "last"] = "last",
    interventions: Intervention | Sequence[Intervention] = (),
    progress: Progress | None = None,
) -> Float[Tensor, "example *position vocabulary"]:
    """The model's logits of the next token, in float32 on its device.

    Args:
        model: the model.
        prompts: texts, or token ids [example, position].
        positions: "last" for the end of each prompt only, "all" for each of its tokens.
        interventions: changes of activations made meanwhile.
        progress: called with (prompts done, prompts in all).

    Returns:
        [example, vocabulary], or with positions="all" [example, position, vocabulary], with NaN
        beyond a shorter prompt's end.

    Raises:
        PromptError: a prompt is empty or too long.
        SiteError, DirectionError: an intervention does not fit the model.
    """
    batch = prompts if isinstance(prompts, TokenBatch) else tokenise(model, prompts)
    changes = plan(model, interventions, batch.lengths)
    width = batch.ids.shape[1]
    where = torch.arange(width).expand(len(batch), -1)
    if positions == "last":
        where = (batch.lengths - 1)[:, None]
    reads = 2 * 4 * where.shape[1] * model.d_vocab
    pieces = []

    def work(start: int, stop: int) -> Tensor:
        rows = torch.arange(start, stop)
        return predict(model, batch.ids[start:stop], where[start:stop], changes, rows)[0]

    size = rows_that_fit(model, recording_memory(model, width, 0) + reads)
    for _, stop, found in batches(len(batch), size, work):
        pieces.append(found)
        if progress:
            progress(stop, len(batch))
    out = torch.cat(pieces)
    if positions == "last":
        return out[:, 0]
    blank(out, batch.lengths, axis=1)
    return out


def predict(
    model: Model,
    ids: Int[Tensor, "row position"],
    where: Int[Tensor, "row read"],
    changes: Plan,
    examples: Int[Tensor, " row"],
    sites: Points | Iterable[Site] = (),
    *,
    past: Past | None = None,
    plain: PlainBlocks | None = None,
) -> tuple[Float[Tensor, "row read vocabulary"], dict[Site, Tensor]]:
    """One forward pass: logits where they are read, and activations at some sites.

    The model unembeds itself, with all that it does to its logits, but only the positions read.

    Args:
        ids: right-padded token ids; with a `past` that was read before, the next token of each row.
        where: the positions of `ids` that are read.
        changes: interventions, made for prompts of which these rows are the `examples`.
        sites: of activations to keep; with hook points, these are not looked up again.
        past: keys and values, filled here; the caller says of how much text they are.
        plain: run in the place of blocks that are neither changed nor looked into.
    """
    where = where.to(model.device)

    def choose(_module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden = args[0]
        index = where[..., None].expand(-1, -1, hidden.shape[-1])
        return (hidden.gather(1, index), *args[1:])

    positions = past.lengths[:, None] if past is not None and len(past) else None
    arguments = {"use_cache": False} if past is None else past.arguments(model.device)
    points = sites if isinstance(sites, Mapping) else None
    with model.lock, torch.no_grad(), contextlib.ExitStack() as stack:
        stack.enter_context(changes.placed(examples, positions))
        kept = stack.enter_context(keeping(model, sites, points=points))
        if plain is not None:
            stack.enter_context(plain.in_place())
        if ids.shape[1] > 1:
            stack.callback(model.bridge.unembed.register_forward_pre_hook(choose).remove)
        found = model.bridge(ids.to(model.device), return_type="logits", **arguments)
    return found.float(), kept
