"""Circuits: the edges that carry the answer, and what they do when they are run alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import streamlit as st

from app import resources, state
from app.compute import circuits
from app.compute.circuits import Measured
from app.compute.engine import ModelSpec
from app.screen import parts
from app.text import markup, sentences, snippets
from experiments.explorer import Pair, Way
from interp.errors import ModelError
from interp.figures import circuit_map
from interp.figures.circuit import largest_score
from interp.figures.drawing import theme


def show(spec: ModelSpec, pairs: Mapping[Way, tuple[Pair, ...]], *, width: int) -> None:
    """A map for each way of asking, with a slider for their size; only where it is wanted.

    Args:
        pairs: those whose circuit is looked for, by way.
        width: px of each map.
    """
    parts.html(
        markup.heading(
            "Which edges carry the answer",
            "A circuit: what each component reads of which others. Edges are scored by gradients "
            "(EAP-IG); what the circuit does is measured: all other edges carry the corrupted run.",
        )
    )
    _toggle()
    wanted = state.view().edges
    if wanted is None:
        return
    found: dict[Way, Measured] = {}
    try:
        n_all = _score(spec, pairs)
        n_edges = _slider(wanted, circuits.sizes(n_all))
        for way, some in pairs.items():
            found[way] = resources.engine().circuit(spec, some, n_edges)
    except ModelError as error:
        parts.html(markup.hint(str(error)))
        return
    # On scales of their own, a circuit of noise would look like one that carries something.
    limit = max(largest_score(one.circuit) for one in found.values())
    for (way, one), column in zip(found.items(), st.columns(len(found), gap="large"), strict=True):
        with column:
            parts.html(markup.way(way.title, way.colour))
            _one(spec, way, one, pairs[way], n_edges, limit, width)


def _toggle() -> None:
    def changed() -> None:
        state.change(edges=circuits.USUAL if st.session_state["circuit"] else None)

    st.session_state["circuit"] = state.view().edges is not None
    st.toggle("Find the circuit", key="circuit", on_change=changed)


def _slider(wanted: int, allowed: list[int]) -> int:
    def changed() -> None:
        state.change(edges=st.session_state["edges"])

    chosen = circuits.nearest(wanted, allowed)
    if len(allowed) == 1:
        return chosen
    st.session_state["edges"] = chosen
    st.select_slider("Number of edges, at most", allowed, key="edges", on_change=changed, width=520)
    return chosen


def _score(spec: ModelSpec, pairs: Mapping[Way, tuple[Pair, ...]]) -> int:
    """Score the edges of all pairs; return how many edges the model has."""
    n = 0
    for some in pairs.values():
        with resources.progress("Scoring edges") as tell:
            scores = resources.engine().edges(spec, circuits.halves(some)[0], tell)
        n = int(np.isfinite(scores["score"].values).sum())
    return n


def _one(
    spec: ModelSpec,
    way: Way,
    one: Measured,
    pairs: tuple[Pair, ...],
    n_edges: int,
    limit: float,
    width: int,
) -> None:
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
    drawn = circuit_map(circuit, limit=limit, width=width)
    if not one.effect.clear:  # what could be noise must not look like a finding
        drawn.update_layout(plot_bgcolor=theme.EMPTY)
    parts.figure(
        drawn,
        f"circuit-{way.name}",
        data=lambda: table(one),
        code=snippets.circuit(spec, pairs, n_edges),
        alt=f"Circuit of {len(circuit)} edges, {way.title.lower()}",
        below=lambda: markup.sentence(said),
    )
    unit = str(circuit.settings["unit"])
    mean = sum(one.random) / len(one.random)
    rows = [
        ("whole model", one.whole, theme.MUTED),
        ("this circuit", one.alone, theme.COLOURS["both"]),
        (f"{len(random)} random circuits", mean, theme.MUTED),
        ("all other edges", one.rest, theme.COLOURS["reverse"]),
        ("no edge", one.empty, theme.MUTED),
    ]
    parts.html(
        markup.shares(
            [
                (name, one.share(value), colour, f"{sentences.number(value)} {unit}")
                for name, value, colour in rows
            ]
        )
    )
    n = one.n_pairs
    which = "this pair only, on which it was also found"
    if n > 1:
        seen = "that its edges were not scored on" if one.unseen else "on which it was also found"
        which = f"means over {n} pairs {seen}"
    told = "Measured faithfulness, and the" if one.effect.clear else "The"
    parts.html(markup.hint(f"{told} {metric(one)}; {which}."))


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
