"""Means with intervals in rows, for series that are to be compared row by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from interp.figures.drawing import theme
from interp.figures.drawing.numbers import plain

__all__ = ["Dots", "interval_dots", "nothing_to_draw"]

Numbers: TypeAlias = "Sequence[float] | npt.NDArray[np.float64]"

_ROW = 30
_APART = 0.18  # of a row, between two series


@dataclass(frozen=True)
class Dots:
    """A series: in some rows a mean with its interval, and single examples where they are given.

    Attributes:
        name, colour: of the series.
        rows: the labels of its rows.
        mean, low, high: by row; an end that is NaN is not drawn.
        examples: by row; empty where only means are drawn.
    """

    name: str
    colour: str
    rows: Sequence[str]
    mean: Numbers
    low: Numbers
    high: Numbers
    examples: Sequence[npt.NDArray[np.float64]] = ()


def interval_dots(
    rows: Sequence[str],
    series: Sequence[Dots],
    *,
    margin: float,
    axis: str,
    title: str | None = None,
) -> go.Figure:
    """Draw each series' means and intervals in rows from top to bottom.

    Args:
        rows: labels, the topmost first.
        series: whose rows are among them; those that share a row are drawn one below the other.
        margin: what counts as none on both sides of 0, drawn as a grey band.
        axis: what is drawn, with its unit.
        title: of the figure.
    """
    fig = go.Figure()
    fig.add_vrect(x0=-margin, x1=margin, fillcolor=theme.EMPTY, line_width=0, layer="below")
    fig.add_vline(x=0, line={"color": theme.MUTED, "width": 1})
    place = {row: len(rows) - 1 - number for number, row in enumerate(rows)}
    shared = [sum(row in one.rows for one in series) for row in rows]
    for number, one in enumerate(series):
        offset = _APART * ((len(series) - 1) / 2 - number) if max(shared, default=1) > 1 else 0.0
        heights = [place[row] + offset for row in one.rows]
        for values, height in zip(one.examples, heights, strict=False):
            fig.add_trace(_examples(values, height, one.colour))
        fig.add_trace(_means(one, heights))
    theme.finish(
        fig, title=title, height=int(_ROW * len(rows) * (1.8 if series[0].examples else 1)) + 120
    )
    fig.update_layout(margin_t=72 if title else 40, hovermode="closest")
    fig.update_yaxes(
        tickvals=[place[row] for row in rows],
        ticktext=[theme.escape(row) for row in rows],
        range=[-0.6, len(rows) - 0.4],
        showgrid=False,
    )
    fig.update_xaxes(title_text=theme.escape(axis))
    return fig


def nothing_to_draw(reason: str) -> go.Figure:
    """An empty figure that says why, as a sentence without its full stop."""
    fig = go.Figure()
    theme.finish(fig, title=None, height=160, plot_bgcolor=theme.EMPTY)
    fig.update_xaxes(visible=False)
    fig.update_yaxes(visible=False)
    theme.note(fig, f"{reason}.", below=0)
    return fig


def _means(one: Dots, heights: Sequence[float]) -> go.Scatter:
    mean = np.asarray(one.mean, float)
    low, high = np.asarray(one.low, float), np.asarray(one.high, float)
    name = theme.escape(one.name)
    return go.Scatter(
        x=mean,
        y=list(heights),
        mode="markers",
        marker={"size": 9, "color": one.colour, "line": {"color": "white", "width": 1}},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": np.nan_to_num(high - mean),
            "arrayminus": np.nan_to_num(mean - low),
            "color": one.colour,
            "thickness": 2,
            "width": 0,
        },
        text=[
            f"<b>{theme.escape(row)}</b>, {name}<br>{plain(m)} [{plain(a)}, {plain(b)}]"
            for row, m, a, b in zip(one.rows, mean, low, high, strict=True)
        ],
        hovertemplate="%{text}<extra></extra>",
        name=name,
    )


def _examples(values: npt.NDArray[np.float64], height: float, colour: str) -> go.Scatter:
    # Always spread in the same way: where a point stands across the row means nothing.
    spread = np.random.default_rng(0).uniform(-0.3, 0.3, len(values))
    return go.Scatter(
        x=values,
        y=height + spread,
        mode="markers",
        marker={"size": 4, "color": colour, "opacity": 0.35},
        hoverinfo="skip",
        showlegend=False,
    )
