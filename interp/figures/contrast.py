"""Two patching maps on one axis of named places: where one carries more of its answer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import xarray as xr

from cache.arguments import typed
from interp.errors import SiteError
from interp.figures.drawing import grid, theme
from interp.figures.drawing.axes import Axis, axes_of
from interp.figures.drawing.cells import alike, intervals
from interp.figures.drawing.numbers import plain, reach, texts
from interp.results import Patched
from interp.stats import connected, difference_intervals

__all__ = ["contrast_map", "shared_examples", "shared_places"]

Floats = npt.NDArray[np.float64]


@typed
def shared_places(first: Patched, second: Patched) -> list[str]:
    """The position labels that both results have, in the order of the first.

    Raises:
        SiteError: one has no positions, they are of two sites, or share no place.
    """
    _check_site(first, second)
    labels = []
    for result in (first, second):
        if "position_label" not in result.coords:
            raise SiteError("A map without named positions cannot be laid beside another one.")
        labels.append([str(label) for label in result["position_label"].values])
    both = [label for label in labels[0] if label in labels[1]]
    if not both:
        raise SiteError("The two maps have no place in common; name the same spans in both.")
    return both


def _check_site(first: xr.Dataset, second: xr.Dataset) -> None:
    for name, what in (("site", "patch the same site"), ("metric", "read the same metric")):
        one, other = first.attrs.get(name), second.attrs.get(name)
        if one != other:
            raise SiteError(f"One map is of '{one}', the other of '{other}'; {what} in both.")


@typed
def shared_examples(
    first: Patched, second: Patched, key: str | Sequence[str]
) -> tuple[xr.Dataset, xr.Dataset]:
    """Both results with only the examples that both have, in the order of the first.

    Args:
        first, second: of `sweep`.
        key: the coordinate that tells examples apart, or several that do so together. Of examples
            that a result has several times the first goes with the first, and so on.

    Raises:
        SiteError: a result has no such coordinate, or they have no example in common.
    """
    keys = [key] if isinstance(key, str) else list(key)
    names = []
    for result in (first, second):
        for name in keys:
            if name not in result.coords:
                raise SiteError(f"There is no coordinate '{name}' that numbers the examples.")
        names.append(list(zip(*(result[name].values.tolist() for name in keys), strict=True)))
    there = defaultdict(list)
    for row, one in enumerate(names[1]):
        there[one].append(row)
    rows = [(row, there[one].pop(0)) for row, one in enumerate(names[0]) if there[one]]
    if not rows:
        raise SiteError("The two maps have no example in common.")
    here, other = ([pair[side] for pair in rows] for side in (0, 1))
    return first.isel(example=here), second.isel(example=other)


@typed
def contrast_map(
    first: Patched,
    second: Patched,
    *,
    key: str | Sequence[str] | None = None,
    paired: bool = True,
    limit: float | None = None,
    title: str | None = None,
    width: int = grid.WIDTH,
) -> go.Figure:
    """Draw by how much more a patch moves in the first map than in the second, place by place.

    What is compared is each pair's change: the metric after the patch minus that of the corrupted
    run. Cells whose 95% interval over pairs holds 0 are grey, and so are those of few pairs; of a
    single pair there is no interval, which a note says. Each cell's interval is for itself: where
    nothing differs, about one cell in twenty has colour. Pairs with one clean prompt count as one.

    Args:
        first: of `sweep` at one site, by position or by head.
        second: the same of the same examples asked otherwise, or of another model.
        key: the coordinate that numbers the examples in both, or several that do so together; only
            those in both are compared. By their order if left out.
        paired: whether examples are the same in both. If not, means are compared, as those of
            independent samples (`difference_intervals`).
        limit: the end of the colour scale, for maps to be compared; the largest difference if left
            out, but no less than 1 logit or nat.
        title: of the figure.
        width: px that the figure will have.

    Raises:
        SiteError: the maps cannot be laid beside each other, or have no example in common.
    """
    one, other = _same_cells(first, second)
    if paired:
        one, other = _same_examples(one, other, key)
    found = _paired(one, other) if paired else _apart(one, other)
    several = max(one.sizes["example"], other.sizes["example"]) > 1
    # Of several pairs, what could be none must not look like a difference.
    there = np.isfinite(found.mean)
    clear = (found.low > 0) | (found.high < 0) if several else there
    shown = np.where(clear, found.mean, np.nan)
    unit = str(first.attrs.get("unit", ""))
    limit = limit or reach(shown, unit)
    notes = []
    if not several:
        notes.append("A single pair: there is no interval, and others may differ.")
    elif not clear.all():
        notes.append("Grey: the 95% interval over pairs holds 0, or there are too few pairs.")
    # One pair in two models has its own tokens in both.
    alone = not several and _same_tokens(one, other)
    upward, across = axes_of(one, 0 if alone else None, beside=(other,))
    return grid.draw(
        grid.Grid(
            values=shown,
            hover=_hovers(upward, across, found, unit),
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


@dataclass(frozen=True)
class _Difference:
    """Per cell [layer, place]: NaN where there is nothing, or no interval.

    Attributes:
        pairs: over how many pairs, in words; empty where there are none.
    """

    mean: Floats
    low: Floats
    high: Floats
    pairs: npt.NDArray[np.object_]


def _same_cells(first: xr.Dataset, second: xr.Dataset) -> tuple[xr.Dataset, xr.Dataset]:
    """Both maps at the layers, and the places or heads, that both have."""
    layers = [int(layer) for layer in first["layer"].values if layer in second["layer"].values]
    if not layers:
        raise SiteError("The two maps have no layer in common.")
    if all("head" in result["patched"].dims for result in (first, second)):
        _check_site(first, second)
        heads = [int(head) for head in first["head"].values if head in second["head"].values]
        return first.sel(layer=layers, head=heads), second.sel(layer=layers, head=heads)
    places = shared_places(first, second)
    return _at(first, places, layers), _at(second, places, layers)


def _same_tokens(first: xr.Dataset, second: xr.Dataset) -> bool:
    tokens = [one["clean_token"].values for one in (first, second) if "clean_token" in one.coords]
    return len(tokens) == 2 and tokens[0].tolist() == tokens[1].tolist()


def _same_examples(
    first: xr.Dataset, second: xr.Dataset, key: str | Sequence[str] | None
) -> tuple[xr.Dataset, xr.Dataset]:
    if key is not None:
        return shared_examples(first, second, key)
    if second.sizes["example"] != first.sizes["example"]:
        raise SiteError(
            f"One map has {first.sizes['example']} pairs, the other {second.sizes['example']}; "
            "name the coordinate that numbers them."
        )
    return first, second


def _paired(first: xr.Dataset, second: xr.Dataset) -> _Difference:
    difference = _change(first) - _change(second)
    mean, n = _means(difference)
    # Pairs with one clean prompt ask one question, and are no evidence each of their own.
    asked = [one["clean_prompt"].values for one in (first, second) if "clean_prompt" in one.coords]
    low, high = intervals(difference, connected(*asked) if asked else None)
    return _Difference(mean, low, high, _counted(n))


def _apart(first: xr.Dataset, second: xr.Dataset) -> _Difference:
    """Means of independent examples."""
    one, other = _change(first), _change(second)
    (mean, n), (other_mean, other_n) = _means(one), _means(other)
    low, high = np.full(mean.shape, np.nan), np.full(mean.shape, np.nan)
    for cells, here in alike(one):
        for others, there in alike(other):
            both = cells & others
            if both.any() and here.any() and there.any():
                ends = difference_intervals(
                    one[here][:, both].T,
                    other[there][:, both].T,
                    clusters=(_asked(first, here), _asked(second, there)),
                )
                low[both], high[both] = ends
    words = _counted(n) + " in the first, " + _counted(other_n) + " in the second"
    words[(n == 0) | (other_n == 0)] = ""
    return _Difference(mean - other_mean, low, high, words)


def _asked(result: xr.Dataset, which: npt.NDArray[np.bool_]) -> npt.NDArray[np.object_] | None:
    """The questions of some pairs, where some of these ask the same; None where none do."""
    if "clean_prompt" not in result.coords:
        return None
    asked = result["clean_prompt"].values[which]
    return asked if len(set(asked.tolist())) < len(asked) else None


def _means(values: Floats) -> tuple[Floats, npt.NDArray[np.int64]]:
    """The mean over the pairs that have a cell, and how many have."""
    n = np.isfinite(values).sum(0)
    mean = np.full(n.shape, np.nan)
    mean[n > 0] = np.nanmean(values[:, n > 0], axis=0)
    return mean, n


def _counted(n: npt.NDArray[np.int64]) -> npt.NDArray[np.object_]:
    words = np.empty(n.shape, dtype=object)
    for place, count in np.ndenumerate(n):
        words[place] = f"{count} pair{'' if count == 1 else 's'}" if count else ""
    return words


def _at(result: xr.Dataset, places: list[str], layers: list[int]) -> xr.Dataset:
    """The result at these places and layers."""
    labels = [str(label) for label in result["position_label"].values]
    return result.isel(position=[labels.index(place) for place in places]).sel(layer=layers)


def _change(result: xr.Dataset) -> Floats:
    """[example, layer, place or head]"""
    change = (result["patched"] - result["corrupt"]).transpose("example", "layer", ...)
    return np.asarray(change.values, np.float64)


def _hovers(upward: Axis, across: Axis, found: _Difference, unit: str) -> npt.NDArray[np.object_]:
    hover = np.empty(found.mean.shape, dtype=object)
    for place in np.ndindex(*found.mean.shape):
        lines = [f"<b>{upward.title} {upward.hovers[place[0]]}</b>, {across.hovers[place[1]]}"]
        if not found.pairs[place]:
            lines.append("no pair has this place in both")
        else:
            lines.append(f"{plain(float(found.mean[place]))} {theme.escape(unit)} more")
            if np.isfinite(found.low[place]):
                ends = plain(float(found.low[place])), plain(float(found.high[place]))
                lines.append(f"95% interval {ends[0]} to {ends[1]}")
            lines.append(str(found.pairs[place]))
        hover[place] = "<br>".join(lines)
    return hover
