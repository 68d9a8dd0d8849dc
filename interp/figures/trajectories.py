"""How a prediction comes about: from layer to layer, and from step to step of a training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from cache.arguments import typed
from interp.errors import PromptError
from interp.figures.drawing import theme
from interp.figures.drawing.bands import band, lay_behind, mean_intervals_of, prompts_of
from interp.figures.drawing.numbers import plain, rank
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


@typed
def step_lines(
    table: pd.DataFrame,
    value: str,
    *,
    by: str,
    interval: tuple[str, str] | None = None,
    beside: pd.DataFrame | None = None,
    scale: Literal["number", "share", "rank"] = "number",
    chance: float | None = None,
    label: str = "",
    title: str | None = None,
) -> go.Figure:
    """Draw a number against the step of a training, a line for each way of asking.

    Args:
        table: a row for each step (its column `step`) and way.
        value: the column that is drawn.
        by: the column that names the lines.
        interval: the columns with the ends of its interval; where these are NaN there is no band.
        beside: rows of other trainings of the same kind, told apart by their column `seed`, which
            are drawn as thin lines.
        scale: "share" is between 0 and 1, "rank" counts from 0 and is drawn on a logarithmic axis
            with rank 1 on top.
        chance: what guessing gives, as a dotted line.
        label: of the vertical axis; the column's name if left out.
        title: of the figure.

    Raises:
        PromptError: a column is missing, or the table is empty.
    """
    ends = interval or ()
    for column in ("step", value, by, *ends):
        if column not in table:
            raise PromptError(
                f"The table has no column '{column}'; it has {', '.join(map(str, table.columns))}."
            )
    if table.empty:
        raise PromptError("The table has no rows, so there is no training to draw.")
    axis = rank_scale if scale == "rank" else _plainly
    fig = go.Figure()
    drawn = [table[[value, *ends]].to_numpy(dtype=float).ravel()]
    for number, (name, rows) in enumerate(table.groupby(by, sort=False)):
        colour = theme.colour(str(name), number)
        rows = rows.sort_values("step")
        if interval is not None:
            low, high = (axis(rows[end].to_numpy(dtype=float)) for end in interval)
            steps = rows["step"].to_numpy(dtype=float)
            fig.add_trace(band(steps, low, high, colour, f"{name} 95%"))
        if beside is not None and not beside.empty:
            others = beside[beside[by] == name]
            drawn.append(others[value].to_numpy(dtype=float))
            for seed, other in others.sort_values("step").groupby("seed"):
                fig.add_trace(_thin(other, axis(other[value]), colour, f"{name}, seed {seed}"))
        fig.add_trace(_of_steps(rows, value, interval, scale, axis, colour, str(name)))
    lay_behind(fig)
    if chance is not None and np.isfinite(chance):
        drawn.append(np.array([chance]))
        fig.add_hline(y=float(axis(chance)), line={"color": theme.MUTED, "width": 1, "dash": "dot"})
    theme.finish(fig, title=title, height=300, hovermode="closest", clickmode="event+select")
    fig.update_layout(margin_t=72 if title else 40)
    seen = np.concatenate(drawn)
    if scale == "rank":
        rank_axis(fig, float(np.nanmax(seen, initial=1.0)))
    elif scale == "share":
        fig.update_yaxes(range=[-0.04, 1.04], tickformat=".0%")
    fig.update_yaxes(title_text=theme.escape(label or theme.words(value)))
    fig.update_xaxes(title_text="step of the training", showgrid=False)
    return fig


def _plainly(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    return np.asarray(values, dtype=float)


def _thin(rows: pd.DataFrame, y: npt.NDArray[np.float64], colour: str, name: str) -> go.Scatter:
    return go.Scatter(
        x=rows["step"],
        y=y,
        mode="lines",
        line={"color": colour, "width": 1},
        opacity=0.45,
        hoverinfo="skip",
        showlegend=False,
        name=theme.escape(name),
    )


def _of_steps(
    rows: pd.DataFrame,
    value: str,
    interval: tuple[str, str] | None,
    scale: str,
    axis: Any,
    colour: str,
    name: str,
) -> go.Scatter:
    def said(number: float) -> str:
        if not np.isfinite(number):
            return "–"
        if scale == "rank":
            return f"rank {rank(number)}"
        return f"{number:.0%}" if scale == "share" else plain(number)

    label, texts = theme.escape(theme.words(name)), []
    for _, row in rows.iterrows():
        text = f"<b>step {int(row['step']):,}</b>, {label}<br>{said(float(row[value]))}"
        if interval is not None and np.isfinite([row[end] for end in interval]).all():
            text += f"<br>95%: {' to '.join(said(float(row[end])) for end in interval)}"
        texts.append(text)
    return go.Scatter(
        x=rows["step"],
        y=axis(rows[value]),
        mode="lines+markers",
        line={"color": colour, "width": 2.5},
        marker={"size": 8, "color": colour},
        # A click selects a step; the other points stay as they are.
        unselected={"marker": {"opacity": 1}},
        customdata=[[int(step)] for step in rows["step"]],
        text=texts,
        hovertemplate="%{text}<extra></extra>",
        name=label,
    )
