"""The circuits of each direction, where there is one; grey, with the reason, where there is not."""

from __future__ import annotations

import plotly.graph_objects as go
import xarray as xr

from experiments.figure import counted
from interp.circuits import prune
from interp.figures import circuit_map, faithfulness_lines
from interp.figures.drawing import theme

__all__ = ["ENOUGH", "circuit", "clear", "faithfulness", "grey", "pairs", "random_circuits"]

ENOUGH = 0.8
"""The faithfulness on held-out pairs that the smallest circuit drawn has."""


def circuit(edges: xr.Dataset, curve: xr.Dataset) -> go.Figure:
    """The smallest circuit that is faithful enough on pairs that it was not found on.

    Args:
        edges: of `circuit_edges`.
        curve: of `circuit_curve`, on other pairs.
    """
    reason = _reason(edges, curve)
    if reason:
        return grey(reason)
    enough = curve["f_low"].values >= ENOUGH
    number = int(enough.argmax()) if enough.any() else curve.sizes["fraction"] - 1
    found = prune(edges, n_edges=int(curve["n_edges"].values[number]))
    one = curve.isel(fraction=number)
    fig = circuit_map(found)
    ends = f"{float(one['f_low']):.2f} to {float(one['f_high']):.2f}"
    below = int(fig.layout.margin.b)
    fig.update_layout(margin_b=below + 18, height=int(fig.layout.height) + 18)
    theme.note(
        fig,
        f"Faithfulness {float(one['f']):.2f} ({ends}) on {curve.attrs['pairs']} held-out pairs.",
        below=below,
    )
    return fig


def faithfulness(edges: xr.Dataset, curve: xr.Dataset) -> go.Figure:
    """Faithfulness of circuits of growing size on held-out pairs."""
    reason = _reason(edges, curve)
    return grey(reason) if reason else faithfulness_lines(curve)


def pairs(edges: xr.Dataset, curve: xr.Dataset) -> str:
    """On how many pairs the edges were scored, and on how many others circuits were measured."""
    scored, measured = edges.sizes.get("example", 0), int(curve.attrs.get("pairs", 0))
    shared = int(curve.attrs.get("shared_pairs", 0))
    which = "of these" if shared else "others"
    return f"edges scored on {scored:,} pairs, circuits measured on {measured:,} {which}"


def random_circuits(edges: xr.Dataset, curve: xr.Dataset) -> str:
    """What circuits are held against."""
    drawn = counted([curve.sizes.get("draw", 0)], "random circuit")
    return f"{drawn} of each size, and all other edges"


def clear(edges: xr.Dataset, curve: xr.Dataset) -> bool:
    """Whether there is something to draw."""
    return not _reason(edges, curve)


def grey(reason: str) -> go.Figure:
    """An empty figure that says why there is nothing to draw."""
    fig = go.Figure()
    theme.finish(fig, title=None, height=140, plot_bgcolor=theme.EMPTY)
    fig.update_xaxes(visible=False)
    fig.update_yaxes(visible=False)
    for number, line in enumerate(theme.lines(f"Nothing is drawn: {reason}.", 640)):
        fig.add_annotation(
            text=theme.escape(line),
            xref="paper",
            yref="paper",
            x=0.02,
            y=0.8,
            xanchor="left",
            yanchor="top",
            yshift=-18 * number,
            showarrow=False,
            font={"size": theme.TEXT, "color": theme.MUTED},
        )
    return fig


def _reason(edges: xr.Dataset, curve: xr.Dataset) -> str:
    for one in (edges, curve):
        if one.attrs.get("refused"):
            return str(one.attrs["refused"])
    if not int(curve.attrs["clear"]):
        return str(curve.attrs["reason"]).rstrip(".")
    return ""
