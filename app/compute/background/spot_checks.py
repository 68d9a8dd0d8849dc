"""What was read from a file is tried on the model: at some places, drawn anew each time.

Whoever edits a file does not know which places these will be. Of a file in which a share s of its
places was changed, one of k places is among them with a probability of at least 1 − (1 − s)^k.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from app.compute.pairs import build
from experiments.explorer import Pair

if TYPE_CHECKING:
    import xarray as xr

    from interp.model.model import Model
    from interp.prompts.pairs import PromptPairs

DRAWN = 8
"""Cells of a map that are tried beside the one that moves the metric most."""
SIZES = 2
"""Circuits of a curve that are tried."""

_DICE = random.SystemRandom()


def drawn(n: int, most: int = DRAWN, without: int | None = None) -> list[int]:
    """So many of the numbers below n, or all of them, drawn by the system's randomness.

    Args:
        without: a number that is left out.
    """
    among = [number for number in range(n) if number != without]
    return _DICE.sample(among, min(most, len(among)))


def check_numbers(
    stored: npt.NDArray[Any], true: npt.NDArray[Any], rounding: float, what: str = "numbers"
) -> None:
    """Raise a ValueError unless numbers are those that the model gives, as far as it rounds.

    Args:
        stored, true: of one shape; NaN has to stand at the same places.
        rounding: by how much they may differ where they are small; beside that, by 2%.
    """
    here, there = (np.asarray(some, dtype=np.float64) for some in (stored, true))
    room = rounding + 0.02 * np.abs(there)
    same = (np.isnan(here) & np.isnan(there)) | (np.abs(here - there) <= room)
    if here.shape != there.shape or not same.all():
        raise ValueError(f"its {what} are not those of the model")


def run_again(model: Model, pair: Pair, site: str, result: xr.Dataset) -> None:
    """Raise a ValueError unless the runs of a map, the cell that moves the metric most, and some
    others that are drawn, are those of the model."""
    from interp.patching.single import patch_once

    told = result["patched"].isel(example=0)
    there = np.argwhere(np.isfinite(told.values))
    moved = np.abs(told.values - float(result["corrupt"][0]))[tuple(there.T)]
    most = int(moved.argmax()) if len(there) else -1
    rounding = 1e-3 if _exact(model) else 0.25
    made = build(model, [pair])
    for number in [most, *drawn(len(there), without=most)][: len(there)]:
        layer, column = (int(at) for at in there[number])
        where = {str(told.dims[1]): int(told[told.dims[1]][column])}
        depth = int(told["layer"][layer])
        found = patch_once(model, made, site, depth, **where, k=1)  # type: ignore[arg-type]
        metric = found["answer_logit"] - found["foil_logit"]
        said = {run: float(result[run][0]) for run in ("clean", "corrupt")}
        for run, value in (said | {"patched": float(told[layer, column])}).items():
            true = float(metric.sel(run=run))
            if not abs(true - value) <= rounding + 0.05 * abs(true):
                raise ValueError("its numbers are not those of the model")


def edges_again(
    model: Model, pairs: tuple[Pair, ...], scores: xr.Dataset, real: npt.NDArray[np.bool_]
) -> None:
    """Raise a ValueError unless scores of edges are those of the model on one pair, drawn, and
    their means and parts add up.

    Args:
        real: the edges that can be, [source, destination].
    """
    from interp.circuits import attribute_edges

    (number,) = drawn(len(pairs), 1)
    true = attribute_edges(model, build(model, [pairs[number]]))
    own, by_pair = true["by_example"].values[0][real], scores["by_example"].values
    share = 1e-3 if _exact(model) else 0.05
    rounding = share * float(np.abs(own).max(initial=1e-9))
    check_numbers(by_pair[number][real], own, rounding, "scores")
    for run in ("clean", "corrupt"):
        check_numbers(scores[run].values[[number]], true[run].values, 10 * share)
    score = scores["score"].values[real]
    rounding = 1e-3 * float(np.abs(by_pair[:, real]).max(initial=1e-9))
    check_numbers(score, by_pair.mean(0)[real], rounding, "means")
    at = np.nansum(scores["position_score"].values, 0)[real]
    check_numbers(at, score, rounding, "parts")


def sizes_again(model: Model, pairs: PromptPairs, scores: xr.Dataset, curve: xr.Dataset) -> None:
    """Raise a ValueError unless circuits of some sizes, drawn, with all other edges and the random
    circuits beside them, the whole model and no edge at all do what a curve says, and its shares
    are made of what it says that they do."""
    from interp.circuits import measure, prune, random_circuits
    from interp.stats import effect, shares

    sizes = drawn(curve.sizes["fraction"], SIZES)
    n_edges = int(curve["n_edges"].values[-1])
    fractions = curve["fraction"].values[sizes]
    found = [prune(scores, round(share * n_edges), choice="greedy") for share in fractions]
    graph, real = found[0].graph, found[0].graph.real
    # The same as in the curve, whose seed is the usual one.
    chance = np.random.default_rng(0)
    every = [int(n) for n in curve["n_edges"].values]
    draws = [random_circuits(graph, chance, every) for _ in range(curve.sizes["draw"])]
    random = [[draw[size] for size in sizes] for draw in draws]
    n_random = [[int(edges.sum()) for edges in draw] for draw in random]
    check_numbers(curve["random_edges"].values[:, sizes], np.array(n_random), 0, "sizes")
    sets = [real, real & False, *(one.included for one in found)]
    sets += [real & ~one.included for one in found]
    sets += [edges for draw in random for edges in draw]
    true = measure(model, pairs, np.stack(sets)).astype(float)
    said = {name: curve[name].values.astype(float) for name in ("full", "empty", "circuit_metric")}
    rounding = 0.01 if _exact(model) else 0.5
    check_numbers(np.stack([said["full"], said["empty"]]), true[:2], rounding)
    check_numbers(said["circuit_metric"][sizes], true[2 : 2 + len(sizes)], rounding)
    of = effect(said["full"], said["empty"], clusters=pairs.clean.texts)
    parts = np.concatenate([said["circuit_metric"], true[2 + len(sizes) :]])
    made, low, high = shares(parts, said["full"], said["empty"], of, pairs.clean.texts)
    n = len(said["circuit_metric"])
    for name, ends in (("f", made), ("f_low", low), ("f_high", high)):
        check_numbers(curve[name].values, ends[:n], 0.01, "shares")
    check_numbers(curve["complement"].values[sizes], made[n : n + len(sizes)], 0.02, "shares")
    beside = made[n + len(sizes) :].reshape(len(draws), len(sizes))
    check_numbers(curve["random"].values[:, sizes], beside, 0.02, "shares")


def _exact(model: Model) -> bool:
    return model.dtype.itemsize > 2
