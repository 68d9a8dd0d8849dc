"""The mechanism of a fact in both directions, measured and drawn beside the verdicts.

It decides nothing: the parts that are judged have verdicts of their own.
"""

from __future__ import annotations

from functools import partial

from experiments.figure import Figure
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

FIGURES = (
    Figure(
        "mechanism-fact",
        "One fact",
        _RESULTS,
        page.one_fact,
        "Lens, patching, attribution and transplants of one fact in both directions",
        f"One fact asked as told and in reverse, on the same scales. {_PAGE} Of one fact there are "
        "no shares, no circuit and no intervals.",
    ),
    Figure(
        "mechanism",
        "All facts",
        _RESULTS,
        page.all_facts,
        "Lens, patching, attribution and transplants of all facts in both directions",
        f"The facts told forward, asked as told and in reverse. {_PAGE} Means (of ranks medians) "
        "over facts with 95% intervals; cells and bars whose interval holds 0 are grey.",
    ),
    *(
        Figure(
            f"circuit-{name}",
            f"Circuit, {name}",
            (f"circuit_{name}_edges", f"circuit_{name}_curve"),
            circuits.circuit,
            f"Edges of the circuit of {what}",
            f"The circuit of {what}: the smallest one, of edges scored on half of the questions "
            f"(EAP-IG), whose faithfulness on the others is {circuits.ENOUGH} or more (lower end "
            "of its interval): its size is chosen on these, its edges are not. Where the effect on "
            "them is not clear of 0 there is none.",
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
            f"How far circuits of growing size do what the whole model does, of {what}: on "
            "questions that their edges were not scored on, beside their complements and random "
            "circuits.",
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
