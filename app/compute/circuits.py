"""Circuits for the screen: chosen by their edges' scores, and then run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from app.compute.checks import Check, whole_circuit

if TYPE_CHECKING:
    import xarray as xr

    from experiments.explorer import Pair
    from experiments.reporter import Progress
    from interp.circuits import Circuit
    from interp.model.model import Model
    from interp.prompts.pairs import PromptPairs
    from interp.stats import Effect

SIZES = (5, 10, 15, 20, 30, 40, 60, 80, 100, 150, 200, 300, 500)
"""Numbers of edges to choose from."""

USUAL = 40
_RANDOM = 5
_ENOUGH = 0.8

DRAWS = 2
"""Random circuits of each size on a curve."""


@dataclass(frozen=True)
class Measured:
    """A circuit and what was measured when it was run; means over the pairs.

    Attributes:
        n_pairs: those that it was measured on.
        unseen: whether these are others than those that its edges were scored on.
        effect: of the whole model over the one without any edge.
        whole, empty: the metric of the whole model and without any edge.
        alone: with the circuit's edges only.
        rest: with all other edges only.
        random: with the edges of random circuits of at least the same size.
        interval: of the share that the circuit does.
        interval_rest, interval_random: of the shares of all other edges, and of the random
            circuits' mean.
        checks: what was checked of it.
        tokens: what stands at a place of the position axis, by its label, where that is the same
            in all prompts; of a single pair, in the clean one.
    """

    circuit: Circuit
    n_pairs: int
    unseen: bool
    effect: Effect
    whole: float
    empty: float
    alone: float
    rest: float
    random: tuple[float, ...]
    interval: tuple[float, float]
    interval_rest: tuple[float, float]
    interval_random: tuple[float, float]
    checks: tuple[Check, ...] = ()
    tokens: Mapping[str, str] = field(default_factory=dict)

    def share(self, value: float) -> float:
        """The faithfulness of a metric: 0 without any edge, 1 as the whole model; NaN where the
        effect is not clear of zero, so that there is nothing to have a share of."""
        if not self.effect.clear:
            return float("nan")
        return (value - self.empty) / (self.whole - self.empty)


def halves(pairs: tuple[Pair, ...]) -> tuple[tuple[Pair, ...], tuple[Pair, ...]]:
    """Pairs to score edges on, and pairs to measure the circuit on: the same if there are few."""
    from interp.stats import LEAST_N

    return (pairs[::2], pairs[1::2]) if len(pairs) >= 2 * LEAST_N else (pairs, pairs)


def measured(
    model: Model,
    pairs: PromptPairs,
    scores: xr.Dataset,
    n_edges: int,
    progress: Progress | None = None,
) -> Measured:
    """The circuit of so many edges, built up from the logits, and its measurements."""
    from interp.circuits import measure, prune, random_circuits
    from interp.circuits.measure import shared_pairs
    from interp.stats import effect, shares

    circuit = prune(scores, n_edges, choice="greedy")
    rng = np.random.default_rng(0)
    random = [random_circuits(circuit.graph, rng, [len(circuit)])[0] for _ in range(_RANDOM)]
    every = circuit.graph.real
    sets = [every, every & False, circuit.included, every & ~circuit.included, *random]
    found = measure(model, pairs, np.stack(sets), progress=progress).astype(float)
    full, none, alone = found[:3]
    settings = {name: str(circuit.settings[name]) for name in ("unit", "metric")}
    of = effect(full, none, **settings)
    parts = np.stack([alone, found[3], found[4:].mean(0)])
    _, low, high = shares(parts, full, none, of)
    ends = [(float(a), float(b)) for a, b in zip(low, high, strict=True)]
    whole, empty, carried, rest, *others = found.mean(1).tolist()
    return Measured(
        circuit,
        len(pairs),
        shared_pairs(pairs, circuit.found_on) == 0,
        of,
        whole,
        empty,
        carried,
        rest,
        tuple(others),
        ends[0],
        ends[1],
        ends[2],
        (whole_circuit(model, pairs, whole, empty),),
        shared_tokens(model, pairs),
    )


def shared_tokens(model: Model, pairs: PromptPairs) -> dict[str, str]:
    """By label of the position axis, the token that all prompts have there; of a single pair the
    clean one's, as in its patching maps."""
    axis, found = pairs.alignment, {}
    runs = [(pairs.clean, axis.clean), (pairs.corrupt, axis.corrupt)][: min(2, len(pairs))]
    for slot, label in enumerate(axis.labels):
        ids = {
            batch.row(example)[place] if (place := int(at[example, slot])) >= 0 else None
            for batch, at in runs
            for example in range(len(pairs))
        }
        if len(ids) == 1 and (only := ids.pop()) is not None:
            found[label] = model.token_strings([only])[0]
    return found


def curve(
    model: Model, pairs: PromptPairs, scores: xr.Dataset, progress: Progress | None = None
) -> xr.Dataset | None:
    """Faithfulness of circuits of every size; None where the model without any edge does as well.

    Args:
        pairs: others than those that the edges were scored on.
    """
    from interp.circuits import faithfulness_curve
    from interp.components.graph import Graph
    from interp.errors import MetricError

    try:
        return faithfulness_curve(
            model,
            pairs,
            scores,
            fractions=fractions(Graph.from_attrs(scores.attrs).n_edges),
            choice="greedy",
            n_random=DRAWS,
            n_resampled=0,
            progress=progress,
        )
    except MetricError:
        return None


def fractions(n_edges: int) -> list[float]:
    """The sizes of a curve, as shares of all edges."""
    return sorted({size / n_edges for size in sizes(n_edges)} | {1.0})


def enough(curve: xr.Dataset) -> int | None:
    """The size asked for of the smallest circuit that does four fifths of what the whole model
    does; None where none does. It has fewer edges where some of them lead nowhere."""
    reached = curve["fraction"].values[curve["f"].values >= _ENOUGH]
    return round(float(reached[0]) * int(curve["n_edges"].values[-1])) if len(reached) else None


def sizes(n_edges: int) -> list[int]:
    """The sizes that a model with so many edges allows."""
    return [size for size in SIZES if size < n_edges] or [n_edges]


def nearest(wanted: int, allowed: list[int]) -> int:
    """The allowed size that is closest to the wanted one."""
    return min(allowed, key=lambda size: abs(size - wanted))
