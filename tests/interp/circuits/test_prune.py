"""Choosing edges, against the stored circuits, networkx, and cases small enough to see through."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from interp import PromptPairs, load_model
from interp.circuits import attribute_edges, prune, random_circuits
from interp.circuits.circuit import jaccard
from interp.circuits.prune import best_path, choose, connected
from interp.components.graph import Graph
from interp.errors import ArgumentError, SiteError
from tests.interp.pairs import prompt_pairs
from tests.interp.tiny import Tiny

METHODS = {"EAP": "eap", "EAP-IG-inputs": "eap-ig"}


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("stored", METHODS)
def test_top_edges_give_the_stored_circuits(shared: Path, name: str, stored: str) -> None:
    folder = shared / "golden" / name
    model = load_model(folder)
    with np.load(folder / "golden.npz", allow_pickle=False) as golden:
        tokens = (
            torch.from_numpy(golden[k]).long() for k in ("clean", "corrupt", "answer", "wrong")
        )
        scores = attribute_edges(model, PromptPairs(model, *tokens), method=METHODS[stored])  # type: ignore[arg-type]
        for n in (10, 25, 50, 100):
            circuit = prune(scores, n)
            theirs = golden[f"circuit_{stored}_{n}_in"]
            if theirs.any():
                np.testing.assert_array_equal(circuit.included, theirs)
            else:
                assert circuit.settings["choice"] == "path"
    assert len(prune(scores, 100)) > 50


def by_networkx(graph: Graph, edges: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Edges on a path from the embedding to the logits; readers and writers are nodes of it."""
    flow = nx.DiGraph([("input", "input*")])
    for s, d in np.argwhere(edges):
        flow.add_edge(f"{graph.sources[s]}*" if s == 0 else graph.sources[s], f"->{d}", edge=(s, d))
    for d, s in np.argwhere(graph.feeds):
        flow.add_edge(f"->{d}", graph.sources[s])
    flow.add_edge(f"->{len(graph.destinations) - 1}", "logits")
    from_input = nx.descendants(flow, "input") | {"input"}
    to_logits = nx.ancestors(flow, "logits") | {"logits"}
    out = np.zeros_like(edges)
    for a, b, data in flow.edges(data=True):
        if "edge" in data and a in from_input and b in to_logits:
            out[data["edge"]] = True
    return out


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 3), st.sampled_from([(2, 2), (4, 2), (4, 1)]), st.booleans()),
    st.floats(0.02, 0.6),
    st.integers(0, 10_000),
)
def test_what_leads_nowhere_is_dropped(
    shape: tuple[int, tuple[int, int], bool], density: float, seed: int
) -> None:
    graph = Graph(shape[0], *shape[1], shape[2])
    edges = np.random.default_rng(seed).random(graph.real.shape) < density
    np.testing.assert_array_equal(connected(graph, edges), by_networkx(graph, edges & graph.real))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 60), st.booleans())
def test_greedy_takes_the_best_edge_into_what_it_has(seed: int, n: int, absolute: bool) -> None:
    graph = Graph(2, 2, 1, True)
    values = np.random.default_rng(seed).standard_normal(graph.real.shape).astype("f4")
    size = np.abs(values) if absolute else values
    chosen = np.zeros_like(graph.real)
    for _ in range(min(n, graph.n_edges)):
        has = chosen.any(1)  # writers whose output is used
        into = np.array(
            [
                d == len(graph.destinations) - 1 or graph.feeds[d][has].any()
                for d in range(len(graph.destinations))
            ]
        )
        open_edges = graph.real & ~chosen & into[None]
        if not open_edges.any():
            break
        best = np.where(open_edges, size, -np.inf).argmax()
        chosen.flat[best] = True
    found = choose(graph, values, min(n, graph.n_edges), choice="greedy", absolute=absolute)
    if connected(graph, chosen).any() or n == 0:
        np.testing.assert_array_equal(found, connected(graph, chosen))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.sampled_from(["top", "greedy"]))
def test_a_circuit_is_never_empty_nor_larger_than_asked_for(seed: int, n: int, choice: Any) -> None:
    graph = Graph(3, 2, 1, True)
    values = np.random.default_rng(seed).standard_normal(graph.real.shape).astype("f4")
    found = choose(graph, values, n, choice=choice)
    assert 0 < found.sum() <= n
    np.testing.assert_array_equal(found, connected(graph, found))


def test_the_path_is_the_best_of_all_paths() -> None:
    """Edges of large scores that lead nowhere, and few: the best path is found by trying all."""
    graph = Graph(2, 2, 2, True)
    for seed in range(20):
        values = np.random.default_rng(seed).standard_normal(graph.real.shape).astype("f4")
        values[0, -1] = 0.0
        ranked = np.where(graph.real, np.abs(values), -np.inf)
        for n in (1, 2, 3):
            path = best_path(graph, ranked, n)
            best = max(sum(ranked[at] for at in each) for each in _paths(graph, n))
            assert sum(ranked[at] for at in path) == pytest.approx(best)


def _paths(graph: Graph, n: int) -> list[list[tuple[int, int]]]:
    """Every path of at most n edges from the embedding to the logits."""
    found, grown = [], [([], 0)]
    for _ in range(n):
        further: list[tuple[list[tuple[int, int]], int]] = []
        for path, source in grown:
            for destination in np.nonzero(graph.real[source])[0]:
                longer = [*path, (source, int(destination))]
                if destination == len(graph.destinations) - 1:
                    found.append(longer)
                further += [(longer, int(w)) for w in np.nonzero(graph.feeds[destination])[0]]
        grown = further
    return found


@pytest.mark.slow
def test_where_the_top_edges_do_not_connect_a_path_does(scores: xr.Dataset) -> None:
    graph = Graph.from_attrs(scores.attrs)
    values = np.where(graph.real, 0.001, np.nan).astype("f4")
    middle = np.argwhere(graph.real & (np.arange(len(graph.sources)) > 0)[:, None])
    inner = [at for at in middle if at[1] != len(graph.destinations) - 1][:5]
    for at in inner:
        values[tuple(at)] = 1.0
    mocked = scores.assign(score=(("source", "destination"), values))
    for choice in ("top", "greedy"):
        circuit = prune(mocked, n_edges=5, choice=choice)  # type: ignore[arg-type]
        assert 0 < len(circuit) <= 5
        assert ("input" in circuit.nodes, "logits" in circuit.nodes) == (True, True)
    assert circuit.found_on == tuple(scores["clean_prompt"].values)
    assert prune(mocked, n_edges=5).settings["choice"] == "path"
    assert prune(mocked, n_edges=5).included[tuple(inner[0])]
    assert prune(scores, 40).settings["choice"] == "top"
    assert len(prune(scores, 0)) == 0


def test_a_threshold_that_nothing_reaches_is_refused_with_one_that_does(
    scores: xr.Dataset,
) -> None:
    with pytest.raises(SiteError, match="the largest threshold that connects") as error:
        prune(scores, threshold=1e6)
    found = re.search(r"; (\S+) is the largest", str(error.value))
    assert found is not None
    limit = float(found[1])
    assert len(prune(scores, threshold=limit * 0.999)) > 0
    with pytest.raises(SiteError):
        prune(scores, threshold=limit * 1.001)
    with pytest.raises(SiteError, match="No path"):
        prune(scores, threshold=float("nan"))


def test_random_circuits_are_no_smaller_and_of_one_piece() -> None:
    graph, rng = Graph(4, 4, 2, True), np.random.default_rng(1)
    sizes = (0, 1, 10, 60, graph.n_edges)
    for size, edges in zip(sizes, random_circuits(graph, rng, sizes), strict=True):
        assert size <= edges.sum() <= size + 30
        assert not edges[~graph.real].any()
        # Every reader with an input feeds something that is read, but for the logits.
        for destination in np.nonzero(edges.any(0))[0][:-1]:
            fed = graph.feeds[destination]
            assert edges[fed].any()
        for source in np.nonzero(edges.any(1))[0][1:]:
            assert edges[:, graph.feeds[:, source]].any()


@pytest.fixture(scope="module")
def scores(llama: Tiny) -> xr.Dataset:
    return attribute_edges(llama.model, prompt_pairs(llama), method="eap", by="position")


def test_a_threshold_takes_all_that_reach_it(scores: xr.Dataset) -> None:
    graph, values = Graph.from_attrs(scores.attrs), np.nan_to_num(scores["score"].values)
    for absolute in (True, False):
        size = np.abs(values) if absolute else values
        limit = float(np.quantile(size[graph.real], 0.8))
        found = prune(scores, threshold=limit, absolute=absolute)
        expected = connected(graph, (size >= limit) & graph.real)
        np.testing.assert_array_equal(found.included, expected)
        assert 0 < len(found) < graph.n_edges


def test_edges_are_named_largest_first_and_placed(scores: xr.Dataset, llama: Tiny) -> None:
    circuit = prune(scores, 40)
    found = [float(scores["score"].sel(source=s, destination=d)) for s, d in circuit.edges]
    assert np.all(np.diff(np.abs(found)) <= 0)
    at = scores["position_score"].sel(source=circuit.edges[0][0], destination=circuit.edges[0][1])
    place = (
        circuit.graph.sources.index(circuit.edges[0][0]),
        circuit.graph.destinations.index(circuit.edges[0][1]),
    )
    assert circuit.position[place] == int(np.abs(at).argmax())
    assert circuit.positions == prompt_pairs(llama).positions


def test_a_graph_for_networkx_has_an_edge_for_each_head_that_shares_a_key(
    scores: xr.Dataset,
) -> None:
    circuit = prune(scores, 60)
    graph = circuit.to_networkx()
    assert set(graph.nodes) == set(circuit.nodes)
    assert {"input", "logits"} <= set(graph.nodes)
    assert nx.is_directed_acyclic_graph(graph)
    assert graph.graph["fingerprint"] == scores.attrs["fingerprint"]
    assert {(s, d) for s, d in circuit.edges if d == "logits"} == {
        (a, b) for a, b in graph.edges() if b == "logits"
    }
    readers = {data["reader"] for *_, data in graph.edges(data=True)}
    assert readers <= {"q", "k", "v", "mlp", "logits"}
    assert {"v", "mlp"} <= readers
    for source, destination in circuit.edges:
        assert any(a == source for a, _ in graph.edges()), destination


def test_jaccard_counts_shared_edges() -> None:
    a, b = np.array([[True, True, False]]), np.array([[False, True, True]])
    assert jaccard(a, b) == pytest.approx(1 / 3)
    assert jaccard(a, a) == 1.0
    assert jaccard(a & False, b & False) == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either n_edges"),
        ({"n_edges": 3, "threshold": 0.1}, "either n_edges"),
        ({"n_edges": -1}, "-1 edges is not possible"),
        ({"n_edges": 10_000}, "10000 edges is not possible"),
        ({"n_edges": 3, "choice": "best"}, "Unknown choice 'best'"),
        ({"threshold": 3.0, "choice": "greedy"}, "A threshold needs no order"),
    ],
)
def test_what_cannot_be_chosen_is_refused(
    scores: xr.Dataset, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises((SiteError, ArgumentError), match=message):
        prune(scores, **arguments)
