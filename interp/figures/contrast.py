"""Two patching maps on one axis of named places: where one carries more of its answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import xarray as xr

from cache.arguments import typed
from interp.errors import SiteError
from interp.figures.drawing import grid, theme
from interp.figures.drawing.axes import Axis, axes_of
from interp.figures.drawing.numbers import plain, reach, texts
from interp.results import Patched
from interp.stats import mean_intervals

__all__ = ["contrast_map", "shared_places"]

Floats = npt.NDArray[np.float64]


@typed
def shared_places(first: Patched, second: Patched) -> list[str]:
    """The position labels that both results have, in the order of the first.

    Raises:
        SiteError: one has no positions, they are of two sites, or share no place.
    """
    if first.attrs.get("site") != second.attrs.get("site"):
        raise SiteError(
            f"One map is of '{first.attrs.get('site')}', the other of "
            f"'{second.attrs.get('site')}'; patch the same site in both."
        )
    labels = []
    for result in (first, second):
        if "position_label" not in result.coords:
            raise SiteError("A map without named positions cannot be laid beside another one.")
        labels.append([str(label) for label in result["position_label"].values])
    both = [label for label in labels[0] if label in labels[1]]
    if not both:
        raise SiteError("The two maps have no place in common; name the same spans in both.")
    return both


@typed
def contrast_map(
    first: Patched,
    second: Patched,
    *,
    key: str | None = None,
    limit: float | None = None,
    title: str | None = None,
    width: int = grid.WIDTH,
) -> go.Figure:
    """Draw by how much more a patch moves in the first map than in the second, place by place.

    What is compared is each pair's change: the metric after the patch minus that of the corrupted
    run. Cells whose 95% interval over pairs holds 0 are grey, and so are those of few pairs; of a
    single pair there is no interval, which a note says.

    Args:
        first: of `sweep` at one site, by position.
        second: the same of the same examples, asked otherwise.
        key: the coordinate that numbers the examples in both; only those in both are compared. By
            their order if left out.
        limit: the end of the colour scale, for maps to be compared; the largest difference if left
            out.
        title: of the figure.
        width: px that the figure will have.

    Raises:
        SiteError: the maps cannot be laid beside each other, or have no example in common.
    """
    places = shared_places(first, second)
    layers = [int(layer) for layer in first["layer"].values if layer in second["layer"].values]
    if not layers:
        raise SiteError("The two maps have no layer in common.")
    rows = _same_examples(first, second, key)
    one, other = (
        _at(result, places, layers).isel(example=here)
        for result, here in zip((first, second), rows, strict=True)
    )
    difference = _change(one) - _change(other)
    n = np.isfinite(difference).sum(0)
    mean = np.full(n.shape, np.nan)
    mean[n > 0] = np.nanmean(difference[:, n > 0], axis=0)
    low, high = _intervals(difference)
    several = len(rows[0]) > 1
    # Of several pairs, what could be none must not look like a difference.
    clear = (low > 0) | (high < 0) if several else n > 0
    shown = np.where(clear, mean, np.nan)
    limit = limit or reach(shown)
    notes = []
    if not several:
        notes.append("A single pair: there is no interval, and others may differ.")
    elif not clear.all():
        notes.append("Grey: the 95% interval over pairs holds 0, or there are too few pairs.")
    upward, across = axes_of(one, None)
    unit = str(first.attrs.get("unit", ""))
    return grid.draw(
        grid.Grid(
            values=shown,
            hover=_hovers(upward, across, mean, low, high, n, unit),
            texts=tuple(texts(shown, decimals) for decimals in (2, 1)),
            elide=False,
            rows=upward.keys,
            row_labels=upward.labels,
            columns=across.labels,
            row_title=upward.title,
            column_title=across.title,
        ),
        scale=theme.DIVERGING,
        limits=(-limit, limit),
        bar=theme.colour_bar(theme.escape(f"{unit} more")),
        title=title,
        selected=None,
        width=width,
        notes=[line for note in notes for line in theme.lines(note, width)],
    )


def _at(result: xr.Dataset, places: list[str], layers: list[int]) -> xr.Dataset:
    """The result at these places and layers; its tokens, which are of its own prompts, left out."""
    labels = [str(label) for label in result["position_label"].values]
    chosen = result.isel(position=[labels.index(place) for place in places]).sel(layer=layers)
    return chosen.drop_vars(["clean_token", "corrupt_token"], errors="ignore")


def _change(result: xr.Dataset) -> Floats:
    """[example, layer, place]"""
    change = (result["patched"] - result["corrupt"]).transpose("example", "layer", "position")
    return np.asarray(change.values, np.float64)


def _same_examples(
    first: xr.Dataset, second: xr.Dataset, key: str | None
) -> tuple[list[int], list[int]]:
    """Rows of the examples that both have, in one order."""
    if key is None:
        n = first.sizes["example"]
        if second.sizes["example"] != n:
            raise SiteError(
                f"One map has {n} pairs, the other {second.sizes['example']}; name the coordinate "
                "that numbers them."
            )
        return list(range(n)), list(range(n))
    for result in (first, second):
        if key not in result.coords:
            raise SiteError(f"There is no coordinate '{key}' that numbers the examples.")
    there = {value: row for row, value in enumerate(second[key].values.tolist())}
    here = [(row, there[v]) for row, v in enumerate(first[key].values.tolist()) if v in there]
    if not here:
        raise SiteError("The two maps have no example in common.")
    return [row for row, _ in here], [row for _, row in here]


def _intervals(difference: Floats) -> tuple[Floats, Floats]:
    """At 95%, over the pairs that have a cell; NaN where there are too few."""
    low = np.full(difference.shape[1:], np.nan)
    high = low.copy()
    # Cells with the same pairs are taken together, since each call draws its samples anew.
    there = np.isfinite(difference)
    for which in np.unique(there.reshape(len(there), -1), axis=1).T:
        cells = (there == which[:, None, None]).all(0)
        if which.any():
            low[cells], high[cells] = mean_intervals(difference[which][:, cells].T)
    return low, high


def _hovers(
    upward: Axis, across: Axis, mean: Floats, low: Floats, high: Floats, n: Any, unit: str
) -> npt.NDArray[np.object_]:
    hover = np.empty(mean.shape, dtype=object)
    for row, column in np.ndindex(*mean.shape):
        lines = [f"<b>{upward.title} {upward.hovers[row]}</b>, {across.hovers[column]}"]
        count = int(n[row, column])
        if count == 0:
            lines.append("no pair has this place in both")
        else:
            lines.append(f"{plain(float(mean[row, column]))} {theme.escape(unit)} more")
            if np.isfinite(low[row, column]):
                ends = plain(float(low[row, column])), plain(float(high[row, column]))
                lines.append(f"95% interval {ends[0]} to {ends[1]}")
            lines.append(f"{count} pair{'s' if count > 1 else ''}")
        hover[row, column] = "<br>".join(lines)
    return hover
