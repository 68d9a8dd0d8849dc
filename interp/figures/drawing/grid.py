"""A grid of cells, layer by column, that can be read at any size and clicked.

Clicks on a Plotly heatmap select nothing in Streamlit: only points do. So the heatmap draws the
colours, and invisible square markers over its cells carry the hover text and take the clicks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from interp.figures.drawing import marks, theme
from interp.figures.drawing.marks import Texts

WIDTH = 720  # px that a figure is laid out for, where nothing else is said
_LEFT, _RIGHT, _TOP = 64, 92, 44
_NARROWEST = 14  # px; a wider figure is drawn instead of narrower cells
_BAR = 100  # px of a colour bar beside few rows
_LONGEST = 16  # characters of a label


@dataclass(frozen=True)
class Grid:
    """What is drawn in a grid.

    Attributes:
        values: the colour of each cell [row, column]; NaN where there is no such cell.
        hover: HTML shown over each cell [row, column], escaped by the maker.
        texts: what stands in each cell [row, column], not escaped, from the longest version to
            the shortest; the first one that fits everywhere is taken.
        elide: whether a text that does not fit may be cut short; numbers may not.
        rows: what each row stands for, usually its layer, from the bottom up.
        row_labels, columns: labels of the axes, not escaped.
        row_title, column_title: titles of the axes.
        estimated: cells that are hatched [row, column], if any.
    """

    values: npt.NDArray[np.floating[Any]]
    hover: Texts
    texts: tuple[Texts, ...]
    elide: bool
    rows: tuple[int, ...]
    row_labels: tuple[str, ...]
    columns: tuple[str, ...]
    row_title: str
    column_title: str
    estimated: npt.NDArray[np.bool_] | None = None


def draw(
    grid: Grid,
    *,
    scale: Sequence[str],
    limits: tuple[float, float],
    bar: dict[str, Any],
    title: str | None,
    selected: tuple[int, int] | None,
    width: int,
    notes: Sequence[str] = (),
) -> go.Figure:
    """Draw a grid; `selected` is (row, column), `width` the px that it will have, and `notes`
    are lines of small print."""
    n_rows, n_columns = grid.values.shape
    left = _room_for_rows(grid.row_labels)
    cell_width = (width - left - _RIGHT) / max(1, n_columns)
    fixed = cell_width < _NARROWEST
    cell_width = max(cell_width, _NARROWEST)
    cell_height = _row_height(n_rows)
    labels, angle = theme.spaced(grid.columns, cell_width)
    gap = 1 if min(cell_width, cell_height) >= 12 else 0
    fig = go.Figure()
    fig.add_trace(
        go.Heatmap(
            z=grid.values,
            x=list(range(n_columns)),
            y=list(range(n_rows)),
            zmin=limits[0],
            zmax=limits[1],
            colorscale=[[i / (len(scale) - 1), c] for i, c in enumerate(scale)],
            colorbar=bar | {"lenmode": "pixels", "len": max(_BAR, n_rows * cell_height)},
            xgap=gap,
            ygap=gap,
            hoverinfo="skip",
            name="values",
        )
    )
    fig.add_trace(_targets(grid, min(cell_width, cell_height)))
    dark = marks.is_dark(grid.values, scale, limits)
    text = marks.fitting(grid.texts, cell_width, cell_height, elide=grid.elide)
    if text is not None:
        fig.add_traces(list(marks.texts(grid.values, text, dark)))
    if grid.estimated is not None:
        fig.add_traces(list(marks.hatching(grid.estimated, dark, cell_width, cell_height)))
    top = _TOP + 8 if title else 32
    below = _room_for_labels(labels, angle) + 34
    bottom = below + 18 * len(notes) + (4 if notes else 0)
    theme.finish(
        fig,
        title=title,
        height=top + n_rows * cell_height + bottom,
        plot_bgcolor=theme.EMPTY,
        margin={
            "l": left,
            "r": _RIGHT,
            "t": top,
            "b": bottom,
            "autoexpand": False,
        },
        hoverdistance=int(max(cell_width, cell_height)),
        clickmode="event+select",
        showlegend=False,
        # A redrawn figure keeps the reader's zoom as long as its cells are the same.
        uirevision=_identity(grid),
    )
    if fixed:
        fig.update_layout(width=int(cell_width * n_columns) + left + _RIGHT)
    every = max(1, round(16 / cell_height))
    ticks = list(range(0, n_rows, every))
    fig.update_yaxes(
        title_text=theme.escape(grid.row_title),
        tickvals=ticks,
        ticktext=[theme.escape(theme.shorten(grid.row_labels[i], _LONGEST)) for i in ticks],
        ticklabelstandoff=4,
        range=[-0.5, n_rows - 0.5],
        showgrid=False,
        automargin=False,
    )
    fig.update_xaxes(
        title_text=theme.escape(grid.column_title),
        tickvals=list(range(n_columns)),
        ticktext=labels,
        tickangle=angle,
        tickfont={"family": theme.MONO, "size": theme.SMALL},
        range=[-0.5, n_columns - 0.5],
        showgrid=False,
        automargin=False,
    )
    if selected is not None and selected[0] in grid.rows and 0 <= selected[1] < n_columns:
        marks.outline(fig, grid.rows.index(selected[0]), selected[1])
    for number, line in enumerate(notes):
        theme.note(fig, line, below=below - 4 + 18 * number)
    return fig


def _targets(grid: Grid, size: float) -> go.Scatter:
    """Invisible squares over all cells; customdata is [row, column]."""
    rows, columns = np.indices(grid.values.shape)
    return go.Scatter(
        x=columns.ravel(),
        y=rows.ravel(),
        mode="markers",
        marker={"symbol": "square", "size": max(4, int(size) - 2), "color": "rgba(0,0,0,0)"},
        # Selected and unselected points would otherwise be drawn in other opacities.
        selected={"marker": {"opacity": 0}},
        unselected={"marker": {"opacity": 0}},
        customdata=np.stack([np.asarray(grid.rows)[rows.ravel()], columns.ravel()], axis=1),
        text=grid.hover.ravel(),
        hovertemplate="%{text}<extra></extra>",
        name="cells",
    )


def _identity(grid: Grid) -> str:
    labels = "\n".join((*grid.columns, *grid.row_labels))
    return hashlib.sha256(labels.encode("utf-8", "replace")).hexdigest()[:16]


def _row_height(n_rows: int) -> int:
    """Rows shrink as they get more, so that a figure of 12 layers still fits on a laptop."""
    return int(min(34, max(12, 440 / max(1, n_rows))))


def _room_for_rows(labels: Sequence[str]) -> int:
    longest = min(_LONGEST, max((len(label) for label in labels), default=0))
    return max(_LEFT, 40 + int(longest * theme.SMALL * 0.62))


def _room_for_labels(labels: Sequence[str], angle: float) -> int:
    if angle == 0.0:
        return 20
    longest = min(_LONGEST, max((len(label) for label in labels), default=0))
    share = 1.0 if angle == -90.0 else 0.75
    return int(12 + longest * theme.SMALL * 0.62 * share)
