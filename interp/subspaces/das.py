"""Distributed alignment search over a whole grid of places and ranks at once.

Geiger et al. 2024, "Finding Alignments Between Interpretable Causal Variables and Distributed
Neural Representations".
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from jaxtyping import Int
from torch import Tensor

from cache.arguments import Seed, typed
from interp.errors import PromptError
from interp.kinds import site_kind
from interp.model.memory import fitting_threads
from interp.model.model import Model
from interp.patching.cells import check_layers
from interp.patching.results import prompt_coordinates
from interp.patching.values import RUNS, Direction, check_direction
from interp.progress import Progress
from interp.prompts.pairs import PromptPairs
from interp.prompts.targets import Answers, first_tokens
from interp.sites import width_at
from interp.stats.clusters import Clusters
from interp.subspaces.controls import CONTROLS, judge
from interp.subspaces.entities import arbitrary, groups_of, split
from interp.subspaces.report import describe
from interp.subspaces.rotations import random_rotations
from interp.subspaces.runs import Runs
from interp.subspaces.search import Found, Settings, search
from interp.subspaces.subspace import check_site

Among = Literal["vocabulary", "answers"]


@typed
def fit_das(
    model: Model,
    pairs: PromptPairs,
    *,
    layers: Sequence[int] | None = None,
    positions: Sequence[int | str] | None = None,
    ranks: Sequence[int] = (1, 4, 16),
    site: str = "resid_post",
    direction: str | None = None,
    counterfactual: Answers | None = None,
    among: Among = "vocabulary",
    groups: Clusters | None = None,
    held_out: float = 0.3,
    epochs: int | None = None,
    batch_size: int = 8,
    learning_rate: float = 0.3,
    patience: int = 2,
    seed: Seed = 0,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Learn, at every layer and position, subspaces whose interchange gives the other answer.

    An interchange sets the activation h of the run that is changed, inside a subspace with
    orthonormal rows R, to that of the other run: h + Rᵀ R (h_other − h). R is trained with
    cross-entropy so that the counterfactual answer comes out. All cells of the grid are trained
    together; each starts from a random subspace, takes Adam steps on the Grassmann manifold, and
    ends when a pass takes away less than 1% of the first one's loss `patience` times in a row.

    Whole groups of pairs are held out. Controls are the same search on answers dealt to other
    groups ("arbitrary labels"), the subspace before the search ("random subspace"), a change of the
    same length in another random subspace of that rank ("norm-matched placebo"), and no change at
    all ("unchanged").

    Args:
        model: the model.
        pairs: clean and corrupted prompts with answers.
        layers: all if left out.
        positions: slots of the axis that the pairs share, by number, label or span; if left out
            all that stand in two training and two held-out groups at least.
        ranks: dimensions of the subspaces.
        site: "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out" or "mlp_act".
        direction: "denoising" (the default) changes the corrupted run towards the clean one, whose
            answer is to come out; "noising" the reverse, and the foil is to come out.
        counterfactual: what is to come out instead, for each pair: what the variable's value in the
            other run and all else in the changed one make. Of an answer of several tokens the first
            counts.
        among: an answer has come out if its first token is the likeliest of the whole vocabulary,
            or of the first tokens of all counterfactual answers, answers and foils.
        groups: for each pair what it is about; pairs of one group are held out together. If left
            out, pairs that share an entity are one group: the words of a span that differs between
            the two prompts, or the tokens that do.
        held_out: share of the groups that is held out; at least five of them where there are ten.
        epochs: passes over the training pairs, at most; if left out two, or more where these would
            be fewer than 84 steps.
        batch_size: pairs in one step.
        learning_rate: radians, about, by which each direction turns in the first step.
        patience: see above.
        seed: of the split, the first subspaces, the arbitrary answers and the order.
        progress: called with (passes and places done, of all).

    Returns:
        accuracy, held_out(layer, position, rank): shares of training and of held-out pairs in which
        the counterfactual answer came out, with a 95% interval over groups, held_out_low and
        held_out_high; the same of each control: control_accuracy, control_held_out, control_low,
        control_high(control, …); training accuracy only of what needs training, or none.
        generalises: whether held_out_low lies above control_high of every
        control; boundary(layer, position): the smallest rank that does without being dormant, NaN
        where none does.
        whole(layer, position): held-out accuracy when the whole activation is interchanged.
        natural(layer, position, rank): held-out accuracy of the part of the subspace in which
        activations vary; dormant: whether the subspace generalises and this part does not (see
        `docs/subspaces.md`). basis(layer, position, rank, component, width): the subspaces, NaN
        beyond their rank; `Subspace.of` takes one out. hit(example, …), control_hit(control,
        example, …): each pair. epochs_run and loss, in nats, of each search.

    Raises:
        SiteError: no such site or layer, or one with heads; no such direction.
        PromptError: pairs that cannot be split by entity or whose answers begin with the token that
            comes out anyway; a position or rank out of range; a setting that is none.
        ModelError: activations or losses are not finite, or the model cannot be resumed.
    """
    settings = Settings(epochs, batch_size, learning_rate, patience, seed)
    settings.check()
    chosen = check_direction(direction, "other")
    check_site(site)
    neurons = site_kind(site).unit == "neuron"
    depth = check_layers(model, site, None if layers is None else _whole(layers, "layers"))
    pairs.alignment.slots(positions)  # refuses what is not there before anything else
    sizes = _check_ranks(model, site, ranks)
    if not 0 < held_out < 1:
        raise PromptError(f"The share of groups held out lies between 0 and 1, not at {held_out}.")
    targets = wanted_tokens(model, pairs, chosen, counterfactual)
    codes = groups_of(pairs, groups)
    held = split(pairs, codes, held_out, seed)
    slots = _slots(pairs, positions, codes, held)
    dealt = arbitrary(codes, held, targets.numpy(), seed)
    answers = [targets, targets[torch.from_numpy(dealt)]]
    choices = choices_of(pairs, targets, among)
    with torch.inference_mode(False), fitting_threads(model), model.lock:
        runs = Runs(model, pairs, chosen, site, depth, slots, choices)
        n_places = len(runs.layer)
        first, other = (
            {
                rank: random_rotations(n_places, rank, runs.width, (seed, rank, draw), runs.base)
                for rank in sizes
            }
            for draw in range(2)
        )
        passes = 2 * n_places * len(sizes) * settings.passes(int((~held).sum()))
        parts = _Parts(progress, passes, n_places)
        found = search(runs, first, answers, np.flatnonzero(~held), settings, parts.search)
        hits = judge(runs, found.rows, first, other, answers, held, parts.judge)
    shape = (len(depth), len(slots))
    variables = describe(hits, codes, held, shape, sizes)
    variables.update(_searched(found, shape, sizes))
    return xr.Dataset(
        variables,
        coords={
            "control": list(CONTROLS),
            "layer": list(depth),
            "position": list(slots),
            "position_label": ("position", [pairs.positions[slot] for slot in slots]),
            "rank": list(sizes),
            "split": ("example", np.where(held, "held out", "training")),
            "group": ("example", codes),
            "counterfactual": ("example", model.token_strings(targets.tolist())),
            **prompt_coordinates(pairs),
        },
        attrs={
            "instrument": "distributed alignment search",
            "site": site,
            "direction": chosen,
            "among": among,
            "scored": "first token of the counterfactual answer",
            "dormant_test": "row space of the output matrix" if neurons else "variance",
            "groups": "given" if groups is not None else "by entity",
            "n_groups": int(codes.max()) + 1,
            "n_groups_held_out": len(np.unique(codes[held])),
            "epochs": settings.passes(int((~held).sum())),
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "patience": patience,
            "held_out_share": held_out,
            "seed": seed,
            **model.identity,
        },
    )


def wanted_tokens(
    model: Model, pairs: PromptPairs, direction: Direction, counterfactual: Answers | None
) -> Int[Tensor, " example"]:
    """The first token of what is to come out of each changed run.

    Raises:
        PromptError: it would come out without a change, or is not given.
    """
    if counterfactual is None:
        if pairs.foil_ids is not None:
            pairs.check_first_tokens()
        return pairs.first_tokens("answer" if direction == "denoising" else "foil")
    base = pairs.prompts(RUNS[direction][0])
    found = first_tokens(model, base, counterfactual, "counterfactual answers")
    if found is None or found.ndim != 1:
        raise PromptError("Give one counterfactual answer for each pair.")
    return found


def choices_of(
    pairs: PromptPairs, targets: Int[Tensor, " example"], among: str
) -> Int[Tensor, " choice"] | None:
    """First tokens of all answers that are asked for [choice], ascending; None for any token."""
    if among == "vocabulary":
        return None
    several = [targets, pairs.first_tokens("answer")]
    if pairs.foil_ids is not None:
        several.append(pairs.first_tokens("foil"))
    every: Tensor = torch.cat(several)
    return torch.from_numpy(np.unique(every.numpy()))


def _check_ranks(model: Model, site: str, ranks: Sequence[int]) -> tuple[int, ...]:
    width = width_at(model, site, 1)
    found = tuple(sorted(set(_whole(ranks, "ranks"))))
    if not found or found[0] < 1 or found[-1] > width:
        raise PromptError(
            f"Ranks lie between 1 and {width}, the width of '{site}' in {model.name}, not at "
            f"{', '.join(map(str, found)) or 'none'}."
        )
    return found


def _whole(values: Sequence[int], what: str) -> list[int]:
    try:
        return [operator.index(value) for value in values]
    except TypeError:
        raise PromptError(f"The {what} are whole numbers; give a list of them.") from None


def _slots(
    pairs: PromptPairs,
    positions: Sequence[int | str] | None,
    codes: npt.NDArray[np.int64],
    held: npt.NDArray[np.bool_],
) -> tuple[int, ...]:
    """The slots to search; of all those that enough groups have."""
    chosen = pairs.alignment.slots(positions)
    rare = []
    for slot in chosen:
        there = pairs.alignment.clean[:, slot] >= 0
        if min(len(np.unique(codes[there & side])) for side in (held, ~held)) < 2:
            rare.append(slot)
    if rare and (positions is not None or len(rare) == len(chosen)):
        raise PromptError(
            f"The position '{pairs.positions[rare[0]]}' stands in pairs of fewer than two training "
            "or two held-out groups; leave it out, or give more pairs that have it."
        )
    return tuple(slot for slot in chosen if slot not in rare)


def _searched(found: Found, shape: tuple[int, int], ranks: Sequence[int]) -> dict[str, Any]:
    """Subspaces and the course of their search; of arbitrary answers only their control's."""
    n_places, width = int(np.prod(shape)), next(iter(found.rows.values())).shape[-1]
    basis = np.full((n_places, len(ranks), max(ranks), width), np.nan, np.float32)
    for number, rank in enumerate(ranks):
        basis[:, number, :rank] = found.rows[rank][:n_places].cpu().numpy()
    cell = ("layer", "position", "rank")
    return {
        "basis": (
            (*cell, "component", "width"),
            basis.reshape(*shape, len(ranks), max(ranks), width),
        ),
        "epochs_run": (cell, found.epochs[0].reshape(*shape, -1)),
        "loss": (cell, found.loss[0].reshape(*shape, -1)),
    }


class _Parts:
    """One count over the search, whose passes are most of the work, and the judging after it."""

    def __init__(self, progress: Progress | None, passes: int, places: int) -> None:
        self._progress, self._passes, self._places = progress, passes, places

    def search(self, done: int, total: int) -> None:
        self._tell(done)

    def judge(self, done: int, total: int) -> None:
        self._tell(self._passes + done)

    def _tell(self, done: int) -> None:
        if self._progress:
            self._progress(done, self._passes + self._places)
