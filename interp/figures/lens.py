"""Lenses: what each layer would say after each token, and how far a Jacobian lens is from none."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from cache.arguments import typed
from interp.errors import PromptError
from interp.figures.drawing import grid, numbers, theme
from interp.figures.drawing.bands import band
from interp.figures.ranks import depth_axis
from interp.results import Lens, Spread

_DISTANCE = "distance from the identity (share of its length)"


@typed
def lens_heatmap(
    lens: Lens,
    example: int = 0,
    *,
    title: str | None = None,
    selected: tuple[int, int] | None = None,
    width: int = grid.WIDTH,
) -> go.Figure:
    """Draw what `logit_lens` returned for one prompt.

    Each cell shows the likeliest next token after that position, read from that layer, coloured
    by its probability from 0 to 1. Row 0 is the embedding; row k the stream after k blocks.

    Args:
        lens: result of `logit_lens`.
        example: which prompt.
        title: of the figure.
        selected: (layer, position) to outline.
        width: px that the figure will have; it only decides how much text fits into a cell.

    Raises:
        PromptError: the dataset has no such example.
    """
    if not 0 <= example < lens.sizes["example"]:
        raise PromptError(
            f"There is no example {example}; the lens has {lens.sizes['example']}, from 0 on."
        )
    one = lens.isel(example=example).transpose("layer", "position", "k", ...)
    tokens = [str(t) for t in np.atleast_1d(one["token"].values)]
    present = [i for i, token in enumerate(tokens) if token] or [0]
    one = one.isel(position=present)
    tokens = [tokens[i] for i in present]
    layers = tuple(int(layer) for layer in one["layer"].values)
    top = one["top_token"].values
    probability = one["top_prob"].values.astype(float)
    text = np.empty(top.shape[:2], dtype=object)
    hover = np.empty(top.shape[:2], dtype=object)
    for row, layer in enumerate(layers):
        for column, token in enumerate(tokens):
            text[row, column] = theme.visible(str(top[row, column, 0]))
            hover[row, column] = _hover(one, row, column, layer, token)
    cells = grid.Grid(
        values=probability[:, :, 0],
        hover=hover,
        texts=(text,),
        elide=True,
        rows=layers,
        row_labels=tuple(str(layer) for layer in layers),
        columns=tuple(theme.visible(token) for token in tokens),
        row_title="blocks passed",
        column_title="token read",
    )
    bar = theme.colour_bar("probability", tickvals=[0, 0.5, 1], tickformat=".0%")
    return grid.draw(
        cells,
        scale=theme.SEQUENTIAL,
        limits=(0.0, 1.0),
        bar=bar,
        title=title,
        selected=selected,
        width=width,
    )


@typed
def lead_lines(lens_by_name: Mapping[str, Lens], *, title: str | None = None) -> go.Figure:
    """Draw how far an answer is ahead of its foil at the end of one prompt, layer by layer.

    It is the difference of their first tokens' log-probabilities in nats, which is that of their
    logits; above 0 the answer is ahead.

    Args:
        lens_by_name: results of `logit_lens` on one prompt with answers=[[answer, foil]], by what
            to call each line.
        title: of the figure.

    Raises:
        PromptError: a lens is not of one prompt, or does not follow two answers.
    """
    fig = go.Figure()
    every: set[int] = set()
    for number, (name, lens) in enumerate(lens_by_name.items()):
        if lens.sizes["example"] != 1 or lens.sizes.get("candidate") != 2:
            raise PromptError(
                f"The lens '{name}' does not follow an answer and a foil of one prompt; pass "
                "answers=[[answer, foil]] to logit_lens."
            )
        one = lens["answer_logprob"].isel(example=0, position=-1)
        lead = (one.isel(candidate=0) - one.isel(candidate=1)).values.astype(float)
        layers = [int(layer) for layer in lens["layer"].values]
        every.update(layers)
        colour, label = theme.colour(name, number), theme.escape(theme.words(name))
        fig.add_trace(
            go.Scatter(
                x=layers,
                y=lead,
                mode="lines+markers",
                line={"color": colour, "width": 2.5},
                marker={"size": 8, "color": colour},
                text=[
                    f"<b>{label}</b>, {layer} blocks passed<br>{numbers.plain(value)} nats ahead"
                    for layer, value in zip(layers, lead.tolist(), strict=True)
                ],
                hovertemplate="%{text}<extra></extra>",
                name=label,
            )
        )
    fig.add_hline(y=0, line={"color": theme.MUTED, "width": 1, "dash": "dot"})
    theme.finish(fig, title=title, height=320, hovermode="closest")
    fig.update_layout(margin_t=72 if title else 40, showlegend=True)
    fig.update_yaxes(title_text="answer ahead of its foil (nats)")
    depth_axis(fig, sorted(every) or [0])
    return fig


def _hover(one: xr.Dataset, row: int, column: int, layer: int, token: str) -> str:
    position = int(one["position"].values[column])
    stage = "embedding" if layer == 0 else f"after {layer} block{'s' if layer > 1 else ''}"
    lines = [f"<b>{stage}</b>, position {position} {_quoted(token)}", "next token would be"]
    top, probabilities = one["top_token"].values, one["top_prob"].values
    for name, p in zip(top[row, column], probabilities[row, column], strict=True):
        lines.append(f"{_percent(float(p))}  {_quoted(str(name))}")
    if "candidate" in one.dims:
        several = range(one.sizes["candidate"])
        lines += [_answer(one.isel(candidate=i), row, column) for i in several]
    elif "answer_rank" in one:
        lines.append(_answer(one, row, column))
    lines.append(f"entropy {_number(float(one['entropy'].values[row, column]), 'nats')}")
    return "<br>".join(lines)


def _answer(one: xr.Dataset, row: int, column: int) -> str:
    rank = int(one["answer_rank"].values[row, column])
    logprob = float(one["answer_logprob"].values[row, column])
    name = _quoted(str(one["answer"].values)) if "answer" in one.coords else "answer"
    where = f"rank {numbers.rank(rank)}" if rank >= 0 else "no rank"
    return f"first token of {name}: {where}, {_number(logprob, 'nats')}"


def _quoted(token: str) -> str:
    return f"‘{theme.shown(token, 40)}’"


def _percent(p: float) -> str:
    if not np.isfinite(p):
        return "–"
    # A figure space keeps one- and two-digit numbers in line.
    return f"{p:.1%}".rjust(6, "\u2007") if p >= 0.001 or p == 0 else "<0.1%".replace("<", "&lt;")


def _number(value: float, unit: str) -> str:
    return f"{value:.2f} {unit}".replace("-", "−") if np.isfinite(value) else "–"


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
        told = [f"<br>noise {numbers.plain(n)}" if np.isfinite(n) else "" for n in noise.tolist()]
        fig.add_trace(
            go.Scatter(
                x=layers,
                y=distance,
                mode="lines+markers",
                line={"color": colour, "width": 2.5},
                marker={"size": 8, "color": colour},
                text=[
                    f"<b>{label}</b>, {layer} blocks passed<br>distance {value}{more}"
                    for layer, value, more in zip(
                        layers, map(numbers.plain, distance.tolist()), told, strict=True
                    )
                ],
                hovertemplate="%{text}<extra></extra>",
                name=label,
            )
        )
    theme.finish(fig, title=title, height=340, hovermode="closest")
    fig.update_layout(margin_t=72 if title else 40)
    fig.update_yaxes(rangemode="tozero", title_text=_DISTANCE)
    depth_axis(fig, sorted(every))
    return fig
