"""Transplants of facts as small maps, layer by layer, that share one scale."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from experiments.reversal_curse.measurements.carried import SOURCES, TARGETS
from interp.figures.drawing import theme
from interp.figures.drawing.numbers import texts

__all__ = ["CAPTION", "carried_maps"]

CAPTION = (
    "The question is asked the other way round than the sentence tells; numbers are nats above "
    "other names. Columns are where the vector is read and written, cells after which block. A "
    "fact would be green in the first row and in no other of facts told one way; a name that is "
    "carried along would be as green in the third."
)

# Nats; less of a change is not worth a strong colour.
_LEAST_SCALE = 2.0
_ROW, _TOP, _GAP = 150, 104, 0.32


def carried_maps(forward: xr.Dataset, reverse: xr.Dataset, both: xr.Dataset) -> go.Figure:
    """Draw what `carry` found: a row for each way, a map for each pair of places.

    Args:
        forward: of facts told forward.
        reverse: of facts told in reverse.
        both: of facts told both ways.
    """
    sides = (forward, reverse)
    rows = _rows([side for side in sides if side.sizes["example"]], both)
    columns = [(a, b) for b in range(len(TARGETS)) for a in range(len(SOURCES))]
    if not rows:
        return _empty(sides)
    limit = max(_LEAST_SCALE, *(float(np.nanmax(np.abs(values))) for _, values, _ in rows))
    layers = forward["source_layer"].values
    fig = make_subplots(
        rows=len(rows),
        cols=len(columns),
        horizontal_spacing=0.018,
        vertical_spacing=_GAP / max(1, len(rows) - 1) if len(rows) > 1 else 0,
        shared_yaxes=True,
        shared_xaxes=True,
    )
    labels = [str(int(layer)) for layer in layers]
    for row, (_, values, n) in enumerate(rows):
        for column, (source, target) in enumerate(columns):
            shown = values[source, target].T  # the written layer upwards, the read one to the right
            text = texts(shown, 1) if len(labels) <= 4 else None
            fig.add_trace(
                go.Heatmap(
                    z=shown,
                    x=labels,
                    y=labels,
                    zmin=-limit,
                    zmax=limit,
                    colorscale=theme.DIVERGING,
                    showscale=row == 0 and column == 0,
                    colorbar=theme.colour_bar("nats", thickness=10, len=1.0),
                    xgap=1,
                    ygap=1,
                    text=text,
                    texttemplate="%{text}" if text is not None else None,
                    textfont={"size": theme.SMALL},
                    customdata=np.full(shown.shape, n),
                    hovertemplate=(
                        f"{SOURCES[source]} after block %{{x}} into {TARGETS[target]} after block "
                        "%{y}<br><b>%{z:+.2f}</b> nats, %{customdata} facts<extra></extra>"
                    ),
                ),
                row=row + 1,
                col=column + 1,
            )
    theme.finish(fig, title=None, height=_TOP + 34 + _ROW * len(rows))
    fig.update_layout(margin={"t": _TOP, "b": 44, "l": 60, "r": 76})
    fig.update_xaxes(showgrid=False, type="category")
    fig.update_yaxes(showgrid=False, type="category")
    fig.update_xaxes(title_text="read after block", title_standoff=4, row=len(rows))
    fig.update_yaxes(title_text="written after", title_standoff=4, col=1)
    _titles(fig, rows, columns)
    return fig


Row = tuple[str, "np.ndarray[tuple[int, ...], np.dtype[np.float64]]", int]


def _rows(sides: Sequence[xr.Dataset], both: xr.Dataset) -> list[Row]:
    """Title, mean of each cell [source, target, source layer, target layer], and facts."""
    rows: list[Row] = []

    def add(title: str, parts: Sequence[xr.Dataset], way: str, *, gained: bool) -> None:
        values = np.concatenate([part[way].values for part in parts])
        if gained:
            before = np.concatenate([part["unpatched"].values for part in parts])
            values = values - before[:, None, None, None, None]
        rows.append((f"{title} ({len(values)} facts)", np.nanmean(values, axis=0), len(values)))

    if sides:
        add("Told one way: own vector, own question", sides, "own", gained=True)
        add("Told one way: another fact's vector", sides, "other", gained=True)
        add("Told one way: own vector, another's question", sides, "elsewhere", gained=False)
    if both.sizes["example"]:
        add("Told both ways: own vector, another's question", [both], "elsewhere", gained=False)
    return rows


def _titles(fig: go.Figure, rows: Sequence[Row], columns: Sequence[tuple[int, int]]) -> None:
    for column, (source, target) in enumerate(columns):
        axis = fig.layout["xaxis" if column == 0 else f"xaxis{column + 1}"]
        fig.add_annotation(
            text=f"<b>{SOURCES[source]}</b><br>into {TARGETS[target]}",
            x=float(np.mean(axis.domain)),
            y=1.0,
            xref="paper",
            yref="paper",
            xanchor="center",
            yshift=62,
            showarrow=False,
            font={"size": theme.SMALL, "color": theme.INK},
        )
    for row, (title, _, _) in enumerate(rows):
        number = row * len(columns) + 1
        axis = fig.layout["yaxis" if number == 1 else f"yaxis{number}"]
        fig.add_annotation(
            text=f"<b>{theme.escape(title)}</b>",
            x=0,
            y=float(axis.domain[1]),
            xref="paper",
            yref="paper",
            xanchor="left",
            yanchor="bottom",
            yshift=3,
            showarrow=False,
            font={"size": theme.SMALL, "color": theme.INK},
        )


def _empty(sides: Sequence[xr.Dataset]) -> go.Figure:
    reason = next((str(side.attrs["refused"]) for side in sides if side.attrs.get("refused")), "")
    fig = go.Figure()
    theme.finish(fig, title=None, height=160, plot_bgcolor=theme.EMPTY)
    fig.update_xaxes(visible=False)
    fig.update_yaxes(visible=False)
    theme.note(fig, f"Nothing was carried: {reason or 'no facts are known as told'}.", below=0)
    return fig
