"""Activation patching as a heatmap: how much of the effect one activation carries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import xarray as xr

from cache.arguments import typed
from interp.errors import SiteError
from interp.figures.drawing import grid, marks, theme
from interp.figures.drawing.axes import Axis, axes_of
from interp.figures.drawing.cells import intervals
from interp.figures.drawing.numbers import plain, reach, texts
from interp.kinds import KINDS
from interp.results import Patched
from interp.stats import connected

Value = Literal["normalised", "raw", "change"]
_SEEN = 0.1
"""Of the colour scale: a value below it looks like 0."""


def site_name(site: str) -> str:
    """A site as words that a layer number can follow: "residual stream into block"."""
    return KINDS[site].label if site in KINDS else f"{site} of block"


@typed
def patching_map(
    result: Patched,
    *,
    example: int | None = None,
    value: Value | None = None,
    limit: float | None = None,
    title: str | None = None,
    selected: tuple[int, int] | None = None,
    width: int = grid.WIDTH,
) -> go.Figure:
    """Draw what `sweep`, `refine` or `estimate` returned.

    Rows are layers, and columns positions, spans, heads or groups of neurons; of attention
    patterns at one layer, rows are the tokens that attend and columns those attended to. Cells
    that are estimates and were not run are hatched.

    Args:
        result: of `sweep`, with two axes besides examples: choose an entry of any others, as in
            `result.sel(layer=3)`.
        example: one pair, or None for the mean over all (pairs without the token are left out of
            a cell's mean; its hover says how many there are, and the 95% interval over them of
            what the patch moves. A note counts the coloured cells whose interval holds 0).
        value: "normalised" colours the share of the effect, 0 as in the corrupted run and 1 as in
            the clean one, on a scale fixed to [-1, 1] (cells beyond it carry a triangle; where
            there are no shares, see `normalised`, all are grey and a note says why); "raw" the
            metric itself; "change" the metric minus its value in the corrupted run, which needs no
            division and can be compared between maps. If left out, shares where there are any,
            and changes elsewhere.
        limit: the end of the colour scale of "raw" and "change", for maps to be compared; the
            largest value of this one if left out, but no less than 1 logit or nat (0.1 of
            probabilities), so that a map of next to nothing looks like one.
        title: of the figure.
        selected: (layer, column) to outline.
        width: px that the figure will have; it only decides how much text fits.

    Raises:
        SiteError: the sweep has other than two axes, or no such example.
    """
    if example is not None and not 0 <= example < result.sizes["example"]:
        raise SiteError(
            f"There is no pair {example}; the sweep holds {result.sizes['example']}, from 0 on."
        )
    rows, columns = axes_of(result, example)
    numbers = _numbers(result, rows, columns, example)
    reasons = [numbers.reason] if numbers.reason and value in (None, "normalised") else []
    if value is None:
        value = "change" if numbers.reason else "normalised"
    # Of one pair, what it has no tokens for is left out; clicks still name the result's entries.
    row, column = _present(numbers, result, columns, example)
    if rows.name not in ("layer", "head"):
        row = row[::-1]  # a prompt is read from the top down
    shown = {"normalised": numbers.share, "raw": numbers.patched, "change": numbers.change}[value]
    unit = str(result.attrs.get("unit", ""))
    limit = 1.0 if value == "normalised" else limit or reach(shown, unit)
    hover = _hovers(result, numbers, rows, columns)[np.ix_(row, column)]
    shown, estimated = shown[np.ix_(row, column)], numbers.estimated[np.ix_(row, column)]
    beyond = np.argwhere(np.abs(np.nan_to_num(shown)) > limit * (1 + 1e-6))
    for place in beyond:
        hover[tuple(place)] += "<br>▲ beyond the colours"
    fig = grid.draw(
        grid.Grid(
            values=shown,
            hover=hover,
            texts=tuple(texts(shown, decimals) for decimals in (2, 1)),
            elide=False,
            rows=tuple(rows.keys[i] for i in row),
            row_labels=tuple(rows.labels[i] for i in row),
            columns=tuple(columns.labels[i] for i in column),
            row_title=rows.title,
            column_title=columns.title,
            estimated=estimated,
        ),
        scale=theme.DIVERGING,
        limits=(-limit, limit),
        bar=_bar(value, unit),
        title=title,
        selected=_visible_selection(selected, column),
        width=width,
        notes=[
            *(line for reason in reasons for line in theme.lines(reason, width)),
            *(
                line
                for note in _estimates(estimated, shown, result.attrs)
                for line in theme.lines(note, width)
            ),
            *(
                theme.lines(_unclear(numbers, shown, (row, column), limit), width)
                if value != "raw"  # its colours are of what there is, not of what a patch moves
                else ()
            ),
            *_clipping(shown, beyond, limit),
        ],
    )
    targets = next(trace for trace in fig.data if trace.name == "cells")
    targets.customdata = [[key, int(column[at])] for key, at in targets.customdata]
    if len(beyond):
        marks.mark(fig, [(int(row), int(column)) for row, column in beyond])
    return fig


@dataclass(frozen=True)
class _Numbers:
    """Per cell [row, column], for one pair or as means: NaN and n = 0 where there is nothing."""

    share: npt.NDArray[np.float64]
    patched: npt.NDArray[np.float64]
    change: npt.NDArray[np.float64]
    low: npt.NDArray[np.float64]
    """Where the 95% interval of a mean change begins; NaN of one pair, and of too few."""
    high: npt.NDArray[np.float64]
    n: npt.NDArray[np.int64]
    estimated: npt.NDArray[np.bool_]
    clean: float
    corrupt: float
    reason: str
    """Why there are no shares; empty where there are."""
    n_shares: npt.NDArray[np.int64]


def _numbers(result: xr.Dataset, rows: Axis, columns: Axis, example: int | None) -> _Numbers:
    # Not at the top: it brings torch along, which figures of other kinds have no use for.
    from interp.patching.results import normalised

    order = ("example", rows.name, columns.name)
    share = normalised(result).transpose(*order)
    patched = result["patched"].transpose(*order)
    if example is not None:
        share, patched = share.isel(example=[example]), patched.isel(example=[example])
        result = result.isel(example=[example])
    reason = str(share.attrs["reason"])
    if not reason and not bool(np.isfinite(share).any()) and bool(np.isfinite(patched).any()):
        reason = "No share can be told: this pair's clean and corrupted runs hardly differ, or "
        reason += "differ the wrong way round."
    change = patched - result["corrupt"]
    n = np.isfinite(patched.values).sum(axis=0)
    if "exact" in result:
        estimated = ~result["exact"].transpose(*order[1:]).values.astype(bool)
    else:
        everywhere = str(result.attrs.get("instrument", "")).startswith("attribution patching")
        estimated = np.full(n.shape, everywhere)
    # Pairs with one clean prompt ask one question, and are no evidence each of their own.
    asked = connected(result["clean_prompt"].values) if "clean_prompt" in result.coords else None
    low, high = intervals(change.values.astype(float), asked)
    return _Numbers(
        share.mean("example", skipna=True).values.astype(float),
        patched.mean("example", skipna=True).values.astype(float),
        change.mean("example", skipna=True).values.astype(float),
        low,
        high,
        n,
        estimated & (n > 0),
        float(result["clean"].mean()),
        float(result["corrupt"].mean()),
        reason,
        np.isfinite(share.values).sum(axis=0),
    )


def _present(
    numbers: _Numbers, result: xr.Dataset, columns: Axis, example: int | None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The rows and columns that are drawn: of one pair, those it has.

    A token of the clean prompt that has a name but no numbers (none stands for it in the corrupted
    one) is drawn, too: what is left out without a word looks as if it did not matter.
    """
    there = numbers.n > 0
    if example is None or not there.any():
        there = np.ones_like(there)
    drawn = there.any(axis=0)
    if example is not None and columns.name == "position" and "clean_token" in result.coords:
        drawn |= result["clean_token"].values[example] != ""
    return np.nonzero(there.any(axis=1))[0], np.nonzero(drawn)[0]


def _hovers(
    result: xr.Dataset, numbers: _Numbers, rows: Axis, columns: Axis
) -> npt.NDArray[np.object_]:
    unit = theme.escape(result.attrs.get("unit", ""))
    metric = theme.escape(theme.words(str(result.attrs.get("metric", "metric"))))
    hover = np.empty(numbers.n.shape, dtype=object)
    for row, column in np.ndindex(*numbers.n.shape):
        n = int(numbers.n[row, column])
        lines = [_place(result, rows, columns, row, column)]
        if n == 0:
            hover[row, column] = "<br>".join([*lines, "no token stands for it in the other prompt"])
            continue
        lines += [
            _share_line(float(numbers.share[row, column]), int(numbers.n_shares[row, column]), n),
            f"{metric} patched {plain(float(numbers.patched[row, column]))} {unit}",
            f"clean {plain(numbers.clean)}, corrupted {plain(numbers.corrupt)}",
        ]
        if np.isfinite(numbers.low[row, column]):
            moved, low, high = (
                plain(float(one[row, column]))
                for one in (numbers.change, numbers.low, numbers.high)
            )
            lines.append(f"moved by {moved} {unit}, 95% interval {low} to {high}")
        lines.append(f"{n} pair{'s' if n > 1 else ''}")
        if numbers.estimated[row, column]:
            lines.append("an estimate, not run")
        hover[row, column] = "<br>".join(lines)
    return hover


def _place(result: xr.Dataset, rows: Axis, columns: Axis, row: int, column: int) -> str:
    """Site and layer, and the entries of all other axes, of a cell."""
    site = theme.escape(site_name(str(result.attrs.get("site", ""))))
    layer = rows.labels[row] if rows.name == "layer" else str(result["layer"].values)
    where = [] if rows.name == "layer" else [rows.hovers[row]]
    return ", ".join([f"<b>{site} {theme.escape(layer)}</b>", *where, columns.hovers[column]])


def _share_line(share: float, n_shares: int, n: int) -> str:
    if not np.isfinite(share):
        return "share of the effect: none can be told"
    of = f", of {n_shares} pairs with an effect" if n_shares < n else ""
    return f"share of the effect <b>{plain(share)}</b>{of}"


def _bar(value: Value, unit: str) -> dict[str, object]:
    if value != "normalised":
        return theme.colour_bar(theme.escape(unit if value == "raw" else f"{unit} moved"))
    return theme.colour_bar(
        "share of effect",
        tickvals=[-1, 0, 1],
        ticktext=["−1", "0 corrupt", "1 clean"],
    )


def _estimates(
    estimated: npt.NDArray[np.bool_], shown: npt.NDArray[np.float64], noted: Mapping[Any, Any]
) -> list[str]:
    n, all_cells = int(estimated.sum()), int(np.isfinite(shown).sum())
    if n == 0:
        return []
    which = "All cells" if n == all_cells else f"{n} of {all_cells} cells"
    words = agreement_words(noted, replaced=n < all_cells)
    return [f"{which} (hatched) are estimates, not runs. {words}"]


def agreement_words(noted: Mapping[Any, Any], *, replaced: bool = False) -> str:
    """How well estimates agree with cells that were run to tell it, as their result notes it.

    Args:
        replaced: whether runs have since taken the place of some, which are the largest.
    """
    found = {name: _noted(noted, name) for name in ("cells", "large", "correlation", "wrong_signs")}
    told = []
    if found["correlation"] is not None:
        told.append(f"correlation {_with_ends(noted, 'correlation', plain)}")
    if found["wrong_signs"] is not None and found["large"]:
        wrong = _with_ends(noted, "wrong_signs", lambda share: f"{share:.0%}")
        large = f"{found['large']:.0f} of these from the tenth with the largest estimates"
        told.append(f"wrong signs among {large} {wrong}")
    if not told or not found["cells"]:
        return "How well they agree with runs was not measured."
    words = f"By {found['cells']:.0f} single pairs' cells that were run: {', '.join(told)}."
    if replaced:
        words += " This is of all estimates, also those that runs have replaced."
    return words


def _noted(noted: Mapping[Any, Any], name: str) -> float | None:
    value = noted.get(f"agreement_{name}")
    if isinstance(value, int | float | np.number) and np.isfinite(value):
        return float(value)
    return None


def _with_ends(noted: Mapping[Any, Any], name: str, words: Callable[[float], str]) -> str:
    value, low, high = (_noted(noted, f"{name}{end}") for end in ("", "_low", "_high"))
    assert value is not None  # looked at before
    if low is None or high is None or low == high:
        return words(value)
    return f"{words(value)} (95% interval {words(low)} to {words(high)})"


def _unclear(
    numbers: _Numbers,
    shown: npt.NDArray[np.float64],
    drawn: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
    limit: float,
) -> str:
    """How many cells have a colour that can be seen, though their mean could be of none."""
    low, high = numbers.low[np.ix_(*drawn)], numbers.high[np.ix_(*drawn)]
    coloured = np.abs(np.nan_to_num(shown)) >= _SEEN * limit
    n = int((coloured & (low <= 0) & (high >= 0)).sum())
    if n == 0:
        return ""
    which = f"{n} of {int(coloured.sum())} cells with a colour"
    return f"The 95% interval over pairs of {which} holds 0: what they move could be nothing."


def _clipping(
    shown: npt.NDArray[np.float64], beyond: npt.NDArray[np.int64], limit: float
) -> list[str]:
    if not len(beyond):
        return []
    values = [float(shown[row, column]) for row, column in beyond]
    furthest = max(values, key=abs)
    cells = "1 cell lies" if len(values) == 1 else f"{len(values)} cells lie"
    return [f"▲ {cells} beyond ±{limit:.3g}, up to {plain(furthest)}"]


def _visible_selection(
    selected: tuple[int, int] | None, columns: npt.NDArray[np.int64]
) -> tuple[int, int] | None:
    if selected is None or selected[1] not in columns:
        return None
    return selected[0], int(np.nonzero(columns == selected[1])[0][0])
