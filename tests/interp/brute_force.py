"""Sweeps by brute force: for each cell one whole forward pass of Hugging Face's model."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from tests.interp import reference
from tests.interp.pairs import CASES, Case, Slot, slots
from tests.interp.tiny import N_HEADS, N_KEY_VALUE_HEADS, N_LAYERS, Tiny, words

RUNS = {"denoising": ("corrupt", "clean"), "noising": ("clean", "corrupt")}
LAYERS = range(N_LAYERS)
Where = list[tuple[int, int]]
"""Tokens to replace: index in the changed prompt, index in the prompt the value comes from."""


def score(tiny: Tiny, metric: str, prompt: list[int], case: Case) -> float:
    """A metric read directly from Hugging Face's logits."""
    return scores(tiny, metric, prompt, case, 1)[0]


def scores(tiny: Tiny, metric: str, prompt: list[int], case: Case, n: int) -> list[float]:
    """The same of each of `n` copies of the prompt."""
    answer, foil = words(case.answer), words(case.foil)
    if metric in ("answer_logprob", "probability", "logprob_diff"):
        found = np.array(reference.continuation_logprobs(tiny, prompt, answer, n))
        if metric == "probability":
            found = np.exp(found)
        if metric == "logprob_diff":
            found = found - reference.continuation_logprobs(tiny, prompt, foil, n)
        return [float(value) for value in found]
    last = reference.copies(tiny, prompt, n)[:, -1]
    right = last[:, answer[0]]
    if metric == "rank":
        return (last > right[:, None]).sum(1).double().tolist()  # type: ignore[no-any-return]
    if metric == "first_token_logprob":
        return last.log_softmax(-1)[:, answer[0]].tolist()  # type: ignore[no-any-return]
    assert metric == "logit_diff"
    return (right - last[:, foil[0]]).tolist()  # type: ignore[no-any-return]


def replaced(
    tiny: Tiny,
    case: Case,
    site: str,
    layer: int,
    cells: Sequence[tuple[Where, int | None]],
    direction: str,
    metric: str = "logit_diff",
) -> list[float]:
    """By cell (places, head) the metric of one whole pass with that activation replaced."""
    base, source = (case.ids(tiny, run) for run in RUNS[direction])
    values = reference.activation(tiny, tuple(source), site, layer)

    def change(where: Where, head: int | None, value: torch.Tensor) -> None:
        for destination, origin in where:
            if head is None:
                value[destination] = values[origin]
            else:
                value[destination, head] = values[origin, head]

    changes = [functools.partial(change, *cell) for cell in cells]
    with reference.intervened(tiny, site, layer, *changes):
        return scores(tiny, metric, base, case, len(cells))


def places(tiny: Tiny, by: str, direction: str) -> dict[str, list[Where]]:
    """For each index of the position axis the tokens to replace in each example."""
    axis: list[Slot] = slots(tiny)
    named = {label: [[] if pair is None else [pair] for pair in at] for label, at in axis}
    if by == "span":
        grouped: dict[str, list[Where]] = {}
        for label, at in named.items():
            so_far = grouped.setdefault(label.rsplit(" ", 1)[0], [[] for _ in CASES])
            for example, pairs in enumerate(at):
                so_far[example].extend(pairs)
        named = grouped
    elif by == "all":
        named = {"": [[p for at in named.values() for p in at[e]] for e in range(len(CASES))]}
    if direction == "denoising":
        named = {label: [[(k, c) for c, k in w] for w in at] for label, at in named.items()}
    return named


def n_heads(tiny: Tiny, site: str) -> int:
    return N_KEY_VALUE_HEADS if tiny.name == "llama" and site in ("k", "v") else N_HEADS


def patched(
    tiny: Tiny, site: str, direction: str, by: tuple[str, ...], metric: str = "logit_diff"
) -> np.ndarray[Any, Any]:
    """patched [example, layer, (position or span), (head)], one forward pass after another."""
    along = next((axis for axis in by if axis != "head"), "all")
    where = places(tiny, along, direction)
    heads: Sequence[int | None] = range(n_heads(tiny, site)) if "head" in by else [None]
    out = np.full((len(CASES), N_LAYERS, len(where), len(heads)), np.nan)
    for (example, case), layer in itertools.product(enumerate(CASES), LAYERS):
        at = {
            (p, h): (chosen[example], head)
            for p, chosen in enumerate(where.values())
            for h, head in enumerate(heads)
            if chosen[example]
        }
        found = replaced(tiny, case, site, layer, list(at.values()), direction, metric)
        for cell, value in zip(at, found, strict=True):
            out[example, layer][cell] = value
    kept = [axis for axis, name in ((2, "position"), (3, "head")) if name in by or axis == 2]
    if along == "all":
        kept = [axis for axis in kept if axis != 2]
    return out.reshape(*out.shape[:2], *(out.shape[axis] for axis in kept))


@functools.cache
def unpatched(tiny: Tiny, run: str, metric: str = "logit_diff") -> list[float]:
    return [score(tiny, metric, case.ids(tiny, run), case) for case in CASES]
