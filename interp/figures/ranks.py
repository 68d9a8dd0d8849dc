"""The answer's rank from layer to layer, for several groups of facts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import xarray as xr

from cache.arguments import typed
from interp.errors import PromptError
from interp.figures.drawing import numbers, theme
from interp.figures.drawing.bands import band, lay_behind, prompts_of
from interp.results import AnswerLens
from interp.stats import median_interval

# As people count: 1 is the first choice.
_TICKS = (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000)


@typed
def rank_lines(
    lens_by_name: Mapping[str, AnswerLens],
    *,
    title: str | None = None,
    chance: int | None = None,
    selected: int | None = None,
) -> go.Figure:
    """Draw the median rank of the answer's first token against the layer.

    The axis is logarithmic, rank 1 (the likeliest token, 0 in the results) on top. The band is the
    95% interval of the median over facts (see `median_interval`); with fewer than 6 there is none.

    Args:
        lens_by_name: results of `logit_lens` with answers, by what to call each line; with all
            positions, the last one of each prompt is read.
        title: of the figure.
        chance: size of the vocabulary, to draw the median rank of a random guess.
        selected: a layer to mark.

    Raises:
        PromptError: a lens was made without answers.
    """
    fig = go.Figure()
    worst = 1.0
    every: set[int] = set()
    for number, (name, lens) in enumerate(lens_by_name.items()):
        if "answer_rank" not in lens:
            raise PromptError(f"The lens '{name}' follows no answers; pass answers to logit_lens.")
        if "candidate" in lens["answer_rank"].dims:
            raise PromptError(
                f"The lens '{name}' follows several answers; choose one: lens.isel(candidate=0)."
            )
        ranks = last_ranks(lens)
        layers = [int(layer) for layer in lens["layer"].values]
        every.update(layers)
        medians = _median(ranks)
        colour = theme.colour(name, number)
        low, high = _band(ranks, np.asarray(prompts_of(lens)))
        if np.isfinite(high).any():
            worst = max(worst, float(np.nanmax(high, initial=0)))
            fig.add_trace(band(layers, rank_scale(low), rank_scale(high), colour, f"{name} 95%"))
        worst = max(worst, float(np.nanmax(medians, initial=0)))
        fig.add_trace(_line(layers, medians, ranks, colour, name))
    lay_behind(fig)
    if chance is not None and chance > 1:
        level = (chance - 1) / 2
        worst = max(worst, level)
        fig.add_hline(
            y=float(rank_scale(level)),
            line={"color": theme.MUTED, "width": 1, "dash": "dot"},
        )
        # Beside the plot: lines begin and end near chance.
        fig.add_annotation(
            text="chance",
            xref="paper",
            x=1.0,
            y=float(rank_scale(level)),
            xanchor="left",
            showarrow=False,
            font={"size": theme.SMALL, "color": theme.MUTED},
        )
    if selected is not None:
        fig.add_vline(x=selected, line={"color": theme.INK, "width": 1})
    theme.finish(fig, title=title, height=340, hovermode="closest", clickmode="event+select")
    fig.update_layout(margin_t=72 if title else 40)
    if chance is not None and chance > 1:
        fig.update_layout(margin_r=56)
    rank_axis(fig, worst)
    fig.update_yaxes(title_text="rank of the answer (1: first choice)")
    depth_axis(fig, sorted(every) or [0])
    return fig


def depth_axis(fig: go.Figure, layers: list[int]) -> None:
    """A horizontal axis of how many blocks the stream has passed."""
    fig.update_xaxes(
        title_text="blocks passed",
        tickvals=layers if len(layers) <= 20 else None,
        range=[min(layers) - 0.25, max(layers) + 0.25],
        showgrid=False,
    )


def rank_axis(fig: go.Figure, worst: float) -> None:
    """A vertical axis of log10(1 + rank) for ranks from 0, labelled from 1 and with 1 on top."""
    ticks = [t for t in _TICKS if t <= (1 + worst) * 1.15]
    fig.update_yaxes(
        tickvals=[float(rank_scale(t - 1)) for t in ticks],
        ticktext=[f"{t:,}" for t in ticks],
        range=[float(rank_scale(worst)) * 1.06, -0.12],
    )


def last_ranks(lens: xr.Dataset) -> npt.NDArray[np.int64]:
    """The answer's rank at the end of each prompt [example, layer]; -1 where there is none."""
    ranks = lens["answer_rank"]
    if "position" not in ranks.dims:
        return np.asarray(ranks.transpose("example", "layer").values)
    values = np.asarray(ranks.transpose("example", "layer", "position").values)
    present = values[:, 0, :] >= 0
    last = values.shape[2] - 1 - np.argmax(present[:, ::-1], axis=1)
    return np.asarray(values[np.arange(len(values)), :, last])


def _median(ranks: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Median over examples [layer]; NaN where none has a rank."""
    known = [column[column >= 0] for column in ranks.T]
    return np.array([np.median(column) if column.size else np.nan for column in known])


def _band(
    ranks: npt.NDArray[np.int64], prompts: npt.NDArray[Any]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    ends = [median_interval(column[column >= 0], prompts[column >= 0]) for column in ranks.T]
    low, high = np.array(ends, dtype=float).reshape(-1, 2).T
    return low, high


def rank_scale(rank: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Where a rank, counted from 0, stands on the axis."""
    logs: npt.NDArray[np.float64] = np.log10(1 + np.asarray(rank, dtype=float))
    return logs


def _line(
    layers: list[int],
    medians: npt.NDArray[np.float64],
    ranks: npt.NDArray[np.int64],
    colour: str,
    name: str,
) -> go.Scatter:
    n = (ranks >= 0).sum(axis=0)
    label = theme.escape(theme.words(name))
    return go.Scatter(
        x=layers,
        y=rank_scale(medians),
        mode="lines+markers",
        line={"color": colour, "width": 2.5},
        marker={"size": 8, "color": colour},
        # A click selects a layer; the other points stay as they are.
        unselected={"marker": {"opacity": 1}},
        customdata=[[layer] for layer in layers],
        text=[
            f"<b>{label}</b>, {layer} blocks passed<br>{'median ' if many > 1 else ''}rank "
            f"{numbers.rank(median)}" + (f" over {many} facts" if many > 1 else "")
            for layer, median, many in zip(layers, medians, n, strict=True)
        ],
        hovertemplate="%{text}<extra></extra>",
        name=label,
    )
