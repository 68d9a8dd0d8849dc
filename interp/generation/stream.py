"""Text that a model writes, token by token, with interventions and with what goes on inside.

Every step runs all tokens so far. Nothing is kept from step to step: no cache of keys and values,
so an intervention acts on each token in the same way whether it is read or written, and prompts of
unequal length, padded on the right, each have their own positions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from cache.arguments import typed
from interp import sites as site_names
from interp.errors import PromptError, SiteError
from interp.forward.interventions import Intervention, Plan, plan
from interp.forward.passes import recording_memory
from interp.generation.logits import predict
from interp.generation.sampling import Dice, Sampling
from interp.model.memory import batches, rows_that_fit
from interp.model.model import Model
from interp.progress import Progress
from interp.prompts.tokens import Prompts, TokenBatch, tokenise
from interp.sites import Site


@dataclass(frozen=True)
class Step:
    """One token for each prompt that is not finished.

    Attributes:
        index: how many tokens were written before.
        examples: the numbers of these prompts [row].
        ids: the tokens [row].
        texts: what they add to the text [row]; a character of which a part is still to come is
            held back.
        logprobs: of the tokens under the model, in nats, whatever was sampled by [row].
        activations: by site, at the token from which this one was predicted [row, …].
    """

    index: int
    examples: tuple[int, ...]
    ids: Int[Tensor, " row"]
    texts: tuple[str, ...]
    logprobs: Float[Tensor, " row"]
    activations: dict[str, Tensor]


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
    """
    batch = prompts if isinstance(prompts, TokenBatch) else tokenise(model, prompts)
    _check_room(model, batch, max_new_tokens)
    wanted = site_names.named(model, sites)
    for site in wanted:
        if site.kind.pairwise:
            raise SiteError(
                f"{site.kind.plural} grow with the text; capture them from the finished one "
                "instead."
            )
    writer = _Writer(
        model,
        batch,
        max_new_tokens,
        Dice(sampling, [batch.row(i) for i in range(len(batch))]) if sampling else None,
        plan(model, interventions, batch.lengths, written=True),
        tuple(wanted),
        end_tokens(model) if stop_at_eos else frozenset(),
    )
    return writer.steps()


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
        progress: called with (tokens written for each prompt, at most).
    """
    batch = prompts if isinstance(prompts, TokenBatch) else tokenise(model, prompts)
    steps = []
    for step in stream(
        model,
        batch,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        interventions=interventions,
        sites=sites,
        stop_at_eos=stop_at_eos,
    ):
        steps.append(step)
        if progress:
            progress(step.index + 1, max_new_tokens)
    return _collected(model, batch, steps, end_tokens(model) if stop_at_eos else frozenset())


def end_tokens(model: Model) -> frozenset[int]:
    """The tokens that end a text: the tokenizer's, and those that the checkpoint names."""
    hf = model.bridge.original_model
    named = getattr(getattr(hf, "generation_config", None), "eos_token_id", None)
    ids = named if isinstance(named, list | tuple) else [named]
    return frozenset(int(i) for i in (*ids, model.tokenizer.eos_token_id) if i is not None)


class _Writer:
    def __init__(
        self,
        model: Model,
        batch: TokenBatch,
        max_new_tokens: int,
        dice: Dice | None,
        changes: Plan,
        sites: tuple[Site, ...],
        ends: frozenset[int],
    ) -> None:
        self._model, self._dice, self._changes, self._sites = model, dice, changes, sites
        self._n, self._ends = max_new_tokens, ends
        room = torch.zeros(len(batch), max_new_tokens, dtype=torch.long)
        self._ids = torch.cat([batch.ids, room], dim=1)
        self._lengths = batch.lengths.clone()
        self._texts = [Text(model, batch.row(i)) for i in range(len(batch))]

    def steps(self) -> Iterator[Step]:
        open_rows = torch.arange(len(self._lengths))
        for index in range(self._n):
            logits, activations = self._run(open_rows)
            examples = tuple(open_rows.tolist())
            ids = self._dice.draw(logits, examples) if self._dice else logits.argmax(-1)
            logprobs = logits.log_softmax(-1).gather(1, ids[:, None])[:, 0]
            self._ids[open_rows, self._lengths[open_rows]] = ids
            self._lengths[open_rows] += 1
            ended = torch.tensor([int(i) in self._ends for i in ids])
            done = ended | (index == self._n - 1)
            texts = tuple(
                self._texts[example].add(int(i), finished=bool(stop))
                for example, i, stop in zip(examples, ids, done, strict=True)
            )
            yield Step(index, examples, ids, texts, logprobs, activations)
            open_rows = open_rows[~ended]
            if not len(open_rows):
                return

    def _run(self, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Next-token logits on the CPU, and activations, at the end of each text."""
        length = int(self._lengths[rows].max())
        whole = {Site(site.name, site.layer) for site in self._sites}
        found: list[Tensor] = []
        kept: dict[str, list[Tensor]] = {str(site): [] for site in self._sites}

        def work(start: int, stop: int) -> tuple[Tensor, dict[Site, Tensor]]:
            part = rows[start:stop]
            ends = (self._lengths[part] - 1)[:, None]
            ids = self._ids[part, :length]
            return predict(self._model, ids, ends, self._changes, part, whole)

        width = sum(site_names.width_at(self._model, site.name, length) for site in whole)
        streams = -(-width // self._model.d_model)
        size = rows_that_fit(self._model, recording_memory(self._model, length, streams))
        for start, stop, (logits, activations) in batches(len(rows), size, work):
            found.append(logits[:, 0].cpu())
            ends = self._lengths[rows[start:stop]] - 1
            for site in self._sites:
                value = activations[Site(site.name, site.layer)]
                rows_here = torch.arange(stop - start, device=value.device)
                value = value[rows_here, ends.to(value.device)]
                kept[str(site)].append(value if site.head is None else value[:, site.head])
        return torch.cat(found), {name: torch.cat(parts) for name, parts in kept.items()}


class Text:
    """A text that grows by tokens; characters can take several of them."""

    def __init__(self, model: Model, prompt: list[int]) -> None:
        self._model, self._ids = model, list(prompt)
        self._shown = model.decode(prompt)

    def add(self, token: int, *, finished: bool) -> str:
        self._ids.append(token)
        whole = self._model.decode(self._ids)
        if not finished and whole.endswith("\ufffd"):
            return ""
        new = whole[len(self._shown) :]
        self._shown = whole
        return new


def _collected(
    model: Model, batch: TokenBatch, steps: Sequence[Step], ends: frozenset[int]
) -> Generation:
    shape = (len(batch), len(steps))
    ids, logprobs = np.full(shape, -1, dtype=np.int64), np.full(shape, np.nan, dtype=np.float32)
    tokens = np.full(shape, "", dtype=object)
    texts = [""] * len(batch)
    activations: dict[str, Tensor] = {}
    for step in steps:
        rows = list(step.examples)
        ids[rows, step.index] = step.ids.numpy()
        logprobs[rows, step.index] = step.logprobs.numpy()
        tokens[rows, step.index] = model.token_strings(step.ids.tolist())
        for example, text in zip(rows, step.texts, strict=True):
            texts[example] += text
        for name, value in step.activations.items():
            if name not in activations:
                activations[name] = value.new_full((*shape, *value.shape[1:]), torch.nan)
            activations[name][rows, step.index] = value
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
        "step": np.arange(len(steps)),
        "prompt": ("example", list(batch.texts)),
        "text": ("example", texts),
    }
    attrs = {"instrument": "generation", **model.identity}
    return Generation(tuple(texts), xr.Dataset(variables, coords, attrs), activations)


def _check_room(model: Model, batch: TokenBatch, max_new_tokens: int) -> None:
    if max_new_tokens < 1:
        raise PromptError(f"{max_new_tokens} new tokens are nothing to write; ask for 1 or more.")
    longest = int(batch.lengths.max())
    # The last token is written and not read.
    room = model.n_ctx - longest + 1
    if max_new_tokens > room:
        raise PromptError(
            f"The longest prompt takes {longest} of the {model.n_ctx} tokens that {model.name} "
            f"reads, so there is no room for {max_new_tokens} new ones; ask for at most {room}."
        )
