"""What a sweep returns: labelled arrays, with the raw metric first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from cache.arguments import typed
from interp.errors import MetricError
from interp.metrics import Metric
from interp.model.model import Model
from interp.patching.cells import Grid
from interp.patching.request import Request
from interp.patching.table import Mask
from interp.prompts.pairs import PromptPairs, Run
from interp.results import Patched, Paths
from interp.stats import Effect, effect
from interp.stats.clusters import Clusters
from interp.stats.effects import direction


def label(
    model: Model,
    request: Request,
    patched: Grid,
    unpatched: Mapping[Run, npt.NDArray[np.float32]],
    exact: Mask | None = None,
    *,
    instrument: str = "activation patching, exact",
) -> xr.Dataset:
    """Put names on the numbers of a sweep (see `sweep` for what they are).

    Args:
        exact: which places [layer, *axes] were run, where the others are estimated.
    """
    pairs, cells = request.pairs, request.cells
    coords = {"layer": list(cells.layers), **prompt_coordinates(pairs)}
    for axis in cells.axes:
        names = cells.axis(axis)[0].names
        coords[axis] = list(names)
        if axis in ("position", "destination", "source"):
            slots = [int(slot) for slot in names]
            coords[f"{axis}_label"] = (axis, [pairs.alignment.labels[slot] for slot in slots])
            if axis == "position":
                coords["clean_token"] = (
                    ("example", axis),
                    _tokens_at(model, pairs, "clean", slots),
                )
                coords["corrupt_token"] = (
                    ("example", axis),
                    _tokens_at(model, pairs, "corrupt", slots),
                )
    noted = {}
    if exact is not None:
        noted["exact"] = (("layer", *cells.axes), exact)
        instrument = "activation patching, estimated and exact"
    return xr.Dataset(
        {
            "patched": (("example", "layer", *cells.axes), patched),
            "clean": ("example", unpatched["clean"]),
            "corrupt": ("example", unpatched["corrupt"]),
            **noted,
        },
        coords=coords,
        attrs={
            "instrument": instrument,
            "site": cells.site,
            **attributes(model, request.metric, request.direction, request.source),
        },
    )


def attributes(model: Model, metric: Metric, direction: str, source: str) -> dict[str, str]:
    """What every patching result notes of its settings."""
    return {
        "metric": metric.name,
        "unit": metric.unit,
        "direction": direction,
        **model.identity,
        "source": source,
    }


def prompt_coordinates(pairs: PromptPairs) -> dict[str, Any]:
    """Prompts and answers by example."""
    return {
        "clean_prompt": ("example", list(pairs.clean.texts)),
        "corrupt_prompt": ("example", list(pairs.corrupt.texts)),
        "answer": ("example", list(pairs.answers)),
        "foil": ("example", list(pairs.foils or ("",) * len(pairs))),
    }


@typed
def normalised(
    result: Patched | Paths, *, minimum: float | None = None, clusters: Clusters | None = None
) -> xr.DataArray:
    """(patched − corrupt) / (clean − corrupt): 0 as corrupted, 1 as clean.

    Only where there is an effect to have a share of: the 95% interval of the mean of clean −
    corrupt must lie above 0 (below, for ranks), for which at least `LEAST_N` pairs are needed.
    Otherwise all shares are NaN. Choose pairs afterwards, `normalised(result).isel(example=0)`.

    Args:
        result: what `sweep` returned.
        minimum: the smallest clean − corrupt of a single pair of which a share is taken, in the
            metric's unit; a tenth of the median over examples if left out. Pairs below it, those
            with the wrong sign among them, become NaN: a ratio to next to nothing is noise.
        clusters: which pairs are not independent, as for `mean_interval`; those with one clean
            prompt if left out.

    Returns:
        Of the shape of result["patched"]. The attributes `clear`, 1 or 0, and `reason`, why there
        are no shares, say which; `effect`, `effect_low` and `effect_high` are the mean of clean −
        corrupt, and `left_out` is how many pairs have no share of their own.

    Raises:
        StatisticsError: clean or corrupt are not finite.
        MetricError: a minimum that is no number.
    """
    if minimum is not None and not math.isfinite(minimum):
        raise MetricError(f"The smallest difference that counts is a number, not {minimum}.")
    whole = effect_of(result, clusters)
    sign = direction(str(result.attrs.get("metric", "")))
    gap = sign * (result["clean"] - result["corrupt"])
    floor = 0.1 * float(np.median(np.abs(gap))) if minimum is None else minimum
    usable = (gap > max(floor, 1e-6)) & whole.clear
    share = sign * (result["patched"] - result["corrupt"]) / gap.where(usable)
    return share.rename("normalised").assign_attrs(
        result.attrs,
        **whole.attrs,
        unit="share of the effect",
        left_out=int((~usable).sum()),
    )


def effect_of(result: xr.Dataset, clusters: Clusters | None = None) -> Effect:
    """How far clean and corrupted runs lie apart, and whether shares of that mean something.

    Pairs with one clean prompt ask one question, and count as one where `clusters` says no other.
    """
    if clusters is None and "clean_prompt" in result.coords:
        clusters = result["clean_prompt"].values
    return effect(
        result["clean"].values,
        result["corrupt"].values,
        unit=str(result.attrs.get("unit", "")),
        metric=str(result.attrs.get("metric", "")),
        clusters=clusters,
    )


@typed
def agreement(estimated: Patched, exact: Patched) -> xr.Dataset:
    """How far an estimate can be trusted, layer by layer.

    Returns:
        correlation(layer) of the estimated with the exact change over all examples and cells, and
        sign_flips(layer), the share of cells whose change has the wrong sign (cells that hardly
        move, by less than a hundredth of the largest exact change, do not count).
    """
    rows = []
    base = "corrupt" if exact.attrs["direction"] == "denoising" else "clean"
    moved = [(d["patched"] - d[base]).transpose("layer", ...).values for d in (estimated, exact)]
    least = 0.01 * float(np.nanmax(np.abs(moved[1])))
    for guess, truth in zip(*moved, strict=True):
        present = np.isfinite(guess) & np.isfinite(truth)
        a, b = guess[present], truth[present]
        large = np.abs(b) > least
        varied = a.size > 1 and np.ptp(a) > 0 and np.ptp(b) > 0
        correlation = float(np.corrcoef(a, b)[0, 1]) if varied else np.nan
        flips = float(np.mean(np.sign(a[large]) != np.sign(b[large]))) if large.any() else np.nan
        rows.append((correlation, flips))
    return xr.Dataset(
        {
            "correlation": ("layer", [row[0] for row in rows]),
            "sign_flips": ("layer", [row[1] for row in rows]),
        },
        coords={"layer": exact["layer"].values},
    )


def _tokens_at(
    model: Model, pairs: PromptPairs, run: Run, slots: Sequence[int]
) -> npt.NDArray[np.object_]:
    index = pairs.alignment.clean if run == "clean" else pairs.alignment.corrupt
    out = np.full((len(pairs), len(slots)), "", dtype=object)
    for example, row in enumerate(index[:, slots]):
        strings = model.token_strings(pairs.prompts(run).row(example))
        for slot, token in enumerate(row):
            if token >= 0:
                out[example, slot] = strings[token]
    return out
