"""The figure and the table of what each attack moves."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from experiments.numbers import percent
from experiments.phenomena.estimates import difference, estimate
from interp.figures.drawing import theme

__all__ = ["attack_dots", "table"]

_COLOURS = ("#56B4E9", "#0072B2", "#000000", "#CC79A7", "#E69F00", "#009E73")
_ROW, _FILLED = 64, 0.72
_REACH = 0.12
"""Of the axis, beyond what is drawn."""


def attack_dots(attacks: xr.Dataset) -> go.Figure:
    """Shifts along both variables by attack and layer, with their intervals; grey is what means
    nothing, a dot for each draw.

    Args:
        attacks: what `measure` returns, of one organism or several put one behind the other.
    """
    fig = make_subplots(
        cols=2,
        shared_yaxes=True,
        horizontal_spacing=0.04,
        subplot_titles=[f"along <i>{name}</i>" for name in attacks["variable"].values],
    )
    layers = attacks["layer"].values
    colours = [_COLOURS[number % len(_COLOURS)] for number in range(len(layers))]
    drawn = []
    for column, variable in enumerate(attacks["variable"].values, 1):
        one = attacks.sel(variable=variable)
        for number, layer in enumerate(layers):
            rows = _rows(one.sel(layer=layer), attacks.sizes["attack"], number, len(layers))
            random = one["random"].sel(layer=layer)
            grey_x = random.values.ravel()
            grey_y = np.repeat(rows["y"].to_numpy(), random.sizes["draw"])
            fig.add_trace(
                go.Scatter(
                    x=grey_x,
                    y=grey_y,
                    mode="markers",
                    marker={"size": 4, "color": theme.MUTED, "opacity": 0.4},
                    name="the same with what means nothing, by draw",
                    legendgroup="random",
                    showlegend=column == 1 and number == 0,
                    hoverinfo="skip",
                ),
                col=column,
                row=1,
            )
            fig.add_trace(
                go.Scatter(
                    x=rows["mean"],
                    y=rows["y"],
                    mode="markers",
                    marker={
                        "size": 9,
                        "color": [
                            "white" if forced else colours[number]
                            for forced in one["forced"].values
                        ],
                        "line": {"color": colours[number], "width": 2},
                    },
                    error_x={
                        "type": "data",
                        "symmetric": False,
                        "array": rows["high"] - rows["mean"],
                        "arrayminus": rows["mean"] - rows["low"],
                        "color": colours[number],
                        "thickness": 2,
                        "width": 0,
                    },
                    name=f"after layer {layer + 1}",
                    legendgroup=f"layer {layer}",
                    showlegend=column == 1,
                    text=[
                        f"{theme.escape(name)}, after layer {layer + 1}<br>{mean:.2f} "
                        f"[{low:.2f}, {high:.2f}]"
                        for name, mean, low, high in zip(
                            one["attack"].values,
                            rows["mean"],
                            rows["low"],
                            rows["high"],
                            strict=True,
                        )
                    ],
                    hovertemplate="%{text}<extra></extra>",
                ),
                col=column,
                row=1,
            )
            drawn.append(np.concatenate([grey_x, rows["low"], rows["high"], [-1.0, 1.0]]))
    every = np.concatenate(drawn)
    low, high = float(np.nanmin(every)), float(np.nanmax(every))
    names = [_label(attacks, number) for number in range(attacks.sizes["attack"])]
    theme.finish(fig, title=None, height=_ROW * len(names) + 130)
    for at in (-1.0, 0.0, 1.0):
        dash = "solid" if at == 0 else "dot"
        fig.add_vline(x=at, line={"color": theme.MUTED, "width": 1, "dash": dash}, layer="below")
    for number in range(1, len(names)):
        fig.add_hline(y=number - 0.5, line={"color": theme.RULE, "width": 1}, layer="below")
    fig.update_yaxes(
        tickvals=list(range(len(names))),
        ticktext=names[::-1],
        range=[-0.5, len(names) - 0.5],
        showgrid=False,
    )
    pad = _REACH * (high - low)
    fig.update_xaxes(
        title_text="shift (1: distance between the classes' means)",
        range=[low - pad, high + pad],
    )
    fig.update_layout(margin_t=80, legend_y=1.0 + 40 / (_ROW * len(names)))
    return fig


def _rows(one: xr.Dataset, n: int, number: int, layers: int) -> pd.DataFrame:
    """Mean and interval of each attack, and where it is drawn."""
    found = [estimate([values]) for values in one["shift"].values]
    offset = _FILLED * ((layers - 1) / 2 - number) / layers
    return pd.DataFrame(
        {
            "y": [n - 1 - row + offset for row in range(n)],
            "mean": [one.mean for one in found],
            "low": [one.low for one in found],
            "high": [one.high for one in found],
        }
    )


def _label(attacks: xr.Dataset, number: int) -> str:
    """An attack with the share that is declined before and under it."""
    one = attacks.isel(attack=number)
    before, after = (float(one[name].mean()) for name in ("declined_plain", "declined"))
    lines = theme.escape(str(one["attack"].values)).replace(": ", ":<br>")
    told = f"{percent(before)} → {percent(after)} declined"
    return f"{lines}<br><span style='color:{theme.MUTED}'>{told}</span>"


def table(attacks: xr.Dataset) -> pd.DataFrame:
    """A row for each attack, variable and layer: the shift with its interval, how far apart harmful
    and harmless requests lie under the attack, what means nothing does, and the shares declined."""
    rows = []
    for number, name in enumerate(attacks["attack"].values):
        one = attacks.isel(attack=number)
        for variable in attacks["variable"].values:
            for layer in attacks["layer"].values:
                cell = one.sel(variable=variable, layer=layer)
                found = estimate([cell["shift"].values])
                apart = difference([cell["harmful_under"].values], [cell["harmless_under"].values])
                rows.append(
                    {
                        "attack": str(name),
                        "variable": str(variable),
                        "layer": int(layer) + 1,
                        "shift": found.mean,
                        "low": found.low,
                        "high": found.high,
                        "n": found.n,
                        **_ends(cell["random"], "random"),
                        "apart": apart.mean,
                        "apart_low": apart.low,
                        "apart_high": apart.high,
                        **_ends(cell["apart_random"], "apart_random"),
                        "by_construction": bool(cell["forced"]),
                        "control": str(one["control"].values),
                        "declined_before": float(one["declined_plain"].mean()),
                        "declined": float(one["declined"].mean()),
                        **_ends(one["declined_random"], "declined_random"),
                    }
                )
    return pd.DataFrame(rows)


def _ends(draws: xr.DataArray, name: str) -> dict[str, float]:
    """The least and the most of all draws."""
    values = draws.values[np.isfinite(draws.values)]
    ends = (values.min(), values.max()) if values.size else (np.nan, np.nan)
    return {f"{name}_least": float(ends[0]), f"{name}_most": float(ends[1])}
