"""The circuit map: where nodes stand, which edges join them, and hostile text."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from interp.circuits.circuit import Circuit
from interp.components.graph import Graph
from interp.figures import circuit_map
from interp.figures.drawing.layout import NOWHERE, lay_out
from tests.interp.figures.conftest import HOSTILE, assert_safe, traces

LABELS = ("start -1", "subject -1", "end -2", "end -1")
# The subject is enriched at its own place, moved to the end by a1.h0, and read there.
EDGES = (
    ("input", "m0", 1, 2.0),
    ("m0", "a1.h0.v", 1, 3.0),
    ("m0", "a1.h0.k", 1, -0.5),
    ("input", "a1.h0.q", 3, 1.0),
    ("a1.h0", "logits", 3, 4.0),
)


def make(
    edges: tuple[tuple[str, str, int, float], ...] = EDGES,
    graph: Graph | None = None,
    labels: tuple[str, ...] = LABELS,
    unit: str = "logits",
) -> Circuit:
    graph = graph or Graph(2, 2, 2, True)
    included = np.zeros(graph.real.shape, dtype=bool)
    scores = np.full(graph.real.shape, np.nan, dtype=np.float32)
    position = np.full(graph.real.shape, -1)
    for source, destination, at, score in edges:
        index = graph.sources.index(source), graph.destinations.index(destination)
        assert graph.real[index]
        included[index], scores[index], position[index] = True, score, at
    return Circuit(graph, included, scores, {"model": "toy"}, {"unit": unit}, labels, position)


def random_circuit(seed: int, n_edges: int = 60) -> Circuit:
    rng = np.random.default_rng(seed)
    graph = Graph(4, 6, 3 if seed % 2 else 6, bool(seed % 3))
    real = np.argwhere(graph.real)
    chosen = real[rng.choice(len(real), n_edges, replace=False)]
    return make(
        tuple(
            (graph.sources[s], graph.destinations[d], int(rng.integers(4)), rng.normal())
            for s, d in chosen
        ),
        graph,
    )


def nodes(fig: go.Figure) -> dict[tuple[float, float], str]:
    """Hover text by place."""
    found: dict[tuple[float, float], str] = {}
    for trace in traces(fig, "nodes"):
        found |= dict(zip(zip(trace.x, trace.y, strict=True), trace.hovertext, strict=True))
    return found


def ends(fig: go.Figure) -> list[tuple[Any, ...]]:
    """(x, y) where each drawn edge begins and ends, colour, width and dash."""
    found = []
    for trace in traces(fig, "edges"):
        points = np.column_stack([trace.x, trace.y])
        breaks = np.nonzero(np.isnan(points[:, 0]))[0]
        for curve in np.split(points, breaks)[:-1]:
            curve = curve[~np.isnan(curve[:, 0])]
            look = (trace.line.color, trace.line.width, trace.line.dash)
            found.append((*curve[0], *curve[-1], *look))
    return found


def test_a_head_stands_where_it_asks_and_reads_where_it_attends_to() -> None:
    layout = lay_out(make())
    assert set(layout.places) == {
        ("input", 1),
        ("input", 3),
        ("m0", 1),
        ("a1.h0", 3),
        ("logits", 3),
    }
    joined = {(arc.source, arc.destination): arc.target for arc in layout.arcs}
    assert joined == {
        (("input", 1), "m0"): ("m0", 1),
        (("m0", 1), "a1.h0.v"): ("a1.h0", 3),
        (("m0", 1), "a1.h0.k"): ("a1.h0", 3),
        (("input", 3), "a1.h0.q"): ("a1.h0", 3),
        (("a1.h0", 3), "logits"): ("logits", 3),
    }


def test_a_head_without_queries_stands_where_it_is_read_most() -> None:
    edges = (
        ("input", "a0.h1.v", 1, 1.0),
        ("a0.h1", "m0", 2, 0.5),
        ("a0.h1", "logits", 3, -2.0),
        ("m0", "logits", 3, 1.0),
    )
    joined = {arc.destination: arc.target for arc in lay_out(make(edges)).arcs}
    assert joined["a0.h1.v"] == ("a0.h1", 3)


def test_a_head_never_stands_before_what_it_attends_to() -> None:
    edges = (
        ("input", "a0.h0.q", 1, 9.0),
        ("input", "a0.h0.v", 2, 1.0),
        ("input", "a0.h0.k", 1, 1.0),
        ("a0.h0", "logits", 3, 1.0),
    )
    joined = {arc.destination: arc.target for arc in lay_out(make(edges)).arcs}
    assert joined["a0.h0.q"] == ("a0.h0", 1)
    assert joined["a0.h0.v"] == ("a0.h0", 3)
    assert joined["a0.h0.k"] == ("a0.h0", 1)  # a token attends to itself too


@pytest.mark.parametrize("seed", range(6))
def test_nodes_never_overlap_and_edges_lead_upwards(seed: int) -> None:
    circuit = random_circuit(seed)
    layout = lay_out(circuit)
    where = sorted((y, x) for x, y in layout.places.values())
    for (y, x), (next_y, next_x) in itertools.pairwise(where):
        assert next_y > y or next_x - x >= 0.999
    assert all(0 < x < layout.width and 0 < y < layout.height for y, x in where)
    for arc in layout.arcs:
        assert layout.places[arc.source][1] < layout.places[arc.target][1]
        assert arc.source[1] == arc.position
        if arc.reader in ("k", "v"):
            assert arc.target[1] >= arc.position
        else:
            assert arc.target[1] == arc.position
    # With grouped queries one key is an edge to each head that it serves.
    assert len({(arc.source[0], arc.destination) for arc in layout.arcs}) == len(circuit)


def test_columns_stand_in_the_order_of_the_prompt_and_hold_their_nodes() -> None:
    layout = lay_out(random_circuit(0))
    assert [label for _, label in layout.columns] == list(LABELS)
    centres = [x for x, _ in layout.columns]
    assert centres == sorted(centres)
    for column in range(3):
        mine = [x for (_, at), (x, _) in layout.places.items() if at == column]
        later = [x for (_, at), (x, _) in layout.places.items() if at > column]
        assert max(mine) < min(later)


def test_edges_are_drawn_from_node_to_node_by_size_and_sign() -> None:
    circuit = make()
    fig, layout = circuit_map(circuit), lay_out(circuit)
    drawn = ends(fig)
    assert len(drawn) == 5
    strongest = max(drawn, key=lambda edge: edge[5])
    assert strongest[:4] == (*layout.places["a1.h0", 3], *layout.places["logits", 3])
    assert strongest[5] == 7.0
    by_dash = {edge[6]: edge for edge in drawn}
    # Key and value of one head come from the same place, and are drawn side by side.
    key = by_dash["dot"]
    assert key[:4] != (*layout.places["m0", 1], *layout.places["a1.h0", 3])
    assert key[0] == pytest.approx(layout.places["m0", 1][0], abs=0.2)
    assert key[2] == pytest.approx(layout.places["a1.h0", 3][0], abs=0.2)
    colours = {edge[4] for edge in drawn}
    assert len(colours) == 2
    assert [edge[6] for edge in drawn if edge[4] == key[4]] == ["dot"]  # the only negative one
    assert by_dash["dash"][:4] == (*layout.places["input", 3], *layout.places["a1.h0", 3])
    legend = {t.name: t.line.color for t in fig.data if t.showlegend is not False}
    assert key[4] == legend["opposes it"]
    assert strongest[4] == legend["supports the answer"]
    assert list(legend) == [
        "supports the answer",
        "opposes it",
        "queries",
        "keys",
        "other",
    ]


@pytest.mark.slow
def test_maps_can_share_a_scale() -> None:
    def widths(limit: float | None) -> list[float]:
        return sorted(edge[5] for edge in ends(circuit_map(make(), limit=limit)))

    assert widths(None)[-1] == 7.0
    assert widths(8.0)[-1] == 3.5
    assert widths(2.0)[-3:] == [7.0, 7.0, 7.0]  # scores 4, 3 and 2
    assert widths(400.0)[-1] == 1.0  # nothing gets too thin to see
    notes = circuit_map(make(), limit=8.0).layout.annotations
    assert "the largest score is +4 logits" in notes[0].text


def test_hovers_tell_nodes_and_edges() -> None:
    circuit = make()
    fig, layout = circuit_map(circuit), lay_out(circuit)
    head = nodes(fig)[layout.places["a1.h0", 3]]
    assert head.startswith("<b>a1.h0</b> at end -1<br>3 edges in<br>")
    assert "+3 logits  m0 → v" in head
    assert "−0.5 logits  m0 → k" in head
    assert "1 edge out<br>  +4 logits  → logits" in head
    target = traces(fig, "edge targets")[0]
    key = next(text for text in target.text if "a1.h0.k" in text)
    assert key == "<b>m0 → a1.h0.k</b><br>−0.5 logits, read as key<br>at subject -1"


def test_curves_keep_clear_of_the_nodes_between() -> None:
    edges = (
        ("input", "m0", 3, 1.0),
        ("m0", "m1", 3, 1.0),
        ("m1", "logits", 3, 1.0),
        ("input", "logits", 3, 5.0),
    )
    fig = circuit_map(make(edges))
    layout = lay_out(make(edges))
    strongest = next(trace for trace in traces(fig, "edges") if trace.line.width == 7.0)
    x, y = layout.places["m1", 3]
    there = np.nanargmin(np.abs(np.asarray(strongest.y) - y))
    assert abs(strongest.x[there] - x) > 0.3


def test_without_positions_columns_are_heads_and_a_note_says_so() -> None:
    circuit = dataclasses.replace(make(), positions=(), position=np.zeros((0, 0), np.int64))
    layout = lay_out(circuit)
    assert {position for _, position in layout.places} == {NOWHERE}
    assert [label for _, label in layout.columns] == ["head 0", "MLP"]
    assert layout.places["a1.h0", NOWHERE][0] == layout.columns[0][0]
    assert layout.places["m0", NOWHERE][0] == layout.columns[1][0]
    notes = [note.text for note in circuit_map(circuit).layout.annotations]
    assert any("not told apart by position" in note for note in notes)
    # The same where the file of a circuit tells the positions of some edges only.
    partly = make()
    partly.position[partly.included.nonzero()[0][0], partly.included.nonzero()[1][0]] = -1
    assert not lay_out(partly).by_position


def test_unused_positions_of_long_prompts_are_left_out_and_counted() -> None:
    labels = tuple(f"end -{60 - i}" for i in range(60))
    edges = (("input", "m0", 10, 1.0), ("m0", "logits", 59, 1.0))
    fig = circuit_map(make(edges, labels=labels))
    assert list(fig.layout.xaxis.ticktext) == ["end -50", "end -1"]
    assert any("58 positions" in note.text for note in fig.layout.annotations)


@pytest.mark.slow
def test_a_crowded_circuit_gets_wider_instead_of_denser() -> None:
    assert circuit_map(make()).layout.width is None
    fig = circuit_map(random_circuit(1, 150), width=400)
    assert fig.layout.width > 400
    assert fig.layout.height < 900
    assert len(fig.data) < 60  # edges of one look share a trace


def test_an_empty_circuit_says_so() -> None:
    fig = circuit_map(make(()))
    assert not traces(fig, "edges")
    assert "no edges" in fig.layout.annotations[0].text


def test_edges_without_a_score_are_drawn_too() -> None:
    edges = (("input", "logits", 3, float("nan")),)
    fig = circuit_map(make(edges))
    assert len(ends(fig)) == 1
    assert "no score" in traces(fig, "edge targets")[0].text[0]


def test_hostile_labels_are_text() -> None:
    labels = (HOSTILE, f"{HOSTILE} -1", "$x$", HOSTILE)
    assert_safe(circuit_map(make(labels=labels, unit=HOSTILE), title=HOSTILE))
