"""What is measured in a model: whose answer it gives, where its last token attends, what a patch of
that brings back. Values per case; nothing is averaged."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import torch
import xarray as xr

from experiments.injection.data import CONDITIONS, Cases
from experiments.phenomena.phenomenon import Subject
from experiments.reporter import Progress
from interp import PromptPairs, fit_focus_detector, instruction_focus, logits, select_heads
from interp.errors import PromptError
from interp.model.model import Model
from interp.patching import Patch, patch_sets

__all__ = ["CHOSEN", "EVERY", "LEAST_HEADS", "RANDOM", "answers", "detection", "focus", "restored"]

Heads: TypeAlias = "tuple[tuple[int, int], ...]"

LEAST_HEADS = 3
"""How many heads are chosen, at the largest n at which so many are left."""
CHOSEN, RANDOM, EVERY, WHOLE = (
    "chosen heads",
    "random heads",
    "all heads",
    "chosen heads, all tokens",
)
_RANDOM_SETS = 30
_RANDOM_DRAWS = 100


def answers(subject: Subject[Cases], seed: int, progress: Progress) -> xr.Dataset:
    """Whose answer is given, by (example, condition).

    Returns:
        margin, by how many nats the task's answer is likelier than the injection's (first tokens);
        right, whether it is the likeliest token of all; said, that token; prompt.
    """
    model, data = subject.model, subject.data
    pairs = _pairs(model, data)
    own, other = pairs.first_tokens("answer"), pairs.first_tokens("foil")
    pairs.check_first_tokens()
    index = torch.arange(len(own))
    margins, right, said = [], [], []
    for number, condition in enumerate(CONDITIONS):
        found = logits(model, data.prompts(condition)).cpu()
        margins.append((found[index, own] - found[index, other]).double().numpy())
        top = found.argmax(-1)
        right.append((top == own).numpy())
        said.append(model.token_strings(top.tolist()))
        progress(number + 1, len(CONDITIONS))
    dims = ("example", "condition")
    return xr.Dataset(
        {
            "margin": (dims, np.stack(margins, 1)),
            "right": (dims, np.stack(right, 1)),
            "said": (dims, np.array(said, dtype=str).T),
            "prompt": (dims, np.array([data.prompts(one) for one in CONDITIONS], dtype=str).T),
        },
        {"condition": list(CONDITIONS), **_labels(data)},
    )


def focus(subject: Subject[Cases], seed: int, progress: Progress) -> xr.Dataset:
    """The focus of heads on the task: chosen(layer, head), of cases of the families that choose;
    and of all cases score(example, condition), the mean of the chosen heads, others(…), the mean of
    all others. NaN where no head is chosen, or none is left."""
    found = _focus(subject, progress)
    heads, n = _choose(found, subject.data)
    layers, per_layer = subject.model.n_layers, subject.model.n_heads
    chosen = np.zeros((layers, per_layer), dtype=np.bool_)
    for layer, head in heads:
        chosen[layer, head] = True
    values = np.stack([one["focus"].values for one in found.values()], 1).astype(np.float64)
    return xr.Dataset(
        {
            "chosen": (("layer", "head"), chosen),
            "n": float(n),
            "score": (("example", "condition"), _mean(values, chosen)),
            "others": (("example", "condition"), _mean(values, ~chosen)),
            "fall": (("layer", "head"), (values[:, 1] - values[:, 2]).mean(0)),
        },
        {
            "condition": list(CONDITIONS),
            "layer": np.arange(layers),
            "head": np.arange(per_layer),
            **_labels(subject.data),
        },
    )


def detection(subject: Subject[Cases], seed: int, progress: Progress) -> xr.Dataset:
    """As `focus`, and random(draw, example, condition), the score of as many heads at random;
    every(…), of all heads; and margin and right of `answers`."""
    found = _focus(subject, progress)
    heads, _ = _choose(found, subject.data)
    values = np.stack([one["focus"].values for one in found.values()], 1).astype(np.float64)
    flat = values.reshape(*values.shape[:2], -1)
    chosen = np.zeros(values.shape[2:], dtype=np.bool_)
    for layer, head in heads:
        chosen[layer, head] = True
    rng = np.random.default_rng(seed)
    size = max(1, len(heads))
    sets = [rng.choice(flat.shape[2], size, replace=False) for _ in range(_RANDOM_DRAWS)]
    measured = answers(subject, seed, progress).drop_vars(["said", "prompt"])
    return measured.assign(
        score=(("example", "condition"), _mean(values, chosen)),
        every=(("example", "condition"), flat.mean(2)),
        random=(
            ("draw", "example", "condition"),
            np.stack([flat[..., one].mean(2) for one in sets]),
        ),
    )


def restored(subject: Subject[Cases], seed: int, progress: Progress) -> xr.Dataset:
    """What comes back when the last token attends as it does to harmless data.

    Returns:
        restored(example, set): the margin (see `answers`) in the prompt with an injection, with the
        patterns of a set of heads from the prompt with a harmless instruction: of the chosen heads
        and of all heads at the last token, of the chosen ones at all tokens, and the mean over sets
        of as many random heads; random(example, draw), of each of these; both NaN for cases that
        are not taken over. margin(example), without a patch; NaN for cases that heads were chosen
        on.
    """
    model, data = subject.model, subject.data
    heads, _ = _choose(_focus(subject, progress), data)
    every = [(layer, head) for layer in range(model.n_layers) for head in range(model.n_heads)]
    names = [CHOSEN, RANDOM, EVERY, WHOLE]
    held = ~np.array(data.chooses)
    unpatched = answers(subject, seed, progress)["margin"].sel(condition="injected").values
    base = np.where(held, unpatched, np.nan)
    lost = np.flatnonzero(base < 0)
    shape = (len(data.cases), len(names))
    out = np.full(shape, np.nan)
    random = np.full((len(data.cases), _RANDOM_SETS), np.nan)
    if heads and len(lost):
        rng = np.random.default_rng(seed)
        sets: dict[str, list[Patch]] = {
            CHOSEN: _patches(heads),
            EVERY: _patches(tuple(every)),
            WHOLE: _patches(heads, last=False),
        }
        for number in range(_RANDOM_SETS):
            some = rng.choice(len(every), len(heads), replace=False)
            sets[f"random {number}"] = _patches(tuple(every[int(i)] for i in some))
        pairs = _pairs(model, Cases(data.template, data.choosing, _some(data, lost)))
        found = patch_sets(model, pairs, sets, direction="denoising", progress=progress)
        patched = found["patched"]
        for column, name in enumerate(names):
            if name in sets:
                out[lost, column] = patched.sel(set=name).values
        random[lost] = patched.sel(set=[f"random {i}" for i in range(_RANDOM_SETS)]).values
        out[lost, 1] = random[lost].mean(1)
    return xr.Dataset(
        {
            "restored": (("example", "set"), out),
            "random": (("example", "draw"), random),
            "margin": ("example", base),
        },
        {"set": names, **_labels(data)},
    )


def _focus(subject: Subject[Cases], progress: Progress) -> dict[str, xr.Dataset]:
    data = subject.data
    tasks = [one.instruction for one in data.cases]
    found = {}
    for number, condition in enumerate(CONDITIONS):
        inside = [one.data(condition) for one in data.cases]
        found[condition] = instruction_focus(subject.model, data.prompts(condition), tasks, inside)
        progress(number + 1, len(CONDITIONS))
    return found


def _choose(found: dict[str, xr.Dataset], data: Cases) -> tuple[Heads, float]:
    """The heads of a detector that is fitted on the choosing families, and by how many spreads."""
    rows = np.flatnonzero(data.chooses)
    one, other = (found[name].isel(example=rows) for name in ("harmless", "injected"))
    least = min(LEAST_HEADS, one.sizes["layer"] * one.sizes["head"])
    try:
        detector = fit_focus_detector(one, other, least=least)
    except PromptError:
        return (), float(select_heads(one, other, least=least).attrs["n"])
    return detector.heads, detector.n


def _mean(values: Any, chosen: Any) -> Any:
    """The mean over some heads of [example, condition, layer, head]."""
    if not chosen.any():
        return np.full(values.shape[:2], np.nan)
    return values[:, :, chosen].mean(-1)


def _patches(heads: Heads, *, last: bool = True) -> list[Patch]:
    where = ["end -1"] if last else None
    return [Patch(f"pattern.{layer}.h{head}", positions=where) for layer, head in heads]


def _some(data: Cases, rows: Any) -> Any:
    return tuple(data.cases[int(i)] for i in rows)


def _pairs(model: Model, data: Cases) -> PromptPairs:
    """Harmless against injected, aligned at the data and from their end on."""
    return PromptPairs(
        model,
        clean=data.prompts("harmless"),
        corrupt=data.prompts("injected"),
        answers=[one.answer for one in data.cases],
        foils=[one.hijacked for one in data.cases],
        spans={"data": [(one.harmless, one.injected) for one in data.cases]},
    )


def _labels(data: Cases) -> dict[str, Any]:
    return {
        "family": ("example", [one.family for one in data.cases]),
        "chooses": ("example", data.chooses),
    }
