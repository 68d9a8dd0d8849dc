"""Circuits for the screen: chosen by their edges' scores, and then run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import xarray as xr

    from interp.circuits import Circuit
    from interp.model import Model
    from interp.prompts import PromptPairs

SIZES = (5, 10, 15, 20, 30, 40, 60, 80, 100, 150, 200, 300, 500)
"""Numbers of edges to choose from."""

USUAL = 40
_RANDOM = 5


@dataclass(frozen=True)
class Measured:
    """A circuit and what was measured when it was run; means over the pairs.

    Attributes:
        whole, empty: the metric of the whole model and without any edge.
        alone: with the circuit's edges only.
        rest: with all other edges only.
        random: with the edges of random circuits of at least the same size.
    """

    circuit: Circuit
    n_pairs: int
    whole: float
    empty: float
    alone: float
    rest: float
    random: tuple[float, ...]

    def share(self, value: float) -> float:
        """The faithfulness of a metric: 0 without any edge, 1 as the whole model; NaN where the
        whole model does no better, so that there is nothing to be carried."""
        gap = self.whole - self.empty
        return (value - self.empty) / gap if gap > 0.05 else float("nan")


def measured(model: Model, pairs: PromptPairs, scores: xr.Dataset, n_edges: int) -> Measured:
    """The circuit of so many edges, built up from the logits, and its measurements."""
    from interp.circuits import measure, prune, random_circuits

    circuit = prune(scores, n_edges, choice="greedy")
    rng = np.random.default_rng(0)
    random = [random_circuits(circuit.graph, rng, [len(circuit)])[0] for _ in range(_RANDOM)]
    every = circuit.graph.real
    sets = [every, every & False, circuit.included, every & ~circuit.included, *random]
    found = measure(model, pairs, np.stack(sets)).astype(float).mean(1).tolist()
    whole, empty, alone, rest, *others = found
    return Measured(circuit, len(pairs), whole, empty, alone, rest, tuple(others))


def sizes(n_edges: int) -> list[int]:
    """The sizes that a model with so many edges allows."""
    return [size for size in SIZES if size < n_edges] or [n_edges]


def nearest(wanted: int, allowed: list[int]) -> int:
    """The allowed size that is closest to the wanted one."""
    return min(allowed, key=lambda size: abs(size - wanted))
