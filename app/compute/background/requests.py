"""The requests that the explorer's own pages make, and the forms that their results are kept in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from app.compute import circuits
from app.compute.background.request import Form, Request, in_one
from app.compute.checks import patches
from app.compute.pairs import build
from app.compute.refining import Refined, largest, refined
from app.compute.turns import ModelSpec
from experiments.explorer import Pair

if TYPE_CHECKING:
    import xarray as xr

    from interp.model.model import Model

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
        estimate = result.assign(
            patched=stored["estimated"], exact=(stored["exact"].dims, np.zeros(shape, np.bool_))
        )
        layer = largest(result)
        run_again(model, pair, site, layer, result)
        return Refined(estimate, result, patches(model, pair, site, layer))

    return Request(
        spec,
        ("patching" if run else "estimate", pair, site),
        f"Patching map of the {_SITES.get(site, site)}: “{pair.clean}” into “{pair.corrupt}”",
        lambda model, tell: refined(model, pair, site, run, tell),
        "cells run",
        Form(to_dataset, from_dataset) if run else None,
    )


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
        Form(lambda scores: scores, read),
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
        Form(keep, read),
        gives_way=True,
    )


def run_again(model: Model, pair: Pair, site: str, layer: int, result: xr.Dataset) -> None:
    """Raise a ValueError unless both prompts, and the cell of a layer that moves the metric most,
    give what a map that was read says when they are run."""
    from interp.patching.single import patch_once

    told = result["patched"].isel(example=0).sel(layer=layer)
    moved = np.abs(told.values - float(result["corrupt"][0]))
    column = int(np.nanargmax(moved))
    where = {str(told.dims[0]): int(told[told.dims[0]][column])}
    found = patch_once(model, build(model, [pair]), site, layer, **where, k=1)  # type: ignore[arg-type]
    metric = found["answer_logit"] - found["foil_logit"]
    rounding = 1e-3 if model.dtype.itemsize > 2 else 0.25
    said = {run: float(result[run][0]) for run in ("clean", "corrupt")}
    for run, number in (said | {"patched": float(told[column])}).items():
        true = float(metric.sel(run=run))
        if not abs(true - number) <= rounding + 0.05 * abs(true):
            raise ValueError("its numbers are not those of the model")


def check_alike(stored: xr.Dataset, like: xr.Dataset, attrs: Iterable[str]) -> None:
    """Raise a ValueError unless something that was read has the variables, sizes, types, and
    coordinates of another dataset, and these of its attributes."""
    if set(stored.variables) != set(like.variables):
        raise ValueError("it has other variables")
    for name, wanted in like.variables.items():
        found = stored.variables[name]
        text = wanted.dtype.kind in "OSUT"
        if found.dims != wanted.dims or found.shape != wanted.shape:
            raise ValueError(f"'{name}' has another shape")
        if found.dtype.kind != wanted.dtype.kind and not (text and found.dtype.kind in "OSUT"):
            raise ValueError(f"'{name}' is of another type")
        if name in like.coords and list(map(str, found.values.flat)) != list(
            map(str, wanted.values.flat)
        ):
            raise ValueError(f"'{name}' names something else")
    for name in attrs:
        if stored.attrs.get(name) != like.attrs.get(name):
            raise ValueError(f"its {name} is another one")


def _many(pairs: tuple[Pair, ...]) -> str:
    first = f"“{pairs[0].clean}”"
    return f"{len(pairs)} pairs, {first} first" if len(pairs) > 1 else first
