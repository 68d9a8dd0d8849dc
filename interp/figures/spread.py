"""How far the matrices of a Jacobian lens are from the identity, and how much of that is noise."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from cache.arguments import typed
from interp.errors import PromptError
from interp.figures.drawing import theme
from interp.figures.drawing.bands import band
from interp.figures.drawing.numbers import plain
from interp.figures.ranks import depth_axis
from interp.results import Spread

_AXIS = "distance from the identity (share of its length)"


@typed
def spread_lines(spread_by_name: Mapping[str, Spread], *, title: str | None = None) -> go.Figure:
    """Draw the distance of each layer's mean Jacobian from the identity, which is the logit lens.

    The tinted area reaches from 0 to the distance that the error of the mean alone would make (see
    `JacobianLens.spread`): a line near to it is not known to be more than noise. There is none
    where the lens does not tell.

    Args:
        spread_by_name: what `lens.spread()` returned, by what to call each line.
        title: of the figure.

    Raises:
        PromptError: there is nothing to draw.
    """
    if not spread_by_name:
        raise PromptError("There is no lens to draw; give one or more.")
    fig = go.Figure()
    every: set[int] = set()
    for number, (name, spread) in enumerate(spread_by_name.items()):
        layers = [int(layer) for layer in spread["layer"].values]
        every.update(layers)
        colour, label = theme.colour(name, number), theme.escape(theme.words(name))
        distance = spread["distance"].values
        noise = spread["noise"].values if "noise" in spread else np.full(len(layers), np.nan)
        if np.isfinite(noise).any():
            shade = band(layers, 0 * noise, noise, colour, f"{name}, noise alone")
            fig.add_trace(shade.update(showlegend=True))
        told = [f"<br>noise {plain(n)}" if np.isfinite(n) else "" for n in noise.tolist()]
        fig.add_trace(
            go.Scatter(
                x=layers,
                y=distance,
                mode="lines+markers",
                line={"color": colour, "width": 2.5},
                marker={"size": 8, "color": colour},
                text=[
                    f"<b>{label}</b>, {layer} blocks passed<br>distance {plain(value)}{more}"
                    for layer, value, more in zip(layers, distance.tolist(), told, strict=True)
                ],
                hovertemplate="%{text}<extra></extra>",
                name=label,
            )
        )
    theme.finish(fig, title=title, height=340, hovermode="closest")
    fig.update_layout(margin_t=72 if title else 40)
    fig.update_yaxes(rangemode="tozero", title_text=_AXIS)
    depth_axis(fig, sorted(every))
    return fig
