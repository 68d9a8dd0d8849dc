"""Which share of the change between two models a part carries, where there is a change."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import xarray as xr

from cache.arguments import typed
from interp.errors import StatisticsError
from interp.results import Mixed
from interp.stats import Effect, effect, shares
from interp.stats.clusters import Clusters, Values

__all__ = ["MEASURED", "change_of", "change_shares"]

MEASURED = ("swapped", "patched")
"""What is measured with some of one model in the other, in the results that have shares."""


@typed
def change_shares(result: Mixed, *, clusters: Clusters | None = None) -> xr.Dataset:
    """(mean mixed − mean receiving) / (mean other − mean receiving), with 95% intervals.

    0 where the receiving model stays as it is, 1 where it becomes as the other one. Only where the
    models differ: the 95% interval of the mean of tuned − base must leave out 0, on either side,
    for which at least `LEAST_N` independent prompts are needed. Otherwise all is NaN, and the
    attribute `reason` says why. Shares of several parts need not add up to 1.

    Args:
        result: of `swap_modules` or `patch_across`, or of `compare_models`; one that was cut to
            one receiving model (`sel(into="base")`) has the shares of that one.
        clusters: which prompts are not independent, as for `mean_interval`; those with the same
            text if left out.

    Returns:
        share, low and high, of the shape of the result without its examples. Attributes: `clear`,
        1 or 0; `reason`; `effect`, `effect_low` and `effect_high` of tuned − base. With several
        tuned models (dimension `model`) these are variables by model.

    Raises:
        StatisticsError: numbers that are missing, no models or no examples.
    """
    if "model" in result.dims:
        names = result["model"].values
        if not len(names):
            raise StatisticsError(
                "There are no shares of no models; choose some with a list, such as "
                "sel(model=['tuned'])."
            )
        each = [change_shares(result.sel(model=name), clusters=clusters) for name in names]
        noted = [one.assign({name: one.attrs[name] for name in each[0].attrs}) for one in each]
        joined = xr.concat(noted, result["model"], coords="minimal", compat="override")
        return joined.drop_vars(set(joined) & set(result.attrs)).assign_attrs(result.attrs)
    measured = _measured(result)
    plain = {model: result[model].values.astype(np.float64) for model in ("base", "tuned")}
    if clusters is None and "prompt" in result.coords:
        clusters = result["prompt"].values
    which = np.arange(len(plain["base"])) if clusters is None else np.asarray(clusters)
    found = np.full((3, *measured.shape[:-1]), np.nan)
    for number, into in enumerate(measured["into"].values):
        full, empty = plain["tuned" if into == "base" else "base"], plain[str(into)]
        cells = measured.values[number].astype(np.float64)
        # Where some prompts have no such token, the others make the share, if they show a change.
        there = np.isfinite(cells)
        for kind in np.unique(there.reshape(-1, there.shape[-1]), axis=0):
            if not kind.any():
                continue
            alike = (there == kind).all(-1)
            change = change_of(full[kind], empty[kind], "", which[kind])
            parts = shares(cells[alike][:, kind], full[kind], empty[kind], change, which[kind])
            for row, values in zip(found, parts, strict=True):
                row[number][alike] = values
    dims = measured.dims[:-1]
    if "into" not in result.dims:
        found, dims = found[:, 0], dims[1:]
    variables = {
        what: (dims, row) for what, row in zip(("share", "low", "high"), found, strict=True)
    }
    coords = {key: value for key, value in result.coords.items() if "example" not in value.dims}
    whole = change_of(plain["tuned"], plain["base"], str(result.attrs.get("unit", "")), which)
    return xr.Dataset(variables, coords, {**result.attrs, **whole.attrs})


def _measured(result: xr.Dataset) -> xr.DataArray:
    """What is measured [into, …, example]; of a result that was cut, what is left of it."""
    name = next((name for name in MEASURED if name in result), None)
    if name is None or "into" not in result.coords:
        raise StatisticsError(
            "Shares are those of a result with its receiving models (coordinate 'into'); give it "
            "as swap_modules or patch_across returned it."
        )
    if not all(result[one].sizes.get("example") for one in (name, "base", "tuned")):
        raise StatisticsError(
            "Shares are of means over examples, and there are none; choose examples with a list, "
            "such as isel(example=[0, 1])."
        )
    found = result[name]
    if "into" not in found.dims:
        found = found.expand_dims("into")
    return found.transpose("into", ..., "example")


def change_of(full: Values, empty: Values, unit: str, clusters: Clusters | None) -> Effect:
    """How far one model lies from the other: clear on either side of 0.

    A change has no sign that is expected: what makes a model worse is one as well.
    """
    found = effect(full, empty, unit=unit, clusters=clusters)
    return replace(found, reason="") if found.high < 0 else found
