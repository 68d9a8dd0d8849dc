"""Bars of what is asked in several ways: answers that are right, and any mean with its interval."""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from cache.arguments import typed
from interp.figures.drawing import theme
from interp.results import AccuracyTable, TwoWays

_SPLITS = ("forward", "reverse", "both", "held_out")
_TEMPLATES = ("trained", "held_out")
_DIRECTIONS = ("forward", "reverse")
_DIGITS = 3
_WIDTH, _MOST = 16, 60  # characters of a label: in a line, and in all


@typed
def accuracy_bars(accuracy: AccuracyTable, *, title: str | None = None) -> go.Figure:
    """Draw accuracy with its 95% intervals: one panel for the wordings seen in training, one
    for the held-out ones; groups are what a fact was trained on, bars how it is asked.

    Args:
        accuracy: columns split, direction, templates, correct, total, rate, low, high.
        title: of the figure.
    """
    groups = [s for s in _SPLITS if (accuracy["split"] == s).any()]
    groups += [s for s in accuracy["split"].unique() if s not in groups]
    panels = [t for t in _TEMPLATES if (accuracy["templates"] == t).any()] or ["trained"]
    headings = {"trained": "wordings seen in training", "held_out": "wordings never seen"}
    fig = make_subplots(
        rows=1,
        cols=len(panels),
        shared_yaxes=True,
        horizontal_spacing=0.04,
        subplot_titles=[headings[p] for p in panels],
    )
    for column, templates in enumerate(panels, start=1):
        for direction in _DIRECTIONS:
            chosen = (accuracy["templates"] == templates) & (accuracy["direction"] == direction)
            rows = accuracy[chosen].set_index("split")
            rows = rows.loc[[g for g in groups if g in rows.index]]
            if len(rows):
                bars = _bars(rows, direction, legend=column == 1)
                fig.add_trace(bars, row=1, col=column)
    theme.finish(fig, title=title, height=340, barmode="group", bargap=0.35, bargroupgap=0.08)
    fig.update_layout(
        legend={"orientation": "h", "x": 0, "y": -0.3, "yanchor": "top", "title_text": ""},
        margin={"b": 96, "t": 80 if title else 36},
    )
    fig.update_annotations(font={"size": theme.TEXT, "color": theme.MUTED})
    fig.update_yaxes(range=[0, 1.03], tickformat=".0%", dtick=0.25)
    fig.update_yaxes(title_text="questions answered right", col=1)
    fig.update_xaxes(showgrid=False, categoryorder="array", title_text="trained on")
    fig.update_xaxes(categoryarray=[theme.escape(theme.words(g)) for g in groups])
    return fig


def _bars(rows: pd.DataFrame, direction: str, *, legend: bool) -> go.Bar:
    rates = rows["rate"].to_numpy(dtype=float)
    low, high = rows["low"].to_numpy(dtype=float), rows["high"].to_numpy(dtype=float)
    colour = theme.COLOURS[direction]
    return go.Bar(
        x=[theme.escape(theme.words(str(s))) for s in rows.index],
        y=rates,
        error_y={
            "type": "data",
            "symmetric": False,
            "array": high - rates,
            "arrayminus": rates - low,
            "color": theme.INK,
            "thickness": 1.2,
            "width": 4,
        },
        marker={"color": colour, "opacity": 0.9},
        text=[
            f"<b>{row.correct} of {row.total}</b> right ({row.rate:.0%})<br>95% interval "
            f"{row.low:.0%} to {row.high:.0%}"
            for row in rows.itertuples()
        ],
        textposition="none",
        hovertemplate=f"asked {direction}, trained on %{{x}}<br>%{{text}}<extra></extra>",
        name=f"asked {direction}",
        legendgroup=direction,
        showlegend=legend,
    )


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
        fig.add_trace(
            _bars_of_way(mine, str(way), ("forward", "reverse", "both")[number % 3], share)
        )
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


def _bars_of_way(rows: pd.DataFrame, way: str, colour: str, share: bool) -> go.Bar:
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
