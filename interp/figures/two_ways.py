"""The same questions asked one way and the other, group by group."""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from cache.arguments import typed
from interp.figures.drawing import theme
from interp.results import TwoWays

_DIGITS = 3
_WIDTH, _MOST = 16, 60  # characters of a label: in a line, and in all


@typed
def way_bars(
    rows: TwoWays,
    *,
    axis: str,
    share: bool = False,
    even: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """Draw means with their 95% intervals: groups along the axis, in each a bar for each way.

    Args:
        rows: columns group, way, value, low, high, n (examples behind the mean); ways are drawn in
            the order in which they come, "forward" and "reverse" in the colours of directions.
            A way without a value has no bar.
        axis: what the values are, with their unit.
        share: whether they are shares of 1, to be written as percentages.
        even: the value that chance gives, drawn as a line.
        title: of the figure.
    """
    fig = go.Figure()
    groups = list(dict.fromkeys(rows["group"]))
    for number, way in enumerate(dict.fromkeys(rows["way"])):
        mine = rows[(rows["way"] == way) & np.isfinite(rows["value"].to_numpy(dtype=float))]
        fig.add_trace(_bars(mine, str(way), ("forward", "reverse", "both")[number % 3], share))
    if even is not None:
        fig.add_hline(
            y=even,
            line={"color": theme.MUTED, "width": 1, "dash": "dot"},
            annotation_text="chance",
            annotation_font={"size": theme.SMALL, "color": theme.MUTED},
            annotation_position="top right",
        )
    theme.finish(fig, title=title, height=360, barmode="group", bargap=0.35, bargroupgap=0.08)
    fig.update_layout(
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "title_text": ""},
        margin={"t": 96 if title else 48, "b": 72},
    )
    fig.update_yaxes(title_text=theme.escape(axis), zeroline=True, zerolinecolor="#b9bec8")
    if share:
        fig.update_yaxes(tickformat=".0%", rangemode="tozero")
    labels = [_label(group) for group in groups]
    fig.update_xaxes(showgrid=False, categoryorder="array", categoryarray=labels)
    return fig


def _bars(rows: pd.DataFrame, way: str, colour: str, share: bool) -> go.Bar:
    value, low, high = (rows[name].to_numpy(dtype=float) for name in ("value", "low", "high"))
    known = np.isfinite(low) & np.isfinite(high)
    return go.Bar(
        x=[_label(group) for group in rows["group"]],
        y=value,
        error_y={
            "type": "data",
            "symmetric": False,
            "array": np.where(known, high - value, 0.0),
            "arrayminus": np.where(known, value - low, 0.0),
            "color": theme.INK,
            "thickness": 1.2,
            "width": 4,
        },
        marker={"color": theme.COLOURS[colour], "opacity": 0.9},
        text=[
            f"<b>{_number(v, share)}</b>"
            + (f"<br>95% interval {_number(a, share)} to {_number(b, share)}" if there else "")
            + f"<br>n = {int(n):,}"
            for v, a, b, there, n in zip(value, low, high, known, rows["n"], strict=True)
        ],
        textposition="none",
        hovertemplate=f"%{{x}}, {theme.escape(way)}<br>%{{text}}<extra></extra>",
        name=theme.escape(way),
    )


def _label(group: object) -> str:
    """In several lines: a label that is too wide is turned on its side, where nobody reads it."""
    lines = textwrap.wrap(theme.shorten(str(group), _MOST), _WIDTH) or [""]
    return "<br>".join(theme.escape(line) for line in lines)


def _number(value: float, share: bool) -> str:
    text = f"{100 * value:.{_DIGITS}g}%" if share else f"{value:.{_DIGITS}g}"
    return text.replace("-", "−")
