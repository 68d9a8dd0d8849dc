"""The requests that the explorer's own pages make, and the forms that their results are kept in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from app.compute import circuits
from app.compute.background.request import Form, Request, check_alike, in_one
from app.compute.background.spot_checks import DRAWN, SIZES, edges_again, run_again, sizes_again
from app.compute.checks import patches
from app.compute.circuits import Measured
from app.compute.pairs import build
from app.compute.refining import Refined, largest, refined
from app.compute.turns import ModelSpec
from experiments.explorer import Pair

if TYPE_CHECKING:
    import xarray as xr

    from interp.model.model import Model

_CELLS = f"The cell that moves the metric most, and up to {DRAWN} drawn at random, were run again."
_LONGEST = 80
"""Characters of a prompt in a title."""

_SITES = {
    "resid_pre": "residual stream",
    "attn_out": "attention output",
    "mlp_out": "MLP output",
    "z": "heads",
}


def patching(spec: ModelSpec, pair: Pair, site: str, *, run: bool) -> Request[Refined]:
    """A patching map of one pair: estimated, and if it is to be `run`, then cell by cell exact."""

    def to_dataset(result: Refined) -> xr.Dataset:
        return result.result.assign(estimated=result.estimate["patched"])

    def from_dataset(stored: xr.Dataset, model: Model) -> Refined:
        from interp.patching import refine
        from interp.patching.request import Request as Asked
        from interp.patching.results import label

        asked = Asked.of(model, build(model, [pair]), site, "logit_diff", {})
        shape = (len(asked.cells.layers), *asked.cells.shape)
        nothing = np.zeros((1, *shape), np.float32)
        none = {"clean": nothing.ravel()[:1], "corrupt": nothing.ravel()[:1]}
        like = label(model, asked, nothing, none, np.zeros(shape, np.bool_))  # type: ignore[arg-type]
        check_alike(
            stored,
            like.assign(estimated=like["patched"]),
            ("site", "metric", "unit", "direction", "source", "fingerprint"),
        )
        # A place that a pair does not have is NaN.
        if any(np.isinf(stored[name].values).any() for name in ("patched", "estimated")):
            raise ValueError("some of its numbers are none")
        result = stored.drop_vars("estimated")
        run_again(model, pair, site, result)
        # The estimates are made anew: that takes no longer than to try some.
        estimate = next(refine(model, build(model, [pair]), site))
        return Refined(estimate, result, patches(model, pair, site, largest(result)))

    return Request(
        spec,
        ("patching" if run else "estimate", pair, site),
        f"Patching map of the {_SITES.get(site, site)}: “{_end(pair.clean)}” into "
        f"“{_end(pair.corrupt)}”",
        lambda model, tell: refined(model, pair, site, run, tell),
        "cells run",
        Form(to_dataset, from_dataset, _CELLS) if run else None,
    )


def _end(prompt: str) -> str:
    """A prompt in a title, where a long one has no room: its end, which is what it asks."""
    return prompt if len(prompt) <= _LONGEST else f"… {prompt[-_LONGEST:].lstrip()}"


def edges(spec: ModelSpec, pairs: tuple[Pair, ...]) -> Request[xr.Dataset]:
    """Scores of all edges on some pairs, told apart by position."""
    from interp.circuits import attribute_edges

    def read(stored: xr.Dataset, model: Model) -> xr.Dataset:
        import xarray as xr

        from interp.components.graph import Graph

        graph, made = Graph.of(model), build(model, pairs)
        edge = ("source", "destination")
        shape = (len(graph.sources), len(graph.destinations))
        labels = list(made.alignment.labels)
        values = np.zeros(1, np.float32)
        like = xr.Dataset(
            {
                "score": (edge, np.broadcast_to(values, shape)),
                "by_example": (
                    ("example", *edge),
                    np.broadcast_to(values, (len(pairs), *shape)),
                ),
                "position_score": (
                    ("position", *edge),
                    np.broadcast_to(values, (len(labels), *shape)),
                ),
                "clean": ("example", np.broadcast_to(values, len(pairs))),
                "corrupt": ("example", np.broadcast_to(values, len(pairs))),
            },
            coords={
                "source": list(graph.sources),
                "destination": list(graph.destinations),
                "clean_prompt": ("example", list(made.clean.texts)),
                "corrupt_prompt": ("example", list(made.corrupt.texts)),
                "position": range(len(labels)),
                "position_label": ("position", labels),
            },
            attrs={"metric": "logit_diff", "method": "eap-ig", "steps": 5, **graph.attrs}
            | {"fingerprint": model.fingerprint},
        )
        check_alike(stored, like, like.attrs)
        # Where no edge can be is NaN.
        numbers = (stored["score"].values[graph.real], stored["clean"], stored["corrupt"])
        if not all(np.isfinite(some).all() for some in numbers):
            raise ValueError("some of its numbers are none")
        edges_again(model, pairs, stored, graph.real)
        return stored

    return Request(
        spec,
        ("edges", pairs),
        f"Scores of all edges on {_many(pairs)}",
        in_one(
            lambda model, tell: attribute_edges(
                model, build(model, pairs), by="position", progress=tell
            )
        ),
        "pairs",
        Form(
            lambda scores: scores,
            read,
            "One pair, drawn at random, was scored again, and the means were computed again.",
        ),
        gives_way=True,
    )


def curve(
    spec: ModelSpec, pairs: tuple[Pair, ...], scores: xr.Dataset
) -> Request[xr.Dataset | None]:
    """Faithfulness of circuits of every size, on the half of the pairs that their edges were not
    scored on; None where no share could be told of it at all.

    Args:
        scores: what `edges` gives for the other half.
    """
    run = circuits.halves(pairs)[1]

    def read(stored: xr.Dataset, model: Model) -> xr.Dataset:
        import xarray as xr

        from interp.components.graph import Graph

        shares = circuits.fractions(Graph.of(model).n_edges)
        axes: dict[str, tuple[tuple[str, ...], type]] = {
            **dict.fromkeys(("f", "f_low", "f_high", "complement"), (("fraction",), float)),
            **dict.fromkeys(("jaccard", "jaccard_low"), (("fraction",), float)),
            "n_edges": (("fraction",), int),
            "random": (("draw", "fraction"), float),
            "random_edges": (("draw", "fraction"), int),
            "circuit_metric": (("fraction", "example"), float),
            "full": (("example",), float),
            "empty": (("example",), float),
        }
        for area in ("cpr", "cmd", "cpr_log", "cmd_log"):
            axes |= {f"{area}{end}": ((), float) for end in ("", "_low", "_high")}
            axes[f"{area}_random"] = (("draw",), float)
        sizes = {"fraction": len(shares), "draw": circuits.DRAWS, "example": len(run)}
        like = xr.Dataset(
            {
                name: (dims, np.zeros([sizes[dim] for dim in dims], kind))
                for name, (dims, kind) in axes.items()
            },
            coords={"fraction": shares},
            attrs={"metric": "logit_diff", "pairs": len(run), "fingerprint": model.fingerprint},
        )
        check_alike(stored, like, like.attrs)
        sizes_again(model, build(model, run), scores, stored)
        return stored

    def keep(found: xr.Dataset | None) -> xr.Dataset:
        assert found is not None  # nothing is kept of None
        return found

    return Request(
        spec,
        ("curve", pairs),
        f"Circuits of every size, run on {_many(run)}",
        in_one(lambda model, tell: circuits.curve(model, build(model, run), scores, tell)),
        "runs",
        Form(
            keep,
            read,
            f"Circuits of up to {SIZES} sizes, drawn at random, and random ones beside them were "
            "run again, and the shares of all sizes were computed again.",
        ),
        gives_way=True,
    )


def circuit(
    spec: ModelSpec, pairs: tuple[Pair, ...], scores: xr.Dataset, n_edges: int
) -> Request[Measured]:
    """The circuit of so many edges on these pairs, with what running it gives.

    Where there are enough pairs, it is run on others than those that its edges were scored on.

    Args:
        scores: as for `curve`.
    """
    run = circuits.halves(pairs)[1]
    return Request(
        spec,
        ("circuit", pairs, n_edges),
        f"Circuit of {n_edges} edges, run on {_many(run)}",
        in_one(
            lambda model, tell: circuits.measured(model, build(model, run), scores, n_edges, tell)
        ),
        "runs",
        gives_way=True,
    )


def _many(pairs: tuple[Pair, ...]) -> str:
    first = f"“{pairs[0].clean}”"
    return f"{len(pairs)} pairs, {first} first" if len(pairs) > 1 else first
