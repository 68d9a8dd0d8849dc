"""The mechanism of a fact in both directions, measured and drawn beside the verdicts.

It decides nothing: the parts that are judged have verdicts of their own.
"""

from __future__ import annotations

from functools import partial

import xarray as xr

from experiments.figure import Figure, counted, of_mean
from experiments.organisms.facts import DIRECTIONS, Direction
from experiments.reversal_curse.case import Case, Finding
from experiments.reversal_curse.mechanism import circuits, page
from experiments.reversal_curse.mechanism.measure import circuit_curve, circuit_edges, components

__all__ = ["FIGURES", "investigate"]

_KNOWN = "Tom Cruise"
_CIRCUITS: dict[str, tuple[Direction, tuple[str, ...], str]] = {
    "told": ("forward", ("forward", "unknown"), "facts told forward, asked as told"),
    "untold": ("reverse", ("forward", "unknown"), "facts told forward, asked in reverse"),
    "both": ("reverse", ("both",), "facts told both ways, asked in reverse"),
}
_RESULTS = (
    "lens_forward",
    "lens_reverse",
    "patching_forward_resid_pre",
    "patching_reverse_resid_pre",
    "components_forward",
    "components_reverse",
    "carried_forward",
)
_PAGE = (
    "From top to bottom: the rank of the answer read off the stream by the logit lens; what one "
    "patched stream moves, token by token, labelled alike in both directions; each component’s "
    "share of the answer’s logit; what vectors of the told sentence bring out of another fact’s "
    "question asked as told (left), and out of this fact’s question asked in reverse (right)."
)


def _drawn(*results: xr.Dataset) -> str:
    """Over how many facts `page.one_fact` is: one, or none."""
    components = dict(zip(_RESULTS, results, strict=True))["components_forward"]
    there = "fact" in components and len(components["fact"]) > 0
    return counted([int(there)], "fact")


def _beside_circuit(edges: xr.Dataset, curve: xr.Dataset) -> str:
    return f"{circuits.random_circuits(edges, curve)}, in the figure of faithfulness"


def _of_circuit(edges: xr.Dataset, curve: xr.Dataset) -> str:
    if not circuits.clear(edges, curve):
        return _NOTHING
    return f"of its faithfulness, in the small print: {_FAITHFUL}"


def _of_curve(edges: xr.Dataset, curve: xr.Dataset) -> str:
    drawn = circuits.clear(edges, curve)
    return f"{_FAITHFUL}, at each size for itself" if drawn else _NOTHING


_NOTHING = "none: there is nothing to draw"
_FAITHFUL = "95% of a ratio of sums over questions (t or bootstrap-t, the wider)"

FIGURES = (
    Figure(
        "mechanism-fact",
        "One fact",
        _RESULTS,
        page.one_fact,
        "Lens, patching, attribution and transplants of one fact in both directions",
        _PAGE,
        shows="One fact asked as told and in reverse, on the same scales.",
        n=_drawn,
        interval="none: one fact, of which no share and no circuit can be told either",
        control="none of its own: the two directions stand beside each other",
    ),
    Figure(
        "mechanism",
        "All facts",
        _RESULTS,
        page.all_facts,
        "Lens, patching, attribution and transplants of all facts in both directions",
        f"{_PAGE} Cells and bars whose interval holds 0 are grey.",
        shows="Facts told forward, asked as told and in reverse: means, and medians of ranks.",
        n=page.facts_of_all,
        interval=f"{of_mean('the people asked about')}, of ranks by order statistics; each cell "
        "and bar for itself, so that one in twenty has colour by chance",
        control="0: the run on another name's prompt, or nothing carried; other controls stand "
        "with the hypotheses",
    ),
    *(
        Figure(
            f"circuit-{name}",
            f"Circuit, {name}",
            (f"circuit_{name}_edges", f"circuit_{name}_curve"),
            circuits.circuit,
            f"Edges of the circuit of {what}",
            "The smallest circuit, of edges scored on half of the questions (EAP-IG), whose "
            f"faithfulness on the others is {circuits.ENOUGH} or more (lower end of its interval): "
            "its size is chosen on these, its edges are not. Where the effect on them is not clear "
            "of 0 there is none.",
            shows=f"The circuit of {what}.",
            n=circuits.pairs,
            interval=_of_circuit,
            control=_beside_circuit,
        )
        for name, (_, _, what) in _CIRCUITS.items()
    ),
    *(
        Figure(
            f"faithfulness-{name}",
            f"Faithfulness, {name}",
            (f"circuit_{name}_edges", f"circuit_{name}_curve"),
            circuits.faithfulness,
            f"Faithfulness of circuits of {what}, by their size",
            "1 does what the whole model does, 0 what it does without any edge. Questions are "
            "others than those that the edges were scored on.",
            shows=f"How far circuits of growing size do what the whole model does, of {what}.",
            n=circuits.pairs,
            interval=_of_curve,
            control=circuits.random_circuits,
        )
        for name, (_, _, what) in _CIRCUITS.items()
    ),
)


def investigate(case: Case) -> Finding:
    """Measures what the figures need beside stored results; no verdict."""
    patched = case.measured.maps["forward", "resid_pre"]["fact"].values
    of_split = {
        splits: [int(i) for i in patched if case.splits[i] in splits]
        for _, splits, _ in _CIRCUITS.values()
    }
    rows = of_split["forward", "unknown"]
    known = [i for i in rows if case.subject.facts[i].subject == _KNOWN]
    rows = list(dict.fromkeys([*known, *rows]))
    seed = case.context.seed_for("partners")
    for direction in DIRECTIONS:
        case.context.dataset(
            f"components_{direction}", partial(components, case.subject, rows, direction, seed)
        )
    for name, (direction, splits, _) in _CIRCUITS.items():
        mine = of_split[splits]
        right = case.measured.facts[f"{direction}_correct"].to_numpy(dtype=bool)
        if splits == ("both",):
            mine = [i for i in mine if right[i]]
        draw = case.context.seed_for(f"circuit {name}") % 2**31
        edges = case.context.dataset(
            f"circuit_{name}_edges", partial(circuit_edges, case.subject, mine, direction, draw)
        )
        case.context.dataset(
            f"circuit_{name}_curve",
            partial(circuit_curve, case.subject, mine, direction, draw, edges),
        )
    return Finding((), FIGURES)
