"""Dose–response curves: a direction's effect, and that of random ones of the same length."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from cache.arguments import typed
from interp.errors import DirectionError
from interp.figures.drawing import theme
from interp.figures.drawing.bands import band, interval_text, mean_intervals_of, prompts_of
from interp.figures.drawing.numbers import plain
from interp.results import DoseResponse
from interp.stats import n_independent

_OWN, _CONTROL = theme.OKABE_ITO[0], theme.MUTED


@typed
def dose_lines(result: DoseResponse, *, title: str | None = None) -> go.Figure:
    """Draw the mean over examples against the dose.

    The band around the line is the 95% interval of the mean over examples (see `mean_interval`;
    none with few of them); the grey one holds the middle 95% of the random directions' means. The
    dotted line is the model unchanged.

    Args:
        result: of `dose_response`.
        title: of the figure.

    Raises:
        DirectionError: it is no such result.
    """
    if not {"value", "control", "plain"} <= set(result):
        raise DirectionError("This is no dose response; draw what dose_response returned.")
    result = result.sortby("dose")
    doses = result["dose"].values.astype(float)
    value = result["value"].transpose("example", "dose").values.astype(float)
    unit = str(result.attrs.get("unit", ""))
    fig = go.Figure()
    draws = result["control"].mean("example").transpose("dose", "draw").values.astype(float)
    if draws.shape[1]:
        low, high = np.quantile(draws, [0.025, 0.975], axis=1)
        fig.add_trace(band(doses, low, high, _CONTROL, "random directions, middle 95%"))
        name = f"{draws.shape[1]} random directions"
        spread = [f"middle 95%: {plain(a)} to {plain(b)}" for a, b in zip(low, high, strict=True)]
        fig.add_trace(_line(doses, draws.mean(1), _CONTROL, name, unit, spread))
    prompts = np.asarray(prompts_of(result))
    low, high = mean_intervals_of(value, prompts)
    if np.isfinite(low).any():
        fig.add_trace(band(doses, low, high, _OWN, "direction, 95%"))
    counts = [n_independent(at.sum(), prompts[at]) for at in np.isfinite(value).T]
    spread = [interval_text(*each, "examples") for each in zip(low, high, counts, strict=True)]
    fig.add_trace(_line(doses, value.mean(0), _OWN, "direction", unit, spread))
    fig.add_hline(
        y=float(result["plain"].mean()), line={"color": theme.INK, "width": 1, "dash": "dot"}
    )
    theme.finish(fig, title=title, height=340)
    fig.update_layout(margin_t=72 if title else 40)
    measure = theme.words(str(result.attrs.get("metric", "metric")))
    fig.update_yaxes(title_text=theme.escape(f"{measure} ({unit})" if unit else measure))
    what = "coordinate" if result.attrs.get("kind") == "clamp" else "dose"
    fig.update_xaxes(title_text=what, showgrid=False)
    return fig


def _line(
    doses: npt.NDArray[np.float64],
    means: npt.NDArray[np.float64],
    colour: str,
    name: str,
    unit: str,
    spread: list[str],
) -> go.Scatter:
    return go.Scatter(
        x=doses,
        y=means,
        mode="lines+markers",
        line={"color": colour, "width": 2.5},
        marker={"size": 7, "color": colour},
        text=[
            f"<b>{name}</b>, {plain(float(dose))}<br>{plain(float(mean))} {theme.escape(unit)}"
            f"<br>{interval}"
            for dose, mean, interval in zip(doses, means, spread, strict=True)
        ],
        hovertemplate="%{text}<extra></extra>",
        name=name,
    )
