"""A grid of cells, layer by column, that can be read at any size and clicked.

Clicks on a Plotly heatmap select nothing in Streamlit: only points do. So the heatmap draws the
colours, and invisible square markers over its cells carry the hover text and take the clicks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from interp.figures import theme

WIDTH = 720  # px that a figure is laid out for, where nothing else is said
_LEFT, _RIGHT, _TOP = 64, 92, 44
_NARROWEST = 14  # px; a wider figure is drawn instead of narrower cells
_ROOM_TO_ELIDE = 30  # px; what is left of a word in narrower cells says nothing

Texts = npt.NDArray[np.object_]


@dataclass(frozen=True)
class Grid:
    """What is drawn in a grid.

    Attributes:
        values: the colour of each cell [row, column]; NaN where there is no such cell.
        hover: HTML shown over each cell [row, column], escaped by the maker.
        texts: what stands in each cell [row, column], not escaped, from the longest version to
            the shortest; the first one that fits everywhere is taken.
        elide: whether a text that does not fit may be cut short; numbers may not.
        rows: the layer of each row, from the bottom up.
        row_labels, columns: labels of the axes, not escaped.
        row_title, column_title: titles of the axes.
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


def draw(
    grid: Grid,
    *,
    scale: Sequence[str],
    limits: tuple[float, float],
    bar: dict[str, Any],
    title: str | None,
    selected: tuple[int, int] | None,
    width: int,
    small_print: str | None = None,
) -> go.Figure:
    """Draw a grid; `selected` is (layer, column), `width` the px that it will have."""
    n_rows, n_columns = grid.values.shape
    cell_width = (width - _LEFT - _RIGHT) / max(1, n_columns)
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
            colorbar=bar,
            xgap=gap,
            ygap=gap,
            hoverinfo="skip",
            name="values",
        )
    )
    fig.add_trace(_targets(grid, min(cell_width, cell_height)))
    text = _fitting(grid, cell_width, cell_height)
    if text is not None:
        fig.add_traces(list(_cell_texts(grid, text, scale, limits)))
    top = _TOP + 8 if title else 32
    below = _room_for_labels(labels, angle) + 34
    theme.finish(
        fig,
        title=title,
        height=top + n_rows * cell_height + below + (22 if small_print else 0),
        plot_bgcolor=theme.EMPTY,
        margin={
            "l": _LEFT,
            "r": _RIGHT,
            "t": top,
            "b": below + (22 if small_print else 0),
            "autoexpand": False,
        },
        hoverdistance=int(max(cell_width, cell_height)),
        clickmode="event+select",
        showlegend=False,
        # A redrawn figure keeps the reader's zoom as long as its cells are the same.
        uirevision=_identity(grid),
    )
    if fixed:
        fig.update_layout(width=int(cell_width * n_columns) + _LEFT + _RIGHT)
    every = max(1, round(16 / cell_height))
    ticks = list(range(0, n_rows, every))
    fig.update_yaxes(
        title_text=theme.escape(grid.row_title),
        tickvals=ticks,
        ticktext=[theme.escape(grid.row_labels[i]) for i in ticks],
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
        _outline(fig, grid.rows.index(selected[0]), selected[1])
    if small_print:
        theme.note(fig, small_print, below=below - 4)
    return fig


def mark(fig: go.Figure, cells: Sequence[tuple[int, int]]) -> None:
    """A small white triangle in the corner of cells (row, column) that lie beyond the colours."""
    fig.add_trace(
        go.Scatter(
            x=[column + 0.4 for _, column in cells],
            y=[row + 0.28 for row, _ in cells],
            mode="markers",
            marker={"symbol": "triangle-up", "size": 5, "color": "white"},
            hoverinfo="skip",
        )
    )


def _fitting(grid: Grid, cell_width: float, cell_height: float) -> Texts | None:
    """The longest texts that fit into the cells, escaped; None where none do."""
    limit = theme.characters(cell_width - 6)
    if cell_height < theme.SMALL + 3 or limit < 2:
        return None
    for text in grid.texts:
        if max((len(str(t)) for t in text.ravel()), default=0) <= limit:
            break
    else:
        if not grid.elide or cell_width < _ROOM_TO_ELIDE:
            return None
    short = np.empty(text.shape, dtype=object)
    for place, one in np.ndenumerate(text):
        short[place] = theme.escape(theme.shorten(str(one), limit))
    return short


def _cell_texts(
    grid: Grid, text: Texts, scale: Sequence[str], limits: tuple[float, float]
) -> Iterator[go.Heatmap]:
    """Text over the cells: dark on light ones, white on dark ones.

    Plotly's own choice is one of two greys by brightness, hard to read in the middle of a scale;
    and a heatmap has one font colour. So each colour is a transparent heatmap of its own, empty
    where the other one writes.
    """
    white = _is_dark(grid.values, scale, limits)
    for colour, here in (("white", white), (theme.INK, ~white & np.isfinite(grid.values))):
        if here.any():
            yield go.Heatmap(
                z=np.where(here, 0.0, np.nan),
                colorscale=[[0, "rgba(0,0,0,0)"], [1, "rgba(0,0,0,0)"]],
                showscale=False,
                text=[
                    [t if i else "" for t, i in line]
                    for line in (zip(*row, strict=True) for row in zip(text, here, strict=True))
                ],
                texttemplate="%{text}",
                textfont={"family": theme.MONO, "size": theme.SMALL, "color": colour},
                hoverinfo="skip",
                name="text",
            )


def _is_dark(
    values: npt.NDArray[np.floating[Any]], scale: Sequence[str], limits: tuple[float, float]
) -> npt.NDArray[np.bool_]:
    """Where white text has the higher contrast (WCAG 2.2) against the cell's colour."""
    low, high = limits
    place = np.clip((np.nan_to_num(values, nan=low) - low) / (high - low), 0, 1)
    stops = np.array([theme.luminance(c) for c in scale])
    cell = np.interp(place, np.linspace(0, 1, len(scale)), stops)
    dark = (1.05 / (cell + 0.05)) > ((cell + 0.05) / (theme.luminance(theme.INK) + 0.05))
    return np.asarray(dark & np.isfinite(values))


def _targets(grid: Grid, size: float) -> go.Scatter:
    """Invisible squares over all cells; customdata is [layer, column]."""
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


def _outline(fig: go.Figure, row: int, column: int) -> None:
    for colour, line in (("white", 5), (theme.INK, 2.5)):
        fig.add_shape(
            type="rect",
            x0=column - 0.5,
            x1=column + 0.5,
            y0=row - 0.5,
            y1=row + 0.5,
            line={"color": colour, "width": line},
            fillcolor="rgba(0,0,0,0)",
        )


def _identity(grid: Grid) -> str:
    labels = "\n".join((*grid.columns, *grid.row_labels))
    return hashlib.sha256(labels.encode("utf-8", "replace")).hexdigest()[:16]


def _row_height(n_rows: int) -> int:
    """Rows shrink as they get more, so that a figure of 12 layers still fits on a laptop."""
    return int(min(34, max(12, 440 / max(1, n_rows))))


def _room_for_labels(labels: Sequence[str], angle: float) -> int:
    if angle == 0.0:
        return 20
    longest = min(16, max((len(label) for label in labels), default=0))
    share = 1.0 if angle == -90.0 else 0.75
    return int(12 + longest * theme.SMALL * 0.62 * share)
