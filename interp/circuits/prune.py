"""From scores to a circuit: choose edges, and drop those that lead nowhere."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cache.arguments import typed
from interp.circuits.circuit import Circuit
from interp.components.graph import Edges, Graph
from interp.errors import SiteError
from interp.results import EdgeScores

Choice = Literal["top", "greedy"]
Scores = npt.NDArray[np.float32]


@typed
def prune(
    scores: EdgeScores,
    n_edges: int | None = None,
    *,
    threshold: float | None = None,
    choice: Choice = "top",
    absolute: bool = True,
) -> Circuit:
    """Choose edges by their score.

    Edges that no path leads to from the embedding, or from which none leads to the logits, are
    dropped afterwards; so the circuit may have fewer edges than were asked for. Where that would
    leave nothing, the circuit is the path with the largest sum of scores, and one after another the
    largest edges between what it has: its setting "choice" is then "path".

    Args:
        scores: what `attribute_edges` returned.
        n_edges: how many edges to choose.
        threshold: instead, the smallest score that is chosen.
        choice: "top" takes the largest scores; "greedy" (Hanna et al. 2024) starts at the logits
            and takes, one after another, the largest that leads to a node it already has.
        absolute: whether the size of a score counts, or its sign too: then edges that work
            against the answer come last.

    Raises:
        SiteError: neither or both of n_edges and threshold, a number that is out of range, or a
            threshold that no path from the embedding to the logits reaches.
    """
    graph = Graph.from_attrs(scores.attrs)
    values = scores["score"].values
    if (n_edges is None) == (threshold is None):
        raise SiteError("Give either n_edges=… or threshold=…, to say how large the circuit is.")
    if threshold is not None:
        if choice == "greedy":
            raise SiteError("A threshold needs no order; leave choice='greedy' out.")
        ranked = _ranked(graph, values, absolute)
        included, made_by = connected(graph, ranked >= threshold), "threshold"
        if not included.any():
            raise SiteError(
                f"No path from the embedding to the logits has scores of {threshold:g} or more "
                f"throughout; {_highest_connected(graph, ranked):.4g} is the largest threshold "
                "that connects them, or give n_edges=…."
            )
    else:
        assert n_edges is not None
        if not 0 <= n_edges <= graph.n_edges:
            raise SiteError(
                f"A circuit of {n_edges} edges is not possible: the model has {graph.n_edges}."
            )
        included, made_by = _choose(graph, values, n_edges, choice, absolute)
    settings: dict[str, str | int | float] = {
        "choice": made_by,
        "threshold" if threshold is not None else "n_edges": (
            float(threshold) if threshold is not None else int(n_edges or 0)
        ),
        "absolute": int(absolute),
        **{key: scores.attrs[key] for key in ("method", "steps", "metric", "unit")},
    }
    identity = {key: str(scores.attrs[key]) for key in ("model", "fingerprint", "obverse_version")}
    found_on = tuple(str(prompt) for prompt in scores["clean_prompt"].values)
    if "position_score" not in scores:
        return Circuit(graph, included, values, identity, settings, found_on=found_on)
    at = np.abs(np.nan_to_num(scores["position_score"].values))
    labels = tuple(str(label) for label in scores["position_label"].values)
    # An answer's own tokens stand behind the axis: what is read there only has no place on it.
    position = np.where(at.max(0) > 0, at.argmax(0), -1)
    return Circuit(graph, included, values, identity, settings, labels, position, found_on)


def choose(
    graph: Graph, values: Scores, n_edges: int, *, choice: Choice = "top", absolute: bool = True
) -> Edges:
    """The edges of a circuit of at most n_edges [source, destination]: empty only for 0."""
    return _choose(graph, values, n_edges, choice, absolute)[0]


def _choose(
    graph: Graph, values: Scores, n_edges: int, choice: Choice, absolute: bool
) -> tuple[Edges, str]:
    """The edges, and what chose them."""
    ranked = _ranked(graph, values, absolute)
    order = (
        greedy_order(graph, ranked)
        if choice == "greedy"
        else np.argsort(-ranked, axis=None, kind="stable")
    )
    included = _first(graph, order, n_edges)
    if included.any() or n_edges == 0:
        return included, choice
    return _around_best_path(graph, ranked, n_edges), "path"


def _ranked(graph: Graph, values: Scores, absolute: bool) -> Scores:
    return np.where(graph.real, np.nan_to_num(size(values, absolute)), -np.inf)


def _around_best_path(graph: Graph, ranked: Scores, n_edges: int) -> Edges:
    """The path of at most n_edges with the largest sum, and the largest edges between its nodes."""
    included = np.zeros(graph.real.shape, dtype=bool)
    for at in best_path(graph, ranked, n_edges):
        included[at] = True
    while included.sum() < n_edges:
        reached = included.any(0) @ graph.feeds
        reached[0] = True
        leads = graph.feeds @ included.any(1)
        leads[-1] = True
        open_edges = graph.real & ~included & reached[:, None] & leads[None, :]
        if not open_edges.any():
            break
        included.flat[int(np.where(open_edges, ranked, -np.inf).argmax())] = True
    return included


def best_path(graph: Graph, ranked: Scores, n_edges: int) -> list[tuple[int, int]]:
    """(source, destination) of each edge, from the logits to the embedding."""
    best = np.full(len(graph.sources), -np.inf)
    best[0] = 0.0
    steps: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]] = []
    at_logits: list[float] = []
    for _ in range(n_edges):
        through = best[:, None] + ranked  # [source, destination]
        writer = through.argmax(0)
        arrived = through.max(0)
        at_logits.append(float(arrived[-1]))
        fed = np.where(graph.feeds, arrived[:, None], -np.inf)
        steps.append((writer, fed.argmax(0)))
        best = fed.max(0)
        if not np.isfinite(best).any():
            break
    destination, path = len(graph.destinations) - 1, []
    # The embedding always has an edge to the logits, so that there is a path of one edge.
    for step in range(int(np.argmax(at_logits)), -1, -1):
        source = int(steps[step][0][destination])
        path.append((source, destination))
        if step:
            destination = int(steps[step - 1][1][source])
    return path


def _highest_connected(graph: Graph, ranked: Scores) -> float:
    """The largest threshold above which edges still make a path from embedding to logits."""
    levels = np.unique(ranked[graph.real])
    low, high = 0, len(levels) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if connected(graph, ranked >= levels[middle]).any():
            low = middle
        else:
            high = middle - 1
    return float(levels[low])


@typed
def random_circuits(graph: Graph, rng: np.random.Generator, sizes: Sequence[int]) -> list[Edges]:
    """Circuits built up from the logits by random scores, each with at least so many edges.

    Most edges of a random choice lead nowhere and are dropped; of as many choices as a circuit was
    made of, next to nothing would be left to compare with.
    """
    order = greedy_order(
        graph, np.where(graph.real, rng.standard_normal(graph.real.shape), -np.inf)
    )
    found = []
    for wanted in sizes:
        low, high = wanted, graph.n_edges
        while low < high:
            middle = (low + high) // 2
            if _first(graph, order, middle).sum() >= wanted:
                high = middle
            else:
                low = middle + 1
        found.append(_first(graph, order, low))
    return found


def _first(graph: Graph, order: npt.NDArray[np.int64], n_edges: int) -> Edges:
    """The circuit of the first edges of an order."""
    included = np.zeros(graph.real.shape, dtype=bool)
    included.flat[order[:n_edges]] = True
    return connected(graph, included)


def connected(graph: Graph, edges: Edges) -> Edges:
    """Those edges that lie on a path from the embedding to the logits."""
    edges = edges & graph.real
    while True:
        reached = edges.any(0) @ graph.feeds
        reached[0] = True
        # A reader leads on if a writer that it feeds does.
        leads = graph.feeds @ edges.any(1)
        leads[-1] = True
        kept = edges & reached[:, None] & leads[None, :]
        if kept.sum() == edges.sum():
            return kept
        edges = kept


def size(values: Scores, absolute: bool) -> Scores:
    return np.abs(values) if absolute else values


def greedy_order(graph: Graph, ranked: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.int64]:
    """All edges, as flat indices, in the order in which a greedy choice takes them."""
    opened: set[int] = set()
    heap: list[tuple[float, int, int]] = []
    order: list[int] = []

    def open_reader(destination: int) -> None:
        if destination not in opened:
            opened.add(destination)
            for source in np.nonzero(graph.real[:, destination])[0]:
                heapq.heappush(
                    heap, (-float(ranked[source, destination]), int(source), destination)
                )

    open_reader(len(graph.destinations) - 1)
    while heap:
        _, source, destination = heapq.heappop(heap)
        order.append(source * len(graph.destinations) + destination)
        for reader in np.nonzero(graph.feeds[:, source])[0]:
            open_reader(int(reader))
    return np.array(order, dtype=np.int64)
