"""What vectors of one run do in another, as heatmaps: layer by layer, and token by token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import xarray as xr

from cache.arguments import typed
from interp.errors import PromptError, SiteError
from interp.figures.drawing import grid, theme
from interp.figures.drawing.numbers import plain, reach, texts
from interp.kinds import KINDS
from interp.results import BackPatched, Transplanted

Value = Literal["change", "raw", "token"]
Texts = npt.NDArray[np.object_]
Floats = npt.NDArray[np.float64]

# The first of these that a result has makes the rows.
_AXES = ("target_layer", "source_layer", "target_position", "source_position")
_TITLES = {
    "source_layer": "read at layer",
    "target_layer": "written at layer",
    "source_position": "read at",
    "target_position": "written at",
}


@typed
def transplant_map(
    result: Transplanted,
    *,
    example: int | None = None,
    value: Value | None = None,
    limit: float | None = None,
    title: str | None = None,
    width: int = grid.WIDTH,
) -> go.Figure:
    """Draw what `transplant` returned: by default a row for each layer that was written, a column
    for each that was read.

    Args:
        result: of `transplant`, with two axes besides examples: choose an entry of any others, as
            in `result.sel(target_position="last")`, or a layer, for positions as columns.
        example: one example, or None for the mean over all (examples without the place are left
            out of a cell's mean; its hover says how many there are).
        value: "change" colours how far the metric moved from the unpatched run, around 0; "raw"
            the metric itself, around its unpatched value; "token" the probability of the likeliest
            next token, which stands in the cell (of one example). If left out, changes where
            there is a metric.
        limit: the end of the colour scale, in the metric's unit; the largest change if left out.
        title: of the figure.
        width: px that the figure will have; it only decides how much text fits.

    Raises:
        SiteError: the result has other than two axes, or not what is to be shown.
        PromptError: there is no such example.
    """
    if example is not None and not 0 <= example < result.sizes["example"]:
        raise PromptError(
            f"There is no example {example}; the result has {result.sizes['example']}, from 0 on."
        )
    value = value or ("change" if "patched" in result else "token")
    name = "top_token" if value == "token" else "patched"
    if name not in result:
        raise SiteError(
            "No next tokens were kept; ask transplant for next_tokens=…."
            if value == "token"
            else "No metric was read; give transplant answers=…, or draw value='token'."
        )
    rows, columns = _axes(result, name)
    if value == "token":
        return _token_map(result, rows, columns, example, title, width)
    one = result if example is None else result.isel(example=[example])
    patched = one["patched"].transpose("example", rows, columns)
    there = np.isfinite(patched.values)
    n = there.sum(0)
    # Of the examples that a cell holds, so that its change is not one of who is in it.
    base = one["unpatched"].values[:, None, None]
    sums = [np.where(there, values, 0.0).sum(0) for values in (patched.values, base)]
    raw, unpatched = (np.where(n > 0, total / np.maximum(n, 1), np.nan) for total in sums)
    change = raw - unpatched
    middle = float(one["unpatched"].mean()) if value == "raw" else 0.0
    shown = raw if value == "raw" else change
    limit = limit or reach(shown - middle, str(result.attrs.get("unit", "")))
    unit = theme.escape(result.attrs.get("unit", ""))
    metric = theme.escape(theme.words(str(result.attrs.get("metric", "metric"))))
    hover = np.empty(shown.shape, dtype=object)
    for row, column in np.ndindex(shown.shape):
        lines = [_place(one, rows, columns, row, column)]
        if n[row, column]:
            lines += [
                f"{metric} <b>{plain(float(raw[row, column]))}</b> {unit}",
                f"unpatched {plain(float(unpatched[row, column]))}, "
                f"moved by {plain(float(change[row, column]))}",
                f"{n[row, column]} example{'s' if n[row, column] > 1 else ''}",
            ]
        else:
            lines.append("not run, or no example has such a place")
        hover[row, column] = "<br>".join(lines)
    notes = _clipped(shown - middle, limit)
    bar = theme.colour_bar(f"{unit} moved" if value == "change" else unit)
    if value == "raw":
        ticks = [middle - limit, middle, middle + limit]
        bar = theme.colour_bar(unit, tickvals=ticks, ticktext=[plain(tick) for tick in ticks])
        notes.insert(0, f"Green is above the unpatched {plain(middle)}, purple below it.")
    return grid.draw(
        _grid(one, rows, columns, shown, hover, tuple(texts(shown, d) for d in (2, 1))),
        scale=theme.DIVERGING,
        limits=(middle - limit, middle + limit),
        bar=bar,
        title=title,
        selected=None,
        width=width,
        notes=notes,
    )


@typed
def back_patching_map(
    result: BackPatched,
    search: Literal["own", "mismatched"] = "own",
    *,
    title: str | None = None,
    width: int = grid.WIDTH,
) -> go.Figure:
    """Draw what `back_patching` returned: the share of all cases that each pair of layers mends.

    The pair that was chosen on half of the cases is outlined, where it mends any; below stands
    what it mends of the other half, and the same of the other search.

    Args:
        result: of `back_patching`.
        search: whose vectors were written.
        title: of the figure.
        width: px that the figure will have; it only decides how much text fits.
    """
    one = result.sel(search=search)
    mended = one["mended"].transpose("example", "target_layer", "source_layer").values
    there = np.isfinite(mended)
    n = there.sum(0)
    share = np.where(n > 0, np.where(there, mended, 0.0).sum(0) / np.maximum(n, 1), np.nan)
    hover = np.empty(share.shape, dtype=object)
    for row, column in np.ndindex(share.shape):
        line = "not an earlier layer"
        if n[row, column]:
            line = f"mends <b>{share[row, column]:.1%}</b> of {n[row, column]} cases"
        place = _place(result, "target_layer", "source_layer", row, column)
        hover[row, column] = f"{place}<br>{line}"
    layers = [int(layer) for layer in result["target_layer"].values]
    chosen = None
    if float(one["chosen_rate"]) > 0:
        chosen = (
            int(one["chosen_target_layer"]),
            list(result["source_layer"].values).index(int(one["chosen_source_layer"])),
        )
    cells = _grid(
        result, "target_layer", "source_layer", share, hover, (_percent(share),), rows=layers
    )
    return grid.draw(
        cells,
        scale=theme.SEQUENTIAL,
        limits=(0.0, reach(share)),
        bar=theme.colour_bar("cases mended", tickformat=".0%"),
        title=title,
        selected=chosen,
        width=width,
        notes=theme.lines(str(result.attrs.get("statement", "")), width),
    )


def _axes(result: xr.Dataset, name: str) -> tuple[str, str]:
    found = [axis for axis in _AXES if axis in result[name].dims]
    if len(found) != 2:
        raise SiteError(
            f"A map has two axes, but this result has {', '.join(found) or 'none'}; choose one "
            "entry of the others, as in result.isel(target_position=3)."
        )
    return found[0], found[1]


def _token_map(
    result: xr.Dataset, rows: str, columns: str, example: int | None, title: str | None, width: int
) -> go.Figure:
    if example is None and result.sizes["example"] > 1:
        raise PromptError("Next tokens are those of one prompt; choose an example.")
    one = result.isel(example=example or 0)
    tokens = one["top_token"].transpose(rows, columns, "k").values
    probability = one["top_prob"].transpose(rows, columns, "k").values.astype(float)
    text = np.empty(tokens.shape[:2], dtype=object)
    hover = np.empty(tokens.shape[:2], dtype=object)
    for row, column in np.ndindex(text.shape):
        text[row, column] = theme.visible(str(tokens[row, column, 0]))
        lines = [_place(one, rows, columns, row, column)]
        if np.isfinite(probability[row, column, 0]):
            pairs = zip(tokens[row, column], probability[row, column], strict=True)
            lines += ["next token would be"]
            lines += [f"{p:.1%}  ‘{theme.shown(str(token), 40)}’" for token, p in pairs]
        else:
            lines.append("not run, or the prompt has no such place")
        hover[row, column] = "<br>".join(lines)
    return grid.draw(
        _grid(one, rows, columns, probability[:, :, 0], hover, (text,), elide=True),
        scale=theme.SEQUENTIAL,
        limits=(0.0, 1.0),
        bar=theme.colour_bar("probability", tickvals=[0, 0.5, 1], tickformat=".0%"),
        title=title,
        selected=None,
        width=width,
    )


def _grid(
    result: xr.Dataset,
    row_axis: str,
    column_axis: str,
    values: Floats,
    hover: Texts,
    text: tuple[Texts, ...],
    *,
    elide: bool = False,
    rows: Sequence[int] | None = None,
) -> grid.Grid:
    names = {axis: [str(v) for v in result[axis].values] for axis in (row_axis, column_axis)}
    return grid.Grid(
        values=values,
        hover=hover,
        texts=text,
        elide=elide,
        rows=tuple(range(len(names[row_axis])) if rows is None else rows),
        row_labels=tuple(map(theme.visible, names[row_axis])),
        columns=tuple(map(theme.visible, names[column_axis])),
        row_title=_TITLES[row_axis],
        column_title=_TITLES[column_axis],
    )


def _place(result: xr.Dataset, rows: str, columns: str, row: int, column: int) -> str:
    """From where to where, of a cell."""
    at: dict[str, Any] = {rows: result[rows].values[row], columns: result[columns].values[column]}
    name = str(result.attrs.get("site", ""))
    site = KINDS[name].plural.lower() if name in KINDS else f"'{name}'"
    parts = [f"<b>{theme.escape(site)}</b>"]
    for axis in ("source_layer", "source_position", "target_layer", "target_position"):
        entry = at.get(axis, result.coords[axis].values if axis in result.coords else None)
        if entry is not None and np.ndim(entry) == 0:
            parts.append(f"{_TITLES[axis]} {theme.shown(str(entry), 40)}")
    return ", ".join(parts)


def _percent(share: Floats) -> Texts:
    out = np.empty(share.shape, dtype=object)
    for place, one in np.ndenumerate(share):
        out[place] = f"{one:.0%}" if np.isfinite(one) else ""
    return out


def _clipped(shown: Floats, limit: float) -> list[str]:
    n = int((np.abs(np.nan_to_num(shown)) > limit * (1 + 1e-6)).sum())
    return [f"{n} cell{'s lie' if n > 1 else ' lies'} beyond ±{limit:.3g}."] if n else []
