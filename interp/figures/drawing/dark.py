"""Figures for a dark page: what is light becomes dark, and small stays near to the background."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go

from interp.figures.drawing import marks, theme

PAPER, INK, MUTED, RULE, EMPTY = "#14171d", "#e8eaee", "#a9b0bd", "#363c48", "#31363f"

SEQUENTIAL = theme.SEQUENTIAL[::-1]
# Lightness rises linearly in OKLab from the middle to both ends; hues as in the light scale.
DIVERGING = (
    "#efbbff",
    "#e595fe",
    "#ce7fe5",
    "#b668cd",
    "#9f52b6",
    "#87409b",
    "#663b74",
    "#48344e",
    "#292a2c",
    "#264433",
    "#0f5e3b",
    "#027749",
    "#088f59",
    "#04a869",
    "#36bf7e",
    "#53d694",
    "#6eeeab",
)

_COLOURS = {
    **dict(zip(theme.SEQUENTIAL, SEQUENTIAL, strict=True)),
    **dict(zip(theme.DIVERGING, DIVERGING, strict=True)),
    theme.INK: INK,
    theme.MUTED: MUTED,
    theme.RULE: RULE,
    theme.EMPTY: EMPTY,
    "white": PAPER,
    "#fff": PAPER,
    "#ffffff": PAPER,
    "black": "#f4f5f7",
    "#000000": "#f4f5f7",
    "#f5f6f8": "#1d212a",
    "#b9bec8": "#5f6776",
    "#c9ccd3": "#5f6776",
}
_HATCHING = {
    "rgba(255,255,255,0.45)": "rgba(20,23,29,0.5)",
    "rgba(31,36,48,0.3)": "rgba(232,234,238,0.35)",
}
_RGBA = re.compile(r"rgba\((\d+), ?(\d+), ?(\d+), ?([0-9.]+)\)\Z")
_FAINT = 1.6  # a tint of so many times the opacity looks as strong on a dark page


def darkened(fig: go.Figure) -> go.Figure:
    """A copy of a figure for a dark page.

    Colours of the theme, also those that were given to single marks, are replaced by others of
    the same meaning; those that the theme does not know stay. On the diverging scale the middle
    stays next to the background and on the sequential one its lower end, so that what is near to
    zero is as quiet as on a light page.

    Args:
        fig: any figure; it is not changed.
    """
    traces = [trace.to_plotly_json() for trace in fig.data]
    layout = {"template": theme.TEMPLATE.to_plotly_json(), **fig.layout.to_plotly_json()}
    return go.Figure({"data": _with_texts(_swapped(traces)), "layout": _swapped(layout)})


def swapped(colour: str) -> str:
    """What stands for a colour of the theme on a dark page; one that it does not know stays."""
    known = _HATCHING.get(colour) or _COLOURS.get(colour.lower())
    if known is not None:
        return known
    parts = _RGBA.match(colour)
    if parts is None:
        return colour
    red, green, blue = (int(part) for part in parts.groups()[:3])
    other = swapped(f"#{red:02x}{green:02x}{blue:02x}")
    red, green, blue = (int(other[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{min(1.0, _FAINT * float(parts[4])):g})"


def _swapped(value: Any, key: str = "") -> Any:
    """The same with other colours: only what stands under a name with "color" in it is one."""
    if isinstance(value, Mapping):
        return {name: _swapped(inside, str(name)) for name, inside in value.items()}
    if "color" not in key:
        some = isinstance(value, list | tuple) and any(isinstance(one, Mapping) for one in value)
        return [_swapped(one) for one in value] if some else value
    if isinstance(value, str):
        return swapped(value)
    if isinstance(value, np.ndarray) and value.dtype.kind in "OU":
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_swapped(one, key) for one in value]
    return value


def _with_texts(traces: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Texts over cells, dark on those that are light now (see `marks.texts`)."""
    cells = next((one for one in traces if one.get("name") == "values" and "zmin" in one), None)
    written = [one for one in traces if one.get("name") == "text" and one["type"] == "heatmap"]
    if cells is None or not written:
        return traces
    values = np.asarray(cells["z"], float)
    text = np.full(values.shape, "", dtype=object)
    for one in written:
        here = np.asarray(one["text"], dtype=object)
        text = np.where(here != "", here, text)
    scale = [colour for _, colour in cells["colorscale"]]
    dark = marks.is_dark(values, scale, (float(cells["zmin"]), float(cells["zmax"])))
    # Above what was there before them, and below what was above: frames and hatching.
    place = traces.index(written[0])
    rest = [one for one in traces if not any(one is other for other in written)]
    new = [one.to_plotly_json() for one in marks.texts(values, text, dark)]
    return [*rest[:place], *new, *rest[place:]]
