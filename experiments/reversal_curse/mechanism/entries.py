"""What the two directions of facts told both ways have in common, as bars with intervals."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from interp.figures.drawing import theme
from interp.stats import mean_interval

__all__ = ["CAPTION", "entry_bars"]

CAPTION = (
    "Left: edges that a fact's circuit shares with its own in another wording; if both directions "
    "were one entry, the third point would stand as high as the first two. Right: what a fact "
    "loses without neurons of its own; two entries show as two points off zero and two on it."
)
_NAMES = ("forward, two wordings", "reverse, two wordings", "forward and reverse")


def entry_bars(found: xr.Dataset) -> go.Figure:
    """Draw what `entries` found; grey, with the reason, where there is nothing to draw."""
    fig = make_subplots(rows=1, cols=2, horizontal_spacing=0.16)
    effect = found["effect"].values
    clear = len(effect) and all(mean_interval(one)[0] > 0 for one in effect.T)
    reason = str(found.attrs.get("refused", "")) or "the effect is not clear of zero"
    excess = (found["own"] - found["unrelated"]).values
    if len(excess):
        _points(fig, 1, excess, _NAMES, ("forward", "reverse", "both"))
    if clear:
        own = found["lost"].sel(whose="own") - found["lost"].sel(whose="another")
        units = own.transpose("example", "asked", "neurons").values / effect.mean(0)[None, :, None]
        columns = [(asked, of) for of in (0, 1) for asked in (0, 1)]
        ways = ("forward", "reverse")
        names = [f"{ways[of]} neurons,<br>asked {ways[asked]}" for asked, of in columns]
        values = np.stack([units[:, asked, of] for asked, of in columns], axis=1)
        _points(fig, 2, values, names, [ways[asked] for asked, _ in columns])
    theme.finish(fig, title=None, height=380, showlegend=False)
    fig.update_layout(margin={"t": 24, "b": 84, "l": 66, "r": 16})
    fig.update_yaxes(tickformat="+.0%", zeroline=True, zerolinecolor=theme.MUTED)
    fig.update_yaxes(title_text="edges in common, beyond unrelated facts", row=1, col=1)
    fig.update_yaxes(title_text="share of the effect lost, likewise", row=1, col=2)
    fig.update_xaxes(showgrid=False)
    if not clear:
        fig.update_layout(plot_bgcolor=theme.EMPTY)
        theme.note(fig, f"No share can be told: {reason}.", below=56)
    return fig


def _points(
    fig: go.Figure,
    column: int,
    values: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    names: tuple[str, ...] | list[str],
    colours: tuple[str, ...] | list[str],
) -> None:
    """The mean of each column with its interval, and every fact beside it."""
    rng = np.random.default_rng(0)
    for number, (name, colour) in enumerate(zip(names, colours, strict=True)):
        mine = values[:, number]
        low, high = mean_interval(mine)
        shade = theme.COLOURS[colour]
        fig.add_trace(
            go.Scatter(
                x=number + 0.22 + 0.1 * rng.uniform(-1, 1, len(mine)),
                y=mine,
                mode="markers",
                marker={"size": 4, "color": shade, "opacity": 0.35},
                hovertemplate="one fact: %{y:+.1%}<extra></extra>",
            ),
            row=1,
            col=column,
        )
        shown = np.isfinite(low)
        fig.add_trace(
            go.Scatter(
                x=[number - 0.12],
                y=[float(mine.mean())],
                mode="markers",
                marker={"size": 9, "color": shade},
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [high - mine.mean()] if shown else [0],
                    "arrayminus": [mine.mean() - low] if shown else [0],
                    "color": shade,
                    "thickness": 2,
                    "width": 5,
                },
                hovertemplate=(
                    f"{name.replace('<br>', ' ')}: <b>%{{y:+.1%}}</b>"
                    + (f" [{low:+.1%}, {high:+.1%}]" if shown else "")
                    + "<extra></extra>"
                ),
            ),
            row=1,
            col=column,
        )
    fig.update_xaxes(
        tickvals=list(range(len(names))),
        ticktext=[name.replace(", ", ",<br>", 1) if "<br>" not in name else name for name in names],
        range=[-0.5, len(names) - 0.3],
        row=1,
        col=column,
    )
