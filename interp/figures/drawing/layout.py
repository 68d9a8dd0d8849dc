"""Where the nodes and edges of a circuit stand: position from left to right, layer upwards."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from interp.circuits.circuit import Circuit

NOWHERE = -1  # the column of all nodes of a circuit that has no positions

_SHORT = 12  # prompts of up to so many tokens are drawn whole
_GAP, _CHARACTER, _LABEL = 0.6, 0.21, 2.1  # of columns: between two, of a label, of the longest
_SKIPPED, _LAST = 0.4, 1.2  # heights of layers without nodes and of the step to the logits

_POINTS = 25  # of which a curve is made
_BOWS = (0.0, 20.0, -20.0, 40.0, -40.0, 60.0, -60.0)  # px that it may swing out
_REACHES = (0.35, 0.6, 0.15)  # how much of its height it may go straight up at its ends
_ASIDE = 0.2  # between edges of the same two nodes, in widths of a node

Points = npt.NDArray[np.float64]
Place = tuple[str, int]
"""A node and the index of the position at which it writes."""


@dataclass(frozen=True)
class Arc:
    """One edge as it is drawn.

    Attributes:
        source, target: the places that it joins.
        destination: the reader's full name, like "a1.h2.q".
        reader: "q", "k", "v", "mlp" or "logits".
        score: of the edge; NaN where there is none.
        position: index of the position at which the reader reads.
    """

    source: Place
    target: Place
    destination: str
    reader: str
    score: float
    position: int


@dataclass(frozen=True)
class Layout:
    """A circuit laid out.

    Attributes:
        places: (x, y) of each place; places of one row stand at least 1 apart.
        arcs: the edges, the weakest first.
        columns: (x, label) of the columns.
        layers: (lowest y, highest y, label) of each layer that has nodes.
        width, height: the plane is 0 to width, 0 to height.
        left_out: how many positions without nodes are not drawn.
        by_position: whether columns are positions; else they are heads.
    """

    places: dict[Place, tuple[float, float]]
    arcs: tuple[Arc, ...]
    columns: tuple[tuple[float, str], ...]
    layers: tuple[tuple[float, float, str], ...]
    width: float
    height: float
    left_out: int
    by_position: bool


def lay_out(circuit: Circuit, beside: Iterable[str] = ()) -> Layout:
    """A place for every node at each position where it is read or reads.

    A head reads queries where it writes, keys and values anywhere before; so edges into keys and
    values lead from the position that is attended to to the head's own one, and all others stay
    at their position. A head's own position is where most of its query scores lie; of one whose
    queries the circuit leaves alone, where most of its output is read.

    Args:
        beside: nodes of other circuits, whose rows are left free: so that all have the same rows.
    """
    by_position = bool(circuit.positions) and bool((circuit.position[circuit.included] >= 0).all())
    arcs = _arcs(circuit, by_position)
    used = {place for arc in arcs for place in (arc.source, arc.target)}
    rows, layers, height = _rows({node for node, _ in used} | set(beside), circuit)
    if by_position:
        x, columns, width, left_out = _by_position(used, rows, circuit)
    else:
        x, columns, width = _by_head(used, circuit)
        left_out = 0
    places = {place: (x[place], rows[_row(place[0], circuit)]) for place in used}
    return Layout(places, tuple(arcs), columns, layers, width, height, left_out, by_position)


def curves(layout: Layout, unit: float, row: float, clearance: float) -> list[Points]:
    """Each arc as points [point, 2] that leave and arrive upwards.

    Of several bows the one that passes behind the fewest nodes is taken: an edge that seems to
    touch a node would be read as that node's.

    Args:
        unit, row: px of the plane's two units.
        clearance: px between a curve and the middle of a node that it does not touch.
    """
    t = np.linspace(0, 1, _POINTS)[:, None]
    scale = np.array([unit, row])
    nodes = np.array(list(layout.places.values())).reshape(-1, 2) * scale
    out = []
    for arc, aside in zip(layout.arcs, _asides(layout.arcs), strict=True):
        (x0, y0), (x1, y1) = layout.places[arc.source], layout.places[arc.target]
        x0, x1 = x0 + aside, x1 + aside
        best, least = None, np.inf
        # Bent aside, an edge that comes from afar would turn back before its end.
        ways = [(bow / unit, _REACHES[0]) for bow in _BOWS]
        if abs(x1 - x0) > 1.2:
            ways = [(0.0, share) for share in _REACHES]
        for bow, share in ways:
            reach = share * (y1 - y0)
            ends = ((x0, y0), (x0 + bow, y0 + reach), (x1 + bow, y1 - reach), (x1, y1))
            a, b, c, d = (np.array([end]) for end in ends)
            curve = (1 - t) ** 3 * a + 3 * t * (1 - t) ** 2 * b + 3 * t**2 * (1 - t) * c + t**3 * d
            away = np.linalg.norm(curve[:, None] * scale - nodes, axis=-1).min(0)
            # Two are always met: those that it joins.
            outside = float(curve[:, 0].min()) < 0 or float(curve[:, 0].max()) > layout.width
            cost = float((away < clearance).sum()) + 0.2 * abs(bow) + 100 * outside
            if cost < least:
                best, least = curve, cost
        assert best is not None
        out.append(best)
    return out


def _asides(arcs: Sequence[Arc]) -> list[float]:
    """How far each arc is moved aside, so that several between two places stay apart."""
    together: dict[tuple[Place, Place], list[str]] = defaultdict(list)
    for arc in arcs:
        together[arc.source, arc.target].append(arc.destination)
    found = []
    for arc in arcs:
        others = sorted(together[arc.source, arc.target])
        found.append(_ASIDE * (others.index(arc.destination) - (len(others) - 1) / 2))
    return found


def _arcs(circuit: Circuit, by_position: bool) -> list[Arc]:
    graph = circuit.graph
    found = []
    for s, d in np.argwhere(circuit.included):
        name = graph.destinations[d]
        reader = name.rsplit(".", 1)[1] if "." in name else "mlp" if name != "logits" else name
        at = int(circuit.position[s, d]) if by_position else NOWHERE
        for target in circuit.targets(int(d)):
            found.append((graph.sources[s], target, name, reader, float(circuit.scores[s, d]), at))
    read: dict[str, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    reads: dict[str, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    for source, target, _, reader, score, at in found:
        read[source][at] += _weight(score)
        if reader not in ("k", "v"):
            reads[target][at] += _weight(score)
    arcs = []
    for source, target, name, reader, score, at in found:
        where = at
        if reader in ("k", "v"):
            where = _own(reads.get(target, {}), read.get(target, {}), at)
        arcs.append(Arc((source, at), (target, where), name, reader, score, at))
    return sorted(arcs, key=lambda arc: _weight(arc.score))


def _own(reads: dict[int, float], read: dict[int, float], at: int) -> int:
    """The position of a head that attends to `at`: it does not stand before it."""
    for weights in (reads, read):
        later = {position: weight for position, weight in weights.items() if position >= at}
        if later:
            return max(later, key=lambda position: (later[position], position))
    return at


def _weight(score: float) -> float:
    return abs(score) if np.isfinite(score) else 0.0


def _row(node: str, circuit: Circuit) -> tuple[int, int]:
    """Layer and, in it, 0 for heads and 1 for the MLP; in order from the bottom up."""
    if node in ("input", "logits"):
        return (-1, 0) if node == "input" else (circuit.graph.n_layers, 0)
    layer, head = circuit.graph.place(node)
    return layer, int(head < 0)


def _rows(
    nodes: set[str], circuit: Circuit
) -> tuple[dict[tuple[int, int], float], tuple[tuple[float, float, str], ...], float]:
    used = {_row(node, circuit) for node in nodes}
    y, gap = 0.5, 0.0
    rows, layers = {(-1, 0): y}, []
    for layer in range(circuit.graph.n_layers):
        inside = [(layer, part) for part in (0, 1) if (layer, part) in used]
        for row in inside:
            y += 1 + gap
            gap = 0.0
            rows[row] = y
        if inside:
            layers.append((rows[inside[0]], y, str(layer)))
        else:
            gap = _SKIPPED
    rows[circuit.graph.n_layers, 0] = y + gap + _LAST
    return rows, tuple(layers), y + gap + _LAST + 0.5


def _by_position(
    used: set[Place], rows: dict[tuple[int, int], float], circuit: Circuit
) -> tuple[dict[Place, float], tuple[tuple[float, str], ...], float, int]:
    """Places of one row and column side by side, in the order of the heads."""
    cells: dict[tuple[int, float], list[Place]] = defaultdict(list)
    order = {name: number for number, name in enumerate((*circuit.graph.sources, "logits"))}
    for place in sorted(used, key=lambda place: order[place[0]]):
        cells[place[1], rows[_row(place[0], circuit)]].append(place)
    widest = {
        column: max(len(cell) for (at, _), cell in cells.items() if at == column)
        for column in {at for at, _ in cells}
    }
    whole = len(circuit.positions) <= _SHORT
    drawn = [i for i in range(len(circuit.positions)) if whole or i in widest]
    left = _GAP / 2
    centre, columns = {}, []
    for column in drawn:
        label = min(_LABEL, _CHARACTER * len(circuit.positions[column]))
        width = max(widest.get(column, 0.0), label - _GAP / 2)
        centre[column] = left + width / 2
        columns.append((centre[column], circuit.positions[column]))
        left += width + _GAP
    x = {
        place: centre[column] + number - (len(cell) - 1) / 2
        for (column, _), cell in cells.items()
        for number, place in enumerate(cell)
    }
    return x, tuple(columns), left - _GAP / 2, len(circuit.positions) - len(drawn)


def _by_head(
    used: set[Place], circuit: Circuit
) -> tuple[dict[Place, float], tuple[tuple[float, str], ...], float]:
    """A column for each head that is used in some layer, the MLPs last."""
    head_of = {node: circuit.graph.place(node)[1] for node, _ in used}
    heads = sorted({head for head in head_of.values() if head >= 0})
    centre = {head: 0.5 + number for number, head in enumerate(heads)}
    middle, last = max(1, len(heads)) / 2, max(1, len(heads)) + 0.5
    x = {}
    for place in used:
        node = place[0]
        outer = node in ("input", "logits")
        x[place] = middle if outer else centre.get(head_of[node], last)
    labels = tuple((centre[head], f"head {head}") for head in heads)
    return x, (*labels, (last, "MLP")), last + 0.5
