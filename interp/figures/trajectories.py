"""How a prediction comes about from layer to layer: its distance from the last one, its rank."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import xarray as xr

from cache.arguments import typed
from interp.errors import PromptError
from interp.figures.drawing import theme
from interp.figures.drawing.bands import band, mean_intervals_of, prompts_of
from interp.figures.drawing.numbers import plain
from interp.figures.ranks import depth_axis, rank_axis, rank_scale
from interp.results import AnswerLens

_TITLES = {
    "kl": "KL to the last layer (nats)",
    "entropy": "entropy (nats)",
    "next_logprob": "log-probability of the next token (nats)",
    "answer_logprob": "log-probability of the answer (nats)",
    "final_rank": "rank of the final prediction (1: first choice)",
    "answer_rank": "rank of the answer (1: first choice)",
}


@typed
def trajectory_lines(
    lens_by_name: Mapping[str, AnswerLens],
    quantity: str = "kl",
    *,
    title: str | None = None,
) -> go.Figure:
    """Draw one quantity of `logit_lens` against the layer, a line for each lens.

    Every prompt counts once: its positions are averaged first. The line is the mean over prompts
    and the band its 95% interval (see `mean_interval`; none with few prompts). Ranks are averaged
    and drawn on a logarithmic axis, rank 1 (0 in the results) on top.

    Args:
        lens_by_name: results of `logit_lens`, by what to call each line, such as the logit lens
            and a tuned lens of the same prompts.
        quantity: "kl", "entropy", "next_logprob", "answer_logprob", "final_rank" or "answer_rank".
        title: of the figure.

    Raises:
        PromptError: there is no such quantity, or several answers are followed.
    """
    if quantity not in _TITLES:
        raise PromptError(f"Unknown quantity '{quantity}'; choose one of {', '.join(_TITLES)}.")
    ranked = quantity.endswith("rank")
    fig = go.Figure()
    every: set[int] = set()
    worst = float(rank_scale(1))
    for number, (name, lens) in enumerate(lens_by_name.items()):
        layers = [int(layer) for layer in lens["layer"].values]
        every.update(layers)
        values, prompts = _by_prompt(name, lens, quantity)
        mean = np.nanmean(values, axis=0)
        colour = theme.colour(name, number)
        low, high = mean_intervals_of(values, prompts)
        if np.isfinite(high).any():
            fig.add_trace(band(layers, low, high, colour, f"{name} 95%"))
            worst = max(worst, float(np.nanmax(high))) if ranked else worst
        worst = max(worst, float(mean.max())) if ranked else worst
        fig.add_trace(_line(layers, mean, len(values), quantity, colour, name))
    theme.finish(fig, title=title, height=340, hovermode="closest")
    fig.update_layout(margin_t=72 if title else 40)
    if ranked:
        rank_axis(fig, 10**worst - 1)
    elif quantity in ("kl", "entropy"):
        fig.update_yaxes(rangemode="tozero")
    fig.update_yaxes(title_text=_TITLES[quantity])
    depth_axis(fig, sorted(every) or [0])
    return fig


def _by_prompt(
    name: str, lens: xr.Dataset, quantity: str
) -> tuple[npt.NDArray[np.float64], npt.NDArray[Any]]:
    """The mean over each prompt's positions [example, layer], of ranks that of log10(1 + rank); and
    the prompts."""
    if quantity not in lens:
        raise PromptError(f"The lens '{name}' has no '{quantity}'; pass answers to logit_lens.")
    found = lens[quantity]
    if "candidate" in found.dims:
        raise PromptError(
            f"The lens '{name}' follows several answers; choose one: lens.isel(candidate=0)."
        )
    if quantity.endswith("rank"):
        found = xr.DataArray(rank_scale(found.where(found >= 0)), dims=found.dims)
    averaged = found.mean([dim for dim in found.dims if dim not in ("example", "layer")])
    values = averaged.transpose("example", "layer").values.astype(np.float64)
    known = ~np.isnan(values).any(axis=1)
    if not known.any():
        raise PromptError(f"No prompt of the lens '{name}' has a '{quantity}' at these positions.")
    return values[known], np.asarray(prompts_of(lens))[known]


def _line(
    layers: list[int],
    mean: npt.NDArray[np.float64],
    n: int,
    quantity: str,
    colour: str,
    name: str,
) -> go.Scatter:
    label = theme.escape(theme.words(name))
    # Ranks are counted from 1 for people: 10**mean is the (geometric) mean of 1 + rank.
    shown = 10**mean if quantity.endswith("rank") else mean
    over = f" over {n} prompts" if n > 1 else ""
    return go.Scatter(
        x=layers,
        y=mean,
        mode="lines+markers",
        line={"color": colour, "width": 2.5},
        marker={"size": 8, "color": colour},
        text=[
            f"<b>{label}</b>, {layer} blocks passed<br>{_TITLES[quantity]}: {plain(value)}{over}"
            for layer, value in zip(layers, shown.tolist(), strict=True)
        ],
        hovertemplate="%{text}<extra></extra>",
        name=label,
    )
