"""Circuits as the browser draws them: nodes and edges in px, with the words that are said of them.

The browser filters, searches, zooms and groups what is here (`app/static/circuit.js`); it sets all
text as text, so nothing is escaped.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import streamlit as st

from app.screen import look
from interp.figures.circuit import edge_colour, edge_words, largest_score
from interp.figures.drawing import theme
from interp.figures.drawing.dark import swapped
from interp.figures.drawing.layout import Layout, Place, curves, lay_out

if TYPE_CHECKING:
    from experiments.explorer import Way
    from interp.circuits import Circuit

_STATIC = Path(__file__).parents[1] / "static"
_component = st.components.v2.component(
    "obverse_circuit",
    html='<div class="circuits"></div>',
    css=(_STATIC / "circuit.css").read_text(encoding="utf-8"),
    js=(_STATIC / "circuit.js").read_text(encoding="utf-8"),
)

_LEFT, _RIGHT, _TOP, _BOTTOM = 74, 14, 10, 64
_SLOT, _ROW, _TALLEST = 34, 50, 640
_RADIUS, _WIDEST = 12.5, 7.0
_GREY, _LETTER, _LINE = "#80848c", 7, 15  # a colour by day and by night, and px of text


def show(
    drawn: list[dict[str, Any]],
    marks: Mapping[str, Mapping[str, object]],
    opened: Callable[[Mapping[str, object] | None], None],
    filters: Mapping[str, object],
    filtered: Callable[[object], None],
) -> None:
    """Put circuits on the screen.

    Args:
        drawn: of `graphs`.
        marks: by way, the layer and the label of the place of a cell to be marked.
        opened: called with the way, node and position that are opened, or None.
        filters: where the switches of the drawing stand at first.
        filtered: called with where they stand when the reader has moved one.
    """

    def changed() -> None:
        opened(dict(st.session_state["circuits"]).get("opened"))

    def moved() -> None:
        filtered(dict(st.session_state["circuits"]).get("filters"))

    data = {"graphs": drawn, "marks": marks, "filters": filters}
    _component(
        key="circuits",
        data=data,
        on_opened_change=changed,
        on_filters_change=moved,
        height="content",
    )


def graphs(
    circuits: Mapping[Way, Circuit],
    *,
    width: int,
    tokens: Mapping[str, Mapping[str, str]],
    noise: Mapping[str, str],
    wrong: Mapping[str, str],
) -> list[dict[str, Any]]:
    """One drawing for each way, with the rows of one at the height of those of the others.

    Args:
        width: px that each has at least.
        tokens: by way, the token at a place, by its label, where one is to be told.
        noise: by way, why what is drawn could be noise; empty where it could not. It is grey then,
            and says so, in a file that is saved of it, too.
        wrong: by way, why it must not be saved; empty where it may be.
    """
    nodes = sorted({node for circuit in circuits.values() for node in circuit.nodes})
    # On scales of their own, a circuit of noise would look like one that carries something.
    limit = max(largest_score(circuit) for circuit in circuits.values())
    return [
        _greyed(
            _graph(way, circuit, lay_out(circuit, beside=nodes), limit, width, tokens[way.name]),
            noise[way.name],
        )
        | {"wrong": wrong[way.name]}
        for way, circuit in circuits.items()
    ]


def _greyed(graph: dict[str, Any], noise: str) -> dict[str, Any]:
    """A drawing that says at its foot why it could be noise, if it could."""
    if not noise:
        return graph | {"grey": False, "reason": []}
    lines = textwrap.wrap(noise, max(20, graph["width"] // _LETTER))
    edges = [edge | {"colour": _GREY} for edge in graph["edges"]]
    height = graph["height"] + _LINE * len(lines)
    return graph | {"grey": True, "reason": lines, "edges": edges, "height": height}


def _column(text: str) -> str:
    """What stands under the column of a place."""
    return theme.shorten(theme.visible(text), 24)


def _graph(
    way: Way,
    circuit: Circuit,
    layout: Layout,
    limit: float,
    width: int,
    tokens: Mapping[str, str],
) -> dict[str, Any]:
    unit = max((width - _LEFT - _RIGHT) / max(layout.width, 1.0), _SLOT)
    row = min(_ROW, max(30, _TALLEST / layout.height))
    tall = layout.height * row

    def at(x: float, y: float) -> list[float]:
        return [round(_LEFT + x * unit, 1), round(_TOP + tall - y * row, 1)]

    names = {place: number for number, place in enumerate(layout.places)}
    edges = []
    for arc, curve in zip(layout.arcs, curves(layout, unit, row, _RADIUS + 4), strict=True):
        share = min(1.0, abs(arc.score) / limit) if limit and np.isfinite(arc.score) else 0.0
        edges.append(
            {
                "of": (arc.source[0], arc.destination),
                "from": names[arc.source],
                "to": names[arc.target],
                "points": [at(float(x), float(y)) for x, y in curve[::3]],
                "width": round(max(1.0, _WIDEST * share), 2),
                "opacity": round(0.42 + 0.5 * share, 2),
                "colour": _shade(edge_colour(arc.score)),
                "reader": arc.reader,
                "words": edge_words(arc, circuit),
            }
        )
    edges.reverse()  # the strongest first
    # What heads share that read the same keys is one edge, and a line to each of them.
    ranks: dict[object, int] = {}
    for edge in edges:
        edge["rank"] = ranks.setdefault(edge.pop("of"), len(ranks))
    return {
        "way": way.name,
        "title": way.title,
        "colour": way.colour,
        "width": round(_LEFT + layout.width * unit + _RIGHT),
        "height": round(_TOP + tall + _BOTTOM),
        "floor": round(_TOP + tall, 1),
        "nodes": [_node(place, layout, circuit, tokens, at) for place in layout.places],
        "edges": edges,
        "columns": [
            {"x": at(x, 0)[0], "place": label, "label": _column(tokens.get(label, label))}
            for x, label in layout.columns
        ],
        "rows": _rows(layout, at),
    }


def _shade(colour: str) -> str:
    return swapped(colour) if look.dark() else colour


def _node(
    place: Place, layout: Layout, circuit: Circuit, tokens: Mapping[str, str], at: Any
) -> dict[str, Any]:
    node, position = place
    layer, head = circuit.graph.place(node)
    x, y = at(*layout.places[place])
    label = circuit.positions[position] if layout.by_position else ""
    where = theme.shorten(theme.visible(label), 40)
    if label in tokens:
        where = f"{theme.shorten(theme.visible(tokens[label]), 40)} ({where})"
    outer = node in ("input", "logits")
    return {
        "name": node,
        "kind": "outer" if outer else "head" if head >= 0 else "mlp",
        "label": "" if outer else f"h{head}" if head >= 0 else "mlp",
        "layer": layer,
        "head": head,
        "position": position,
        "where": where,
        "x": x,
        "y": y,
    }


def _rows(layout: Layout, at: Any) -> list[dict[str, Any]]:
    rows = [{"label": "embedding", "top": at(0, 1.0)[1], "bottom": at(0, 0.0)[1]}]
    rows += [
        {"label": f"block {label}", "top": at(0, high + 0.5)[1], "bottom": at(0, low - 0.5)[1]}
        for low, high, label in layout.layers
    ]
    end = layout.height
    return [*rows, {"label": "logits", "top": at(0, end)[1], "bottom": at(0, end - 1.0)[1]}]
