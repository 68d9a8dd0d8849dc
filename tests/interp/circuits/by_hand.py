"""Scores of edges from the split forward pass: one edge at a time, or by autograd."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.interp.circuits.split import Split
from tests.interp.pairs import CASES, Case, slots
from tests.interp.tiny import Tiny, words

Table = np.ndarray[Any, Any]
Metric = Callable[[Tensor], Tensor]
"""From logits [row, position, vocabulary] to [row]."""


@dataclass(frozen=True)
class Question:
    """What is read of one pair of sequences.

    Attributes:
        clean, corrupt: token ids.
        where: which position of the clean sequence corresponds to which of the corrupted one.
        metric: what is read of the clean sequence's logits.
    """

    clean: Sequence[int]
    corrupt: Sequence[int]
    where: Sequence[tuple[int, int]]
    metric: Metric


def questions(tiny: Tiny, case: Case, metric: str = "logit_diff") -> list[Question]:
    """One for each sequence that the metric reads."""
    clean, corrupt = case.ids(tiny, "clean"), case.ids(tiny, "corrupt")
    where = [at[CASES.index(case)] for _, at in slots(tiny)]
    matched = [pair for pair in where if pair is not None]
    answer, foil = words(case.answer), words(case.foil)
    if metric == "logit_diff":
        last = len(clean) - 1
        return [
            Question(clean, corrupt, matched, lambda t: t[:, last, answer[0]] - t[:, last, foil[0]])
        ]
    assert metric == "logprob_diff"
    found = []
    for sign, tokens in ((1.0, answer), (-1.0, foil)):
        forced = tokens[:-1]
        after = [(len(clean) + i, len(corrupt) + i) for i in range(len(forced))]
        found.append(
            Question(
                [*clean, *forced],
                [*corrupt, *forced],
                [*matched, *after],
                _logprob(len(clean), tokens, sign),
            )
        )
    return found


def _logprob(length: int, tokens: Sequence[int], sign: float) -> Metric:
    def read(logits: Tensor) -> Tensor:
        table = logits.log_softmax(-1)
        steps = [table[:, length - 1 + i, token] for i, token in enumerate(tokens)]
        return sign * torch.stack(steps).sum(0)

    return read


def changes(split: Split, question: Question) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What each writer writes in the clean run, and corrupted minus clean where both have it."""
    with torch.no_grad():
        clean = split.run(split.embed(question.clean)).written
        corrupt = split.run(split.embed(question.corrupt)).written
    moved = {}
    for name, value in clean.items():
        change = torch.zeros_like(value)
        for here, there in question.where:
            change[:, here] = corrupt[name][:, there] - value[:, here]
        moved[name] = change
    return clean, moved


def exact(split: Split, question: Question) -> Table:
    """Drop of the metric when one edge is corrupted [source, destination]; NaN where there is none.

    One forward pass for each edge; those of a reader run side by side.
    """
    sources, destinations = split.sources(), split.destinations()
    _, change = changes(split, question)
    table = np.full((len(sources), len(destinations)), np.nan)
    embedding = split.embed(question.clean)
    with torch.no_grad():
        unpatched = question.metric(split.run(embedding).logits)
        for column, destination in enumerate(destinations):
            writers = split.reads(destination)
            added = torch.cat([change[name] for name in writers])
            value = question.metric(split.run(embedding, added={destination: added}).logits)
            rows = [sources.index(name) for name in writers]
            table[rows, column] = (unpatched - value).numpy()
    return table


def estimated(split: Split, question: Question, method: str, steps: int = 5) -> Table:
    """Scores by gradients [position, source, destination]; NaN where there is no edge.

    EAP: the change of a writer times the gradient of minus the metric by what a reader reads. The
    other methods take the mean of this gradient over other runs.
    """
    clean, change = changes(split, question)
    gradients = [
        gradient(split, question, *runs) for runs in points(split, clean, change, method, steps)
    ]
    destinations = split.destinations()
    mean = {name: torch.cat([g[name] for g in gradients]).mean(0) for name in destinations}
    shape = (len(question.clean), len(split.sources()), len(destinations))
    table = np.full(shape, np.nan)
    for column, destination in enumerate(destinations):
        for row, source in enumerate(split.sources()):
            if source in split.reads(destination):
                table[:, row, column] = (change[source][0] * mean[destination]).sum(-1).numpy()
    return table


Points = tuple[Tensor, dict[str, Tensor]]
"""Of runs side by side the embeddings [row, position, d_model], and what writers write instead."""


def points(
    split: Split, clean: dict[str, Tensor], change: dict[str, Tensor], method: str, steps: int
) -> Iterable[Points]:
    """The runs whose gradients are taken."""

    def between(name: str, *parts: float) -> Tensor:
        """As much of the way to what the corrupted run writes."""
        return torch.cat([clean[name] + part * change[name] for part in parts])

    if method == "eap":
        yield clean["input"], {}
    elif method == "clean-corrupted":
        yield between("input", 0, 1), {}
    elif method == "eap-ig":
        # From the corrupted embedding, included, to the clean one, left out.
        yield between("input", *(1 - step / steps for step in range(steps))), {}
    else:
        assert method == "eap-ig-activations"
        parts = [1 - step / steps for step in range(1, steps + 1)]
        yield between("input", *parts), {}
        for layer in range(split.n_layers):
            heads = [f"a{layer}.h{head}" for head in range(split.n_heads)]
            for group in (heads, [f"m{layer}"]):
                instead = {name: between(name, *parts) for name in group}
                yield clean["input"].repeat(steps, 1, 1), instead


def gradient(
    split: Split, question: Question, embedding: Tensor, instead: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Of minus the metric by what each reader reads [row, position, d_model]."""
    added = {name: torch.zeros_like(embedding).requires_grad_() for name in split.destinations()}
    value = question.metric(split.run(embedding.detach(), added=added, instead=instead).logits)
    found = torch.autograd.grad(
        -value.sum(), list(added.values()), allow_unused=True, materialize_grads=True
    )
    return dict(zip(added, found, strict=True))
