"""Intervals as bands behind a line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import xarray as xr

from interp.figures.drawing import numbers, theme
from interp.stats import mean_interval, no_interval
from interp.stats.clusters import Clusters

Floats = npt.NDArray[np.float64]


def band(
    x: Sequence[float] | np.ndarray[Any, Any],
    low: np.ndarray[Any, Any],
    high: np.ndarray[Any, Any],
    colour: str,
    name: str,
) -> go.Scatter:
    """The area from `low` to `high` over `x`, in a light tint of "#rrggbb"; it takes no hover.

    Where an end is NaN there is none, and the area is in several parts.
    """
    at, low, high = (np.asarray(row, dtype=float) for row in (x, low, high))
    drawn = np.isfinite(low) & np.isfinite(high)
    starts = np.flatnonzero(drawn & ~np.append(False, drawn[:-1]))
    stops = np.flatnonzero(drawn & ~np.append(drawn[1:], False)) + 1
    outline_x: list[float | None] = []
    outline_y: list[float | None] = []
    for start, stop in zip(starts, stops, strict=True):
        here = slice(start, stop)
        # None ends a part.
        outline_x += ([None] if outline_x else []) + [*at[here], *at[here][::-1]]
        outline_y += ([None] if outline_y else []) + [*high[here], *low[here][::-1]]
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return go.Scatter(
        x=outline_x,
        y=outline_y,
        fill="toself",
        fillcolor=f"rgba({red},{green},{blue},0.16)",
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        showlegend=False,
        name=theme.escape(name),
    )


def lay_behind(fig: go.Figure) -> None:
    """Put all areas of a figure behind all its lines, and faint lines behind the others.

    The band of one line would dim another one, on a dark page more than on a light one.
    """

    def depth(trace: Any) -> int:
        if getattr(trace, "fill", None) == "toself":
            return 0
        return 1 if trace.opacity is not None and trace.opacity < 1 else 2

    fig.data = tuple(sorted(fig.data, key=depth))


def mean_intervals_of(values: Floats, clusters: Clusters) -> tuple[Floats, Floats]:
    """The 95% interval of each column's mean over examples [example, column]; NaN if it has none.

    Missing values are left out, column by column.
    """
    names = np.asarray(clusters)
    there = np.isfinite(values)
    ends = [mean_interval(values[at, i], names[at]) for i, at in enumerate(there.T)]
    low, high = np.array(ends, dtype=float).reshape(-1, 2).T
    return low, high


def prompts_of(result: xr.Dataset) -> Clusters:
    """The prompt of each example: those with the same one are not independent."""
    if "prompt" in result.coords:
        return np.asarray(result["prompt"].values)
    return np.arange(result.sizes["example"])


def interval_text(low: float, high: float, n: float, what: str) -> str:
    """An interval over n examples as a hover tells it, or why there is none."""
    if not (np.isfinite(low) and np.isfinite(high)):
        return no_interval(n, what)
    return f"95%: {numbers.plain(low)} to {numbers.plain(high)}"
