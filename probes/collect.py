"""Features from prompts: the model runs, or a store is read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
import torch

from cache.arguments import typed
from cache.store import ActivationStore
from interp import sites as site_names
from interp.errors import ProbeError
from interp.forward.capture import capture
from interp.model.model import Model
from interp.progress import Progress
from interp.prompts.tokens import Prompts, TokenBatch, tokenise
from interp.sites import Site
from probes.features import Features, as_features

Places = Literal["all", "last"] | Mapping[str, int | Sequence[int]]


@typed
def collect(
    model: Model,
    prompts: Prompts | str | TokenBatch,
    sites: str | Site | Iterable[str | Site],
    *,
    positions: Places = "last",
    store: ActivationStore | None = None,
    progress: Progress | None = None,
) -> Features:
    """Activations of the prompts as features.

    Args:
        model: the model.
        prompts: texts, or token ids [example, position].
        sites: as for `interp.capture`; all of one width. Heads of a site stand side by side.
        positions: "last" reads each prompt's last token; "all" makes every token (but BOS) an
            example; {"name": [3, 4, …], "end": -1} reads named places, one position for all
            prompts or one for each, which become sites of their own ("resid_post.0@name").
        store: read from here what is there, and keep here what is not.
        progress: called with (prompts done, prompts in all).

    Raises:
        ProbeError: sites differ in width, or a position lies outside of its prompt.
        SiteError: the model has no such site.
    """
    batch = prompts if isinstance(prompts, TokenBatch) else tokenise(model, prompts)
    wanted = site_names.named(model, sites)
    widths = {math.prod(_shape(model, site)) for site in wanted}
    if len(widths) > 1:
        raise ProbeError(
            f"The sites {', '.join(map(str, wanted))} differ in width; collect those of one width "
            "at a time."
        )
    lengths = batch.lengths.numpy()
    if isinstance(positions, Mapping):
        places = {f"@{name}": _named(name, at, lengths) for name, at in positions.items()}
    elif positions == "all":
        places = {"": _every_token(model, batch)}
    elif positions == "last":
        places = {"": (np.arange(len(batch)), lengths - 1)}
    else:
        raise ProbeError(f"Unknown positions '{positions}'; choose 'last', 'all' or named places.")
    only_last = positions == "last"
    found = capture(
        model,
        batch,
        wanted,
        positions="last" if only_last else "all",
        store=store,
        progress=progress,
    )
    values, names = [], []
    for suffix, (prompt, place) in places.items():
        rows, columns = torch.as_tensor(prompt), torch.as_tensor(place)
        for name, value in found.items():
            chosen = value if only_last else value[rows.to(value.device), columns.to(value.device)]
            values.append(chosen.flatten(1))
            names.append(name + suffix)
    prompt, place = next(iter(places.values()))
    tokens = model.token_strings([int(i) for i in batch.ids[prompt, place]])
    return as_features(
        Features(torch.stack(values), tuple(names), tuple(tokens), prompt, model.identity)
    )


@typed
def token_counts(
    model: Model, prompts: Prompts | str | TokenBatch, until: int | Sequence[int] = -1
) -> Features:
    """How often each token stands in each prompt: what the words alone tell, to compare with.

    Args:
        model: whose tokenizer tells tokens.
        prompts: texts, or token ids [example, position].
        until: the last position that is counted, one for all prompts or one for each.

    Returns:
        One site, "words", with a dim for each token that stands anywhere.

    Raises:
        ProbeError: a position lies outside of its prompt.
    """
    batch = prompts if isinstance(prompts, TokenBatch) else tokenise(model, prompts)
    _, places = _named("until", until, batch.lengths.numpy())
    read = [batch.row(number)[: place + 1] for number, place in enumerate(places.tolist())]
    column = {token: i for i, token in enumerate(sorted({t for row in read for t in row}))}
    counts = torch.zeros(1, len(read), len(column))
    for number, row in enumerate(read):
        for token in row:
            counts[0, number, column[token]] += 1
    return Features(counts, ("words",), identity=model.identity)


def _shape(model: Model, site: Site) -> tuple[int, ...]:
    if site.kind.pairwise:
        raise ProbeError(f"{site.kind.plural} have no fixed width; probe 'z' instead.")
    return site_names.shape_at(model, site.name)[0 if site.head is None else 1 :]


def _every_token(model: Model, batch: TokenBatch) -> tuple[np.ndarray, np.ndarray]:
    bos = model.tokenizer.bos_token_id
    pairs = [
        (number, position)
        for number in range(len(batch))
        for position, token in enumerate(batch.row(number))
        if position or token != bos
    ]
    if not pairs:
        raise ProbeError("The prompts have no token besides BOS; give longer ones.")
    prompt, place = np.array(pairs, dtype=np.int64).T
    return prompt, place


def _named(
    name: str, at: int | Sequence[int], lengths: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    place = (
        np.broadcast_to(np.asarray(at, dtype=np.int64), lengths.shape)
        if np.ndim(at) == 0
        else (np.asarray(at, dtype=np.int64))
    )
    if place.shape != lengths.shape:
        raise ProbeError(
            f"The place '{name}' has {place.size} positions for {len(lengths)} prompts; give one "
            "for each, or one for all."
        )
    counted = np.where(place < 0, place + lengths, place)
    outside = (counted < 0) | (counted >= lengths)
    if outside.any():
        prompt = int(outside.argmax())
        raise ProbeError(
            f"The place '{name}' is at position {place[prompt]} of prompt {prompt}, which has only "
            f"{lengths[prompt]} tokens."
        )
    return np.arange(len(lengths)), counted
