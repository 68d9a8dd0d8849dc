"""Circuits: the edges that carry the answer, and what they do when they are run alone."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st
import xarray as xr

from app import resources, state
from app.clicks import filters_of, node_of, pinned_of, sought_of
from app.compute import circuits
from app.compute.background import requests
from app.compute.circuits import Measured
from app.compute.engine import ModelSpec
from app.panels import circuit_graph
from app.runs import Run
from app.screen import later, live, parts
from app.screen.told import Check, Told
from app.selection import Node
from app.text import markup, sentences, snippets
from experiments.explorer import Pair, Way
from interp.errors import ModelError
from interp.figures import faithfulness_lines
from interp.figures.drawing import theme

_HEIGHT = 460
"""px of the drawing, about."""
_LINES = 480
"""px of the figures of all sizes, with what is told of them, about."""


def toggled(
    spec: ModelSpec,
    pairs: Mapping[Way, tuple[Pair, ...]],
    *,
    width: int,
    run: Run | None = None,
) -> None:
    """The circuits, only where they are wanted: at the foot of a page about something else."""

    def changed() -> None:
        state.change(edges=circuits.USUAL if st.session_state["circuit"] else None)

    st.session_state["circuit"] = state.view().edges is not None
    st.toggle("Find the circuit", key="circuit", on_change=changed)
    if state.view().edges is not None:
        at = {way: some[0] for way, some in pairs.items()}
        show(spec, pairs, width=width, at=at, run=run)


def show(
    spec: ModelSpec,
    pairs: Mapping[Way, tuple[Pair, ...]],
    *,
    width: int,
    at: Mapping[Way, Pair | None],
    run: Run | None = None,
) -> bool:
    """A circuit for each way of asking, side by side, with what it does when it is run alone.

    Returns whether they are there already.

    Args:
        pairs: those whose circuit is looked for, by way.
        width: px of each.
        at: the pair in whose prompt a cell is chosen, by way.
        run: the run that is open, where results are kept.
    """
    parts.html(
        markup.heading(
            "Which edges carry the answer",
            "A circuit: what each component reads of which others. Edges are scored by gradients "
            "(EAP-IG); what the circuit does is measured: all other edges carry the corrupted run.",
        )
    )
    try:
        scores = _scores(spec, pairs, run)
        curves = None if scores is None else _curves(spec, pairs, scores, run)
        if scores is None or curves is None:
            return False
        n_all = max(int(np.isfinite(one["score"].values).sum()) for one in scores.values())
        allowed = circuits.sizes(n_all)
        usual = state.view().edges is None
        # Of a way without a clear effect nothing has chosen it.
        sized = {
            way for way, curve in curves.items() if usual and circuits.enough(curve) is not None
        }
        n_edges = _slider(_size(curves, allowed), allowed)
        found = _measured(spec, pairs, scores, n_edges)
        if found is None:
            return False
    except ModelError as error:
        parts.html(markup.hint(str(error)))
        return False
    drawn = circuit_graph.graphs(
        {way: one.circuit for way, one in found.items()},
        width=width,
        # What could be noise must not look like a finding.
        tokens={way.name: one.tokens for way, one in found.items()},
        noise={way.name: one.effect.reason for way, one in found.items()},
        wrong={way.name: " ".join(Told(checks=one.checks).reasons) for way, one in found.items()},
    )
    circuit_graph.show(drawn, _marks(spec, at), _opened, _filters(), _filtered)
    for (way, one), column in zip(found.items(), st.columns(len(found), gap="large"), strict=True):
        with column:
            parts.html(markup.way(way.title, way.colour))
            _one(spec, way, one, pairs[way], n_edges, sized=way in sized)
    # In a row of their own, below the first screen: what stands above may be longer for one way
    # than for the other.
    if curves:
        later.draw(
            "curves", "", _LINES, lambda: _all_curves(spec, curves, pairs, found, width=width)
        )
    return True


def _size(curves: Mapping[Way, xr.Dataset], allowed: list[int]) -> int:
    """The chosen size; else the smallest circuit that does four fifths of what the model does."""
    wanted = state.view().edges
    if wanted is not None:
        return wanted
    sizes = [size for curve in curves.values() if (size := circuits.enough(curve)) is not None]
    return max(sizes, default=circuits.USUAL)


def _scores(
    spec: ModelSpec, pairs: Mapping[Way, tuple[Pair, ...]], run: Run | None
) -> dict[Way, xr.Dataset] | None:
    """Scores of the edges for each way; None while they are computed."""
    asked = {
        way.title: requests.edges(spec, circuits.halves(some)[0]) for way, some in pairs.items()
    }
    # Where curves come after them, these tell the same.
    found = live.results(asked, "Scoring edges", run, height=_HEIGHT, told=not _curved(pairs))
    if found is None:
        return None
    return {way: one for way, one in zip(pairs, found, strict=True) if one is not None}


def _curved(pairs: Mapping[Way, tuple[Pair, ...]]) -> list[Way]:
    """The ways with pairs that no edges are scored on."""
    return [way for way, some in pairs.items() if circuits.halves(some)[0] != some]


def _curves(
    spec: ModelSpec,
    pairs: Mapping[Way, tuple[Pair, ...]],
    scores: Mapping[Way, xr.Dataset],
    run: Run | None,
) -> dict[Way, xr.Dataset] | None:
    """Faithfulness at every size, of the ways with pairs that the edges were not scored on; None
    while it is measured."""
    ways = _curved(pairs)
    asked = {way.title: requests.curve(spec, pairs[way], scores[way]) for way in ways}
    found = live.results(asked, "Measuring circuits of every size", run, height=_HEIGHT)
    if found is None:
        return None
    return {way: one for way, one in zip(ways, found, strict=True) if one is not None}


def _measured(
    spec: ModelSpec,
    pairs: Mapping[Way, tuple[Pair, ...]],
    scores: Mapping[Way, xr.Dataset],
    n_edges: int,
) -> dict[Way, Measured] | None:
    """The circuit of each way at one size; None while they are run."""
    asked = {
        way.title: requests.circuit(spec, some, scores[way], n_edges) for way, some in pairs.items()
    }
    found = live.results(asked, "Running the circuit", height=_HEIGHT)
    if found is None:
        return None
    return {way: one for way, one in zip(pairs, found, strict=True) if one is not None}


def _all_curves(
    spec: ModelSpec,
    curves: Mapping[Way, xr.Dataset],
    pairs: Mapping[Way, tuple[Pair, ...]],
    found: Mapping[Way, Measured],
    *,
    width: int,
) -> None:
    """What circuits of every size do, each way below its circuit."""
    lines = parts.level([faithfulness_lines(curve, width=width) for curve in curves.values()])
    figures = dict(zip(curves, lines, strict=True))
    for (way, one), column in zip(found.items(), st.columns(len(found), gap="large"), strict=True):
        if way in curves:
            with column:
                _curve(spec, way, curves[way], pairs[way], one.checks, figures[way])


def _curve(
    spec: ModelSpec,
    way: Way,
    curve: xr.Dataset,
    pairs: tuple[Pair, ...],
    checks: tuple[Check, ...],
    fig: go.Figure,
) -> None:
    parts.figure(
        fig,
        f"faithfulness-{way.name}",
        data=lambda: curve[["f", "f_low", "f_high", "complement"]].to_dataframe().reset_index(),
        code=snippets.faithfulness(spec, pairs, curve["fraction"].values.tolist()),
        alt=f"Measured faithfulness of circuits of every size, {way.title.lower()}",
        told=Told(
            "What circuits of every size do when they are run alone, as a share of the model’s "
            "effect.",
            f"{curve.sizes['example']} pairs that no edge was scored on",
            "95% of a ratio of sums over pairs, of the circuit, at each size for itself",
            "all other edges, and random circuits",
            checks,
        ),
    )


def _marks(spec: ModelSpec, at: Mapping[Way, Pair | None]) -> dict[str, dict[str, int | str]]:
    """The chosen patching cell, at the place of its name in the circuit."""
    cell = state.view().cell
    for way, pair in at.items():
        if pair is None or cell is None or cell.position is None or cell.way != way.name:
            continue
        slots = resources.engine().aligned(spec, pair).slots
        label = next((label for label, at in slots.items() if at == cell.position), None)
        if label is not None:
            return {way.name: {"layer": cell.layer, "label": label}}
    return {}


def _opened(told: Mapping[str, object] | None) -> None:
    """A node was opened, or closed."""
    state.change(node=node_of(told))


def _filters() -> dict[str, object]:
    """Where the switches of the drawing stand, as the link tells it."""
    view = state.view()
    names = ("circuit-paths", "circuit-heads")
    opened = [] if view.node is None else [view.node]
    return {name: view.at(name) for name in names} | {
        "circuit-strongest": int(view.at("circuit-strongest")),
        "find": view.sought,
        "pinned": [_told(node) for node in view.pinned],
        "chosen": [_told(node) for node in opened],
    }


def _told(node: Node) -> dict[str, object]:
    """A component as the drawing tells it."""
    return {"way": node.way, "node": node.name, "position": node.position}


def _filtered(told: object) -> None:
    for name, value in filters_of(told).items():
        state.switch(name, value)
    if isinstance(told, Mapping):
        state.change(sought=sought_of(told.get("find")), pinned=pinned_of(told.get("pinned")))


def _slider(wanted: int, allowed: list[int]) -> int:
    def changed() -> None:
        state.change(edges=st.session_state["edges"])

    chosen = circuits.nearest(wanted, allowed)
    if len(allowed) == 1:
        return chosen
    st.session_state["edges"] = chosen
    st.select_slider("Number of edges, at most", allowed, key="edges", on_change=changed, width=520)
    return chosen


def _one(
    spec: ModelSpec,
    way: Way,
    one: Measured,
    pairs: tuple[Pair, ...],
    n_edges: int,
    *,
    sized: bool,
) -> None:
    """What the circuit of one way does.

    Args:
        sized: whether its size was chosen by what circuits do on the pairs that it is run on.
    """
    circuit, random = one.circuit, [one.share(value) for value in one.random]
    said = sentences.circuit(
        len(circuit),
        circuit.graph.n_edges,
        one.share(one.alone),
        random,
        one.share(one.rest),
        interval=one.interval,
        reason=one.effect.reason,
    )
    parts.html(markup.sentence(said))
    unit = str(circuit.settings["unit"])
    mean = sum(one.random) / len(one.random)
    none = (math.nan, math.nan)
    rows = [
        ("whole model", one.whole, "var(--ob-muted)", none),
        ("this circuit", one.alone, theme.COLOURS["both"], one.interval),
        (f"{len(random)} random circuits", mean, "var(--ob-muted)", one.interval_random),
        ("all other edges", one.rest, theme.COLOURS["reverse"], one.interval_rest),
        ("no edge", one.empty, "var(--ob-muted)", none),
    ]
    parts.html(
        markup.shares(
            [
                (
                    name,
                    one.share(value),
                    colour,
                    f"{sentences.interval(ends)}{sentences.number(value)} {unit}",
                )
                for name, value, colour, ends in rows
            ]
        )
    )
    n = one.n_pairs
    which = "this pair only, on which it was also found"
    if n > 1:
        seen = "that its edges were not scored on" if one.unseen else "on which it was also found"
        which = f"means over {n} pairs {seen}"
        if sized:
            which += "; the size was chosen by what circuits do on these, too, which flatters it"
    what = "Measured faithfulness, and the" if one.effect.clear else "The"
    told = Told(
        f"{what} {metric(one)}; {which}.",
        f"{n} pair{'s' if n > 1 else ''}",
        "95%, in brackets" if one.effect.clear else "none: no clear effect",
        f"{len(random)} random circuits of the size, and all other edges",
        one.checks,
    )
    with st.container(horizontal=True, vertical_alignment="top", gap="small", wrap=False):
        parts.html(told.markup())
        code = snippets.circuit(spec, pairs, n_edges)
        parts.export(f"circuit-{way.name}", lambda: table(one), code, told=told)


def metric(one: Measured) -> str:
    """What was read, for people."""
    name = str(one.circuit.settings["metric"])
    return {"logit_diff": "logit difference"}.get(name, theme.words(name))


def table(one: Measured) -> pd.DataFrame:
    """The circuit's edges, the largest score first."""
    circuit = one.circuit
    rows = []
    for source, destination in circuit.edges:
        at = circuit.graph.sources.index(source), circuit.graph.destinations.index(destination)
        place = int(circuit.position[at]) if circuit.positions else -1
        position = circuit.positions[place] if place >= 0 else ""
        rows.append((source, destination, float(circuit.scores[at]), position))
    return pd.DataFrame(rows, columns=["source", "destination", "score", "position"])
