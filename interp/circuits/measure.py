"""Run circuits: the metric when nothing but a circuit's edges works as in the clean run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import xarray as xr

from cache.arguments import typed
from interp.circuits.circuit import Circuit
from interp.components.components import Components
from interp.components.contrast import contrasts
from interp.components.graph import Graph
from interp.components.wiring import Reference, run_circuits
from interp.errors import ModelError, SiteError
from interp.metrics import Metric, get_metric
from interp.model.model import Model
from interp.patching.values import constants
from interp.progress import Progress, counter
from interp.prompts.pairs import PromptPairs
from interp.prompts.tokens import Prompts
from interp.sites import Site

Ablation = Literal["patching", "mean", "zero"]
Values = npt.NDArray[np.float32]


@typed
def measure(
    model: Model,
    pairs: PromptPairs,
    circuits: Circuit | Sequence[Circuit] | npt.NDArray[np.bool_],
    metric: Metric | str = "logit_diff",
    *,
    ablation: Ablation = "patching",
    reference: Prompts | None = None,
    progress: Progress | None = None,
) -> Values:
    """The metric when only a circuit's edges carry the clean run.

    Args:
        model: the model that the circuits belong to.
        pairs: the prompts, which need not be those that the circuits were found on.
        circuits: circuits, or sets of edges [circuit, source, destination].
        metric: what to read, or its name.
        ablation: what all other edges carry: the corrupted run's value ("patching"), the "mean"
            over the tokens of the `reference` prompts, or "zero". Biases stay.
        reference: prompts for the mean.
        progress: called with (runs done, runs in all).

    Returns:
        [circuit, example].

    Raises:
        ModelError: the model is no sum of heads and MLPs, or a circuit is another model's.
        SiteError: a mean without reference prompts.
    """
    metric = get_metric(metric)
    graph = Graph.of(model)
    sets = _edge_sets(model, graph, circuits)
    parts = Components(model, pairs.reading("clean", metric.reads[0]).ids)
    fixed = None if ablation == "patching" else _constant(parts, ablation, reference)
    values = np.zeros((len(sets), len(pairs)), dtype=np.float32)
    count = counter(progress, len(sets) * len(pairs) * len(metric.reads))
    for contrast in contrasts(parts, pairs, metric, "clean"):
        at = fixed or Reference.other_run(contrast)
        values[:, contrast.examples.numpy()] += run_circuits(contrast, graph, at, sets, count)
    return values


@typed
def minimality(
    model: Model,
    pairs: PromptPairs,
    circuit: Circuit,
    metric: Metric | str = "logit_diff",
    *,
    ablation: Ablation = "patching",
    reference: Prompts | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """What each edge of a circuit is good for: how far the metric falls without it.

    Takes what `measure` does.

    Returns:
        effect(edge, example): the circuit's metric minus that of the circuit without the edge;
        about 0 for edges that could be left out. whole(example): the circuit's metric. Edges come
        in the order of `circuit.edges`, named by source(edge) and destination(edge). The attribute
        `shared_pairs` counts the pairs that the circuit was found on (-1 where that is not known):
        on these its edges look better than they are.
    """
    edges = circuit.edges
    sets = np.repeat(circuit.included[None], len(edges) + 1, axis=0)
    for number, (source, destination) in enumerate(edges):
        graph = circuit.graph
        at = graph.sources.index(source), graph.destinations.index(destination)
        sets[number + 1][at] = False
    check_model(model, circuit.identity)
    found = measure(
        model, pairs, sets, metric, ablation=ablation, reference=reference, progress=progress
    )
    metric = get_metric(metric)
    return xr.Dataset(
        {"effect": (("edge", "example"), found[:1] - found[1:]), "whole": ("example", found[0])},
        coords={
            "source": ("edge", [source for source, _ in edges]),
            "destination": ("edge", [destination for _, destination in edges]),
        },
        attrs={
            "instrument": "circuit minimality",
            "ablation": ablation,
            "metric": metric.name,
            "unit": metric.unit,
            "pairs": len(pairs),
            "shared_pairs": shared_pairs(pairs, circuit.found_on) if circuit.found_on else -1,
            **model.identity,
        },
    )


def shared_pairs(pairs: PromptPairs, found_on: Iterable[str]) -> int:
    """How many pairs have one of the clean prompts that the edges were scored on."""
    known = {str(prompt) for prompt in found_on}
    return sum(prompt in known for prompt in pairs.clean.texts)


def check_model(model: Model, identity: Mapping[str, str]) -> None:
    """Refuse what was measured on another model."""
    if identity.get("fingerprint") != model.fingerprint:
        raise ModelError(
            f"These edges are of the model '{identity.get('model')}', not of {model.name}: their "
            "fingerprints differ; attribute the edges of this model."
        )


def _edge_sets(
    model: Model, graph: Graph, circuits: Circuit | Sequence[Circuit] | npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    if isinstance(circuits, Circuit):
        circuits = [circuits]
    if not isinstance(circuits, np.ndarray):
        if not circuits:
            raise SiteError("There are no circuits to run; give one or more.")
        for circuit in circuits:
            check_model(model, circuit.identity)
        circuits = np.stack([circuit.included for circuit in circuits])
    if circuits.dtype != bool or circuits.shape[1:] != graph.real.shape:
        raise SiteError(
            f"Sets of edges must be booleans of shape [circuit, {graph.real.shape[0]}, "
            f"{graph.real.shape[1]}] for {model.name}, not {circuits.shape}."
        )
    return circuits & graph.real


def _constant(parts: Components, ablation: Ablation, reference: Prompts | None) -> Reference:
    model = parts.model
    layers = range(model.n_layers)
    source: Literal["mean", "zero"] = "mean" if ablation == "mean" else "zero"
    embedding = Site("resid_pre", 0)
    z, mlp = ([Site(name, layer) for layer in layers] for name in ("z", "mlp_out"))
    values = constants(model, [embedding, *z, *mlp], source, reference)
    assert values is not None  # neither source is the other run
    return Reference.constant(
        parts, values[embedding], [values[site] for site in z], [values[site] for site in mlp]
    )
