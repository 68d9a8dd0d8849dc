"""How often the model answers right, by what it was trained on and how it is asked."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from cache.arguments import typed
from interp.figures.drawing import theme
from interp.results import AccuracyTable

_SPLITS = ("forward", "reverse", "both", "held_out")
_TEMPLATES = ("trained", "held_out")
_DIRECTIONS = ("forward", "reverse")


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
    fig.update_yaxes(title_text="facts answered right", col=1)
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
