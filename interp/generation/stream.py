"""Text that a model writes, token by token, with interventions and with what goes on inside.

An intervention acts on each token in the same way whether it is read or written, and prompts of
unequal length, padded on the right, each have their own positions. What a step reads, and what it
keeps for the next one, is the matter of `interp.generation.reading`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from cache.arguments import typed
from interp import sites as site_names
from interp.errors import SiteError
from interp.forward.interventions import Intervention, plan
from interp.generation.sampling import Dice, Sampling
from interp.generation.writing import Step, Writer, check_room
from interp.model.model import Model
from interp.progress import Progress
from interp.prompts.tokens import Prompts, TokenBatch, tokenise
from interp.sites import Site


@dataclass(frozen=True)
class Generation:
    """What was written.

    Attributes:
        texts: what follows each prompt, without special tokens.
        tokens: token(example, step), id(example, step), logprob(example, step) in nats;
            n_tokens(example); ended(example): "eos" or "length". Beyond a text's end tokens are
            "", ids -1 and log-probabilities NaN.
        activations: by site [example, step, …]; NaN beyond a text's end.
    """

    texts: tuple[str, ...]
    tokens: xr.Dataset
    activations: dict[str, Tensor]


@typed
def stream(
    model: Model,
    prompts: Prompts | str | TokenBatch,
    *,
    max_new_tokens: int = 32,
    sampling: Sampling | None = None,
    interventions: Intervention | Sequence[Intervention] = (),
    sites: str | Site | Iterable[str | Site] = (),
    stop_at_eos: bool = True,
) -> Iterator[Step]:
    """Write, one token at a time for all prompts together.

    Between two steps the model is free for others, and carries no hooks.

    Args:
        model: the model.
        prompts: texts, or token ids [example, position].
        max_new_tokens: for each prompt.
        sampling: how to draw; always the likeliest token if left out.
        interventions: changes of activations. Positions "prompt" and "last" are the prompt's,
            "generated" what follows it, "all" both.
        sites: activations to keep of every step.
        stop_at_eos: whether a text ends with an end-of-sequence token.

    Raises:
        PromptError: an empty prompt, or no room for so many tokens.
        SiteError, DirectionError: sites or interventions that do not fit the model.
        ModelError: logits are infinite or NaN, which half precision overflows to.
    """
    batch = prompts if isinstance(prompts, TokenBatch) else tokenise(model, prompts)
    writer = _writer(
        model, batch, max_new_tokens, sampling, interventions, sites, stop_at_eos, shared=True
    )
    return writer.steps(torch.arange(len(batch)))


@typed
def generate(
    model: Model,
    prompts: Prompts | str | TokenBatch,
    *,
    max_new_tokens: int = 32,
    sampling: Sampling | None = None,
    interventions: Intervention | Sequence[Intervention] = (),
    sites: str | Site | Iterable[str | Site] = (),
    stop_at_eos: bool = True,
    progress: Progress | None = None,
) -> Generation:
    """Write to the end; arguments and errors are those of `stream`.

    Args:
        progress: called with (steps done, steps at most): one step is a token for each prompt, or
            for each of as many prompts as keys and values can be kept of at once.
    """
    batch = prompts if isinstance(prompts, TokenBatch) else tokenise(model, prompts)
    writer = _writer(
        model, batch, max_new_tokens, sampling, interventions, sites, stop_at_eos, shared=False
    )
    steps = []
    portions = writer.portions()
    for number, rows in enumerate(portions):
        for step in writer.steps(rows):
            steps.append(step)
            if progress:
                done = number * max_new_tokens + step.index + 1
                progress(done, len(portions) * max_new_tokens)
    return _collected(model, batch, steps, end_tokens(model) if stop_at_eos else frozenset())


def _writer(
    model: Model,
    batch: TokenBatch,
    max_new_tokens: int,
    sampling: Sampling | None,
    interventions: Intervention | Sequence[Intervention],
    sites: str | Site | Iterable[str | Site],
    stop_at_eos: bool,
    *,
    shared: bool,
) -> Writer:
    check_room(model, batch, max_new_tokens)
    wanted = site_names.named(model, sites)
    for site in wanted:
        if site.kind.pairwise:
            raise SiteError(
                f"{site.kind.plural} grow with the text; capture them from the finished one "
                "instead."
            )
    return Writer(
        model,
        batch,
        torch.full((len(batch),), max_new_tokens),
        dice=Dice(sampling, [batch.row(i) for i in range(len(batch))]) if sampling else None,
        changes=plan(model, interventions, batch.lengths, written=True),
        sites=tuple(wanted),
        ends=end_tokens(model) if stop_at_eos else frozenset(),
        shared=shared,
    )


def end_tokens(model: Model) -> frozenset[int]:
    """The tokens that end a text: the tokenizer's, and those that the checkpoint names."""
    hf = model.bridge.original_model
    named = getattr(getattr(hf, "generation_config", None), "eos_token_id", None)
    ids = named if isinstance(named, list | tuple) else [named]
    return frozenset(int(i) for i in (*ids, model.tokenizer.eos_token_id) if i is not None)


def _collected(
    model: Model, batch: TokenBatch, steps: Sequence[Step], ends: frozenset[int]
) -> Generation:
    shape = (len(batch), max(step.index for step in steps) + 1)
    ids, logprobs = np.full(shape, -1, dtype=np.int64), np.full(shape, np.nan, dtype=np.float32)
    texts = [""] * len(batch)
    activations: dict[str, Tensor] = {}
    for step in steps:
        rows = list(step.examples)
        ids[rows, step.index] = step.ids.numpy()
        logprobs[rows, step.index] = step.logprobs.numpy()
        for example, text in zip(rows, step.texts, strict=True):
            texts[example] += text
        for name, value in step.activations.items():
            if name not in activations:
                activations[name] = value.new_full((*shape, *value.shape[1:]), torch.nan)
            activations[name][rows, step.index] = value
    used = np.unique(ids)
    strings = np.array(["", *model.token_strings(used[used >= 0].tolist())], dtype=object)
    tokens = strings[np.searchsorted(used[used >= 0], ids, side="right")]
    lengths = (ids >= 0).sum(1)
    ended = [
        "eos" if int(row[n - 1]) in ends else "length" for row, n in zip(ids, lengths, strict=True)
    ]
    dims = ("example", "step")
    variables: dict[str, Any] = {
        "token": (dims, tokens),
        "id": (dims, ids),
        "logprob": (dims, logprobs),
        "n_tokens": ("example", lengths),
        "ended": ("example", ended),
    }
    coords = {
        "step": np.arange(shape[1]),
        "prompt": ("example", list(batch.texts)),
        "text": ("example", texts),
    }
    attrs = {"instrument": "generation", **model.identity}
    return Generation(tuple(texts), xr.Dataset(variables, coords, attrs), activations)
