"""What is drawn over the cells of a grid: numbers, hatching, frames, and flags."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from interp.figures.drawing import theme

_ROOM_FOR_THREE = 20  # px; with more than one stroke, smaller squares would look grey
_ROOM_TO_ELIDE = 30  # px; what is left of a word in narrower cells says nothing

Values = npt.NDArray[np.floating[Any]]
Texts = npt.NDArray[np.object_]
Mask = npt.NDArray[np.bool_]


def fitting(
    versions: Sequence[Texts], cell_width: float, cell_height: float, *, elide: bool
) -> Texts | None:
    """The longest version of the texts that fits into all cells, escaped; None where none does,
    and texts may not be cut short."""
    limit = theme.characters(cell_width - 6)
    if cell_height < theme.SMALL + 3 or limit < 2:
        return None
    for text in versions:
        if max((len(str(t)) for t in text.ravel()), default=0) <= limit:
            break
    else:
        if not elide or cell_width < _ROOM_TO_ELIDE:
            return None
    short = np.empty(text.shape, dtype=object)
    for place, one in np.ndenumerate(text):
        short[place] = theme.escape(theme.shorten(str(one), limit))
    return short


def texts(values: Values, text: Texts, dark: Mask) -> Iterator[go.Heatmap]:
    """Text over the cells: black on light ones, white on dark ones, so that the contrast is at
    least 4.5 to 1 on every colour.

    Plotly's own choice is one of two greys by brightness, hard to read in the middle of a scale;
    and a heatmap has one font colour. So each colour is a transparent heatmap of its own, empty
    where the other one writes.
    """
    for colour, here in (("white", dark), ("black", ~dark & np.isfinite(values))):
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


def is_dark(values: Values, scale: Sequence[str], limits: tuple[float, float]) -> Mask:
    """Where white text has a higher contrast (WCAG 2.2) than black against the cell's colour."""
    low, high = limits
    place = np.clip((np.nan_to_num(values, nan=low) - low) / (high - low), 0, 1)
    stops = np.array([theme.luminance(c) for c in scale])
    cell = np.interp(place, np.linspace(0, 1, len(scale)), stops)
    dark = (1.05 / (cell + 0.05)) > ((cell + 0.05) / 0.05)
    return np.asarray(dark & np.isfinite(values))


def hatching(
    cells: Mask, dark: Mask, cell_width: float, cell_height: float
) -> Iterator[go.Scatter]:
    """Diagonal strokes over cells [row, column], that go on from one cell to the next.

    Heatmaps have no patterns. All strokes of one colour are one broken line, so that a thousand
    cells are drawn as fast as one.
    """
    strokes = _strokes(cell_width, cell_height)
    for colour, here in (
        ("rgba(255,255,255,0.45)", cells & dark),
        ("rgba(31,36,48,0.3)", cells & ~dark),
    ):
        if here.any():
            rows, columns = np.nonzero(here)
            points = np.stack([columns, rows], -1)[:, None, None] + strokes
            yield go.Scatter(
                x=np.round(points[..., 0].ravel(), 3),
                y=np.round(points[..., 1].ravel(), 3),
                mode="lines",
                line={"color": colour, "width": 1},
                hoverinfo="skip",
                name="estimated",
            )


def _strokes(cell_width: float, cell_height: float) -> npt.NDArray[np.float64]:
    """The strokes in a cell around (0, 0) [stroke, end, xy], each with a gap as its third end.

    The cell is cut into near squares, and each gets one diagonal, and two halves beside it where
    they would not run together.
    """
    across = max(1, round(cell_width / cell_height))
    up = max(1, round(cell_height / cell_width))
    ends = [((0.0, 0.0), (1.0, 1.0))]
    if min(cell_width, cell_height) >= _ROOM_FOR_THREE:
        ends += [((0.0, 0.5), (0.5, 1.0)), ((0.5, 0.0), (1.0, 0.5))]
    found = [
        [((i + x) / across - 0.5, (j + y) / up - 0.5) for x, y in stroke] + [(np.nan, np.nan)]
        for i in range(across)
        for j in range(up)
        for stroke in ends
    ]
    return np.array(found)


def outline(fig: go.Figure, row: int, column: int) -> None:
    """A frame around a cell that shows on every colour."""
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
