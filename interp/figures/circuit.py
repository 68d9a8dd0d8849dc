"""A circuit as a map: which component at which position reads which other, and how much."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from cache.arguments import typed
from interp.figures.drawing import grid, theme
from interp.figures.drawing.layout import Arc, Layout, Place, Points, curves, lay_out

if TYPE_CHECKING:
    from interp.circuits.circuit import Circuit

_LEFT, _RIGHT, _TOP = 78, 14, 40
_SLOT, _ROW, _TALLEST = 34, 50, 640  # px: least width of a node, most of a row, all rows
_MARKER, _WIDEST = 25, 7.0  # px of a node and of the strongest edge

_SUPPORTS, _OPPOSES, _UNSCORED = theme.DIVERGING[-3], theme.DIVERGING[2], theme.MUTED
_DASHES = {"q": "dash", "k": "dot"}
_READERS = {
    "q": "read as query",
    "k": "read as key",
    "v": "read as value",
    "mlp": "read by the MLP",
    "logits": "read by the unembedding",
}


@typed
def circuit_map(
    circuit: Circuit,
    *,
    limit: float | None = None,
    title: str | None = None,
    width: int = grid.WIDTH,
) -> go.Figure:
    """Draw a circuit: positions from left to right, layers upwards, the embedding at the bottom.

    A node is a component at a position, so one that is read at several positions stands at several
    places. Edges into keys and values lead from the position attended to to that of the head; all
    others stay at their position. An edge is as wide as its |score|, green where it supports the
    answer and purple where it opposes it.

    Args:
        circuit: what `prune` or `Circuit.load` returned. If its scores were not told apart by
            position, columns are heads instead, and a note says so.
        limit: the |score| of the widest edges, for maps to be compared; the largest of this one
            if left out.
        title: of the figure.
        width: px that the figure will have; where the nodes need more, it is drawn wider.
    """
    layout = lay_out(circuit)
    unit = (width - _LEFT - _RIGHT) / max(layout.width, 1.0)
    wider = unit < _SLOT
    unit = max(unit, _SLOT)
    row = min(_ROW, max(30, _TALLEST / layout.height))
    fig = go.Figure()
    drawn = curves(layout, unit, row, _MARKER / 2 + 4)
    fig.add_traces(_lines(layout, drawn, limit or largest_score(circuit)))
    fig.add_trace(_edge_targets(layout, drawn, circuit))
    fig.add_traces(_nodes(layout, circuit))
    fig.add_traces(_legend(layout))
    notes = _notes(layout, circuit)
    labels, angle = _column_labels(layout, unit)
    below = 22 if angle == 0 else 74
    top, bottom = _TOP + (28 if title else 0), below + 18 * len(notes)
    theme.finish(
        fig,
        title=title,
        height=int(row * layout.height) + top + bottom,
        hoverdistance=12,
    )
    fig.update_layout(
        margin={"l": _LEFT, "r": _RIGHT, "t": top, "b": bottom, "autoexpand": False},
        legend={
            "xref": "container",
            "x": 0.01,
            "y": 1.01,
            "font": {"size": theme.SMALL},
            "itemclick": False,
            "itemdoubleclick": False,
        },
    )
    if wider:
        fig.update_layout(width=int(unit * layout.width) + _LEFT + _RIGHT)
    _axes(fig, layout, labels, angle)
    for number, text in enumerate(notes):
        theme.note(fig, text, below=below + 18 * number)
    return fig


def largest_score(circuit: Circuit) -> float:
    """The largest |score| of a circuit's edges; 0 where none has one."""
    return float(np.nan_to_num(np.abs(circuit.scores[circuit.included])).max(initial=0.0))


def edge_colour(score: float) -> str:
    """Of an edge that supports the answer, opposes it, or has no score."""
    if not np.isfinite(score):
        return _UNSCORED
    return _SUPPORTS if score >= 0 else _OPPOSES


def edge_words(arc: Arc, circuit: Circuit) -> list[str]:
    """What an edge is, in lines of plain text: who reads whom, how much, and where."""
    unit = str(circuit.settings.get("unit", ""))
    lines = [f"{arc.source[0]} → {arc.destination}"]
    lines.append(f"{_number(arc.score)} {unit}, {_READERS[arc.reader]}")
    if circuit.positions and arc.position >= 0:
        lines.append(f"at {theme.shorten(theme.visible(circuit.positions[arc.position]), 40)}")
    return lines


def _lines(layout: Layout, paths: Sequence[Points], limit: float) -> list[go.Scatter]:
    """Edges of one look share a trace, the weakest at the back."""
    looks: dict[tuple[float, str, str], list[Points]] = defaultdict(list)
    gap = np.full((1, 2), np.nan)
    for arc, curve in zip(layout.arcs, paths, strict=True):
        # Eight steps of width can be told apart, and keep the number of traces small.
        share = min(1.0, abs(arc.score) / limit) if limit and np.isfinite(arc.score) else 0.0
        step = float(np.ceil(share * 8) / 8)
        looks[step, edge_colour(arc.score), _DASHES.get(arc.reader, "solid")] += [curve, gap]
    traces = []
    for (step, colour, dash), pieces in sorted(looks.items(), key=lambda look: look[0][0]):
        points = np.concatenate(pieces)
        traces.append(
            go.Scatter(
                x=np.round(points[:, 0], 3),
                y=np.round(points[:, 1], 3),
                mode="lines",
                line={"color": colour, "width": max(1.0, _WIDEST * step), "dash": dash},
                opacity=0.42 + 0.5 * step,
                hoverinfo="skip",
                showlegend=False,
                name="edges",
            )
        )
    return traces


def _edge_targets(layout: Layout, paths: Sequence[Points], circuit: Circuit) -> go.Scatter:
    """Invisible points along the edges, that tell what each one is."""
    x, y, text = [], [], []
    for arc, curve in zip(layout.arcs, paths, strict=True):
        first, *others = (theme.escape(line) for line in edge_words(arc, circuit))
        lines = [f"<b>{first}</b>", *others]
        for point in curve[4:-4:4]:
            x.append(round(float(point[0]), 3))
            y.append(round(float(point[1]), 3))
            text.append("<br>".join(lines))
    return go.Scatter(
        x=x,
        y=y,
        mode="markers",
        marker={"size": 6, "color": "rgba(0,0,0,0)"},
        text=text,
        hovertemplate="%{text}<extra></extra>",
        showlegend=False,
        name="edge targets",
    )


def _nodes(layout: Layout, circuit: Circuit) -> list[go.Scatter]:
    """Heads are circles, MLPs squares, embedding and logits diamonds."""
    kinds: dict[str, list[Place]] = {"circle": [], "square": [], "diamond": []}
    for place in layout.places:
        node = place[0]
        outer = node in ("input", "logits")
        kinds["diamond" if outer else "circle" if "h" in node else "square"].append(place)
    return [
        go.Scatter(
            x=[layout.places[place][0] for place in places],
            y=[layout.places[place][1] for place in places],
            mode="markers+text",
            marker={
                "symbol": symbol,
                "size": _MARKER if symbol != "diamond" else 15,
                "color": "white",
                "line": {"color": theme.INK, "width": 1.4},
                "opacity": 1,
            },
            text=["" if symbol == "diamond" else _short(place[0]) for place in places],
            textfont={"family": theme.MONO, "size": 10, "color": theme.INK},
            hovertext=[_node_hover(place, layout, circuit) for place in places],
            hovertemplate="%{hovertext}<extra></extra>",
            customdata=[[*circuit.graph.place(place[0]), place[1]] for place in places],
            showlegend=False,
            name="nodes",
        )
        for symbol, places in kinds.items()
        if places
    ]


def _short(node: str) -> str:
    """What fits into a marker; the layer stands at the axis."""
    return node.split(".")[1] if "." in node else "mlp"


def _node_hover(place: Place, layout: Layout, circuit: Circuit) -> str:
    node, position = place
    where = f" at {theme.shown(circuit.positions[position], 40)}" if layout.by_position else ""
    lines = [f"<b>{theme.escape(node)}</b>{where}"]
    unit = theme.escape(circuit.settings.get("unit", ""))
    ways = (
        ("in", [arc for arc in layout.arcs if arc.target == place]),
        ("out", [arc for arc in layout.arcs if arc.source == place]),
    )
    for way, arcs in ways:
        if not arcs:
            continue
        lines.append(f"{len(arcs)} edge{'s' if len(arcs) > 1 else ''} {way}")
        for arc in arcs[:-5:-1]:
            ends = f"{arc.source[0]} → {arc.reader}" if way == "in" else f"→ {arc.destination}"
            lines.append(f"  {_number(arc.score)} {unit}  {theme.escape(ends)}")
        if len(arcs) > 4:
            lines.append("  …")
    return "<br>".join(lines)


def _legend(layout: Layout) -> list[go.Scatter]:
    """What colours and dashes stand for, of those that are there."""
    entries = []
    scores = [arc.score for arc in layout.arcs]
    for name, colour, present in (
        ("supports the answer", _SUPPORTS, any(score >= 0 for score in scores)),
        ("opposes it", _OPPOSES, any(score < 0 for score in scores)),
        ("no score", _UNSCORED, not all(np.isfinite(score) for score in scores)),
    ):
        if present:
            entries.append((name, {"color": colour, "width": 4}))
    readers = {arc.reader for arc in layout.arcs}
    for name, dash, present in (
        ("queries", "dash", "q" in readers),
        ("keys", "dot", "k" in readers),
        ("other", "solid", bool(readers & {"q", "k"}) and bool(readers - {"q", "k"})),
    ):
        if present:
            entries.append((name, {"color": theme.MUTED, "width": 1.5, "dash": dash}))
    return [
        go.Scatter(x=[None], y=[None], mode="lines", line=line, name=name, hoverinfo="skip")
        for name, line in entries
    ]


def _notes(layout: Layout, circuit: Circuit) -> list[str]:
    if not layout.arcs:
        return ["This circuit has no edges; choose more of them, or a lower threshold."]
    unit = str(circuit.settings.get("unit", ""))
    notes = [f"{len(circuit)} edges of {circuit.graph.n_edges:,}, {len(circuit.nodes)} components"]
    scores = [arc.score for arc in layout.arcs if np.isfinite(arc.score)]
    if scores:
        notes[0] += f"; the largest score is {_number(max(scores, key=abs))} {unit}"
    if not layout.by_position:
        notes.append(
            "Columns are heads: these scores were not told apart by position (by='position')."
        )
    elif layout.left_out:
        notes.append(f"{layout.left_out} positions that no edge is read at are left out.")
    return notes


def _column_labels(layout: Layout, unit: float) -> tuple[list[str], float]:
    """Labels, escaped, and the angle at which none runs into the next."""
    names = [theme.visible(label) for _, label in layout.columns]
    steps = np.diff([x for x, _ in layout.columns]) * unit
    pairs = zip(names, names[1:], steps, strict=False)
    apart = all(len(a) + len(b) + 1 <= 2 * theme.characters(step) for a, b, step in pairs)
    return theme.spaced(names, 1e6 if apart else 25)


def _axes(fig: go.Figure, layout: Layout, labels: Sequence[str], angle: float) -> None:
    for number, (low, high, _) in enumerate(layout.layers):
        if number % 2 == 0:
            fig.add_hrect(
                y0=low - 0.5, y1=high + 0.5, fillcolor="#f5f6f8", line_width=0, layer="below"
            )
    rows = [(0.5, "embedding")]
    rows += [((low + high) / 2, f"block {label}") for low, high, label in layout.layers]
    rows.append((layout.height - 0.5, "logits"))
    fig.update_yaxes(
        tickvals=[y for y, _ in rows],
        ticktext=[label for _, label in rows],
        range=[0, layout.height],
        showgrid=False,
        automargin=False,
    )
    fig.update_xaxes(
        tickvals=[x for x, _ in layout.columns],
        ticktext=labels,
        tickangle=angle,
        tickfont={"family": theme.MONO, "size": theme.SMALL},
        range=[0, layout.width],
        showgrid=False,
        automargin=False,
    )


def _number(score: float) -> str:
    if not np.isfinite(score):
        return "no score,"
    return f"{score:+.3g}".replace("-", "−")
