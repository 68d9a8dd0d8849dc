"""Attention as maps: one head's pattern, a score of all heads; and what a score of them detects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from cache.arguments import typed
from interp.errors import PromptError, SiteError
from interp.figures.drawing import grid, numbers, theme
from interp.results import HeadScores, Patterns
from interp.stats import auroc

_NAMES = {"pattern": "attention", "moved": "length moved"}
# px, of the small maps: the least side of one, what stands beside them all, between two of them
# (where a name is above), and above and below them all.
_LEAST, _BESIDE, _BETWEEN, _ABOVE, _FRAME = 150, 150, 12, 26, 96


@typed
def pattern_map(
    patterns: Patterns,
    layer: int,
    head: int,
    example: int = 0,
    *,
    value: Literal["pattern", "moved"] = "pattern",
    title: str | None = None,
    width: int = grid.WIDTH,
) -> go.Figure:
    """Draw one head's pattern on one prompt: who attends (from the top down) to whom.

    Args:
        patterns: result of `attention_patterns`.
        value: "moved" draws the value-weighted pattern.
        title: of the figure.
        width: px that the figure will have; it only decides how much text fits into a cell.

    Raises:
        PromptError: there is no such example.
        SiteError: there is no such layer or head, or the pattern was not weighted.
    """
    shown, hover, tokens = _pattern(patterns, layer, head, example, value)
    n = len(tokens)
    labels = tuple(theme.visible(token) for token in tokens)
    cells = grid.Grid(
        values=shown,
        hover=hover,
        texts=(numbers.texts(shown, 2),),
        elide=False,
        rows=tuple(range(n))[::-1],
        row_labels=labels[::-1],
        columns=labels,
        row_title="attending",
        column_title="attended to",
    )
    top = 1.0 if value == "pattern" else numbers.reach(shown)
    return grid.draw(
        cells,
        scale=theme.SEQUENTIAL,
        limits=(0.0, top),
        bar=theme.colour_bar(_NAMES[value]),
        title=title,
        selected=None,
        width=width,
    )


@typed
def pattern_grid(
    patterns: Patterns,
    layer: int,
    example: int = 0,
    *,
    value: Literal["pattern", "moved"] = "pattern",
    title: str | None = None,
    width: int = grid.WIDTH,
) -> go.Figure:
    """Draw the patterns of all heads of a layer on one prompt, small, on one colour scale.

    Args:
        patterns: result of `attention_patterns`.
        value: "moved" draws the value-weighted patterns.
        title: of the figure.
        width: px that the figure will have; it decides how many stand beside one another.

    Raises:
        PromptError: there is no such example.
        SiteError: there is no such layer, or the patterns were not weighted.
    """
    heads = [int(head) for head in patterns["head"].values]
    found = [_pattern(patterns, layer, head, example, value) for head in heads]
    columns = max(1, min(len(heads), (width - _BESIDE) // _LEAST))
    rows = -(-len(heads) // columns)
    side = (width - _BESIDE - (columns - 1) * _BETWEEN) / columns
    height = rows * side + (rows - 1) * _ABOVE
    fig = make_subplots(
        rows,
        columns,
        shared_xaxes="all",
        shared_yaxes="all",
        horizontal_spacing=_BETWEEN / (width - _BESIDE),
        vertical_spacing=_ABOVE / height if rows > 1 else 0,
        subplot_titles=[f"head {head}" for head in heads],
    )
    tops = [numbers.reach(shown) for shown, _, _ in found]
    top = 1.0 if value == "pattern" else max(tops)
    tokens = found[0][2]
    for number, (shown, hover, _) in enumerate(found):
        cells = go.Heatmap(
            z=shown,
            text=hover,
            hovertemplate=f"head {heads[number]}: %{{text}}<extra></extra>",
            hoverongaps=False,
            coloraxis="coloraxis",
            name=f"head {heads[number]}",
            xgap=1,
            ygap=1,
        )
        fig.add_trace(cells, number // columns + 1, number % columns + 1)
    theme.finish(fig, title=title, height=round(height + _FRAME + (36 if title else 0)))
    fig.update_layout(
        width=width,
        coloraxis={
            "colorscale": theme.SEQUENTIAL,
            "cmin": 0.0,
            "cmax": top,
            "colorbar": theme.colour_bar(_NAMES[value]),
        },
        margin={"l": 74, "r": 76, "t": 30 + (36 if title else 0), "b": 66},
    )
    fig.update_annotations(font_size=theme.SMALL)
    n = len(tokens)
    every = max(1, -(-n * theme.TEXT // int(side)))  # a label for as many as there is room for
    at = list(range(0, n, every))
    names = [theme.shown(tokens[i], 9) for i in at]
    fig.update_xaxes(
        tickvals=at, ticktext=names, tickangle=45, showgrid=False, zeroline=False, fixedrange=False
    )
    fig.update_yaxes(
        tickvals=[n - 1 - i for i in at], ticktext=names, showgrid=False, zeroline=False
    )
    return fig


def _pattern(
    patterns: Patterns, layer: int, head: int, example: int, value: str
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.object_], list[str]]:
    """One head's cells from the bottom up, what hovering over them tells, and the tokens."""
    if not 0 <= example < patterns.sizes["example"]:
        raise PromptError(
            f"There is no example {example}; there are {patterns.sizes['example']}, from 0 on."
        )
    if value not in patterns:
        raise SiteError(f"There is no '{value}'; ask attention_patterns for weighted=True.")
    if layer not in patterns["layer"].values or head not in patterns["head"].values:
        raise SiteError(f"There is no head {head} in layer {layer} among these patterns.")
    one = patterns[value].isel(example=example).sel(layer=layer, head=head)
    tokens = [str(token) for token in one["source_token"].values if token]
    n = len(tokens)
    # A grid is drawn from the bottom up.
    shown = one.transpose("destination", "source").values[:n, :n][::-1].astype(float)
    shown = np.where(np.tri(n, dtype=bool)[::-1], shown, np.nan)
    hover = np.empty((n, n), dtype=object)
    for row, column in np.ndindex(n, n):
        at = n - 1 - row
        hover[row, column] = (
            f"<b>{numbers.plain(float(shown[row, column]), 3)}</b><br>from {at} "
            f"‘{theme.shown(tokens[at], 40)}’ to {column} ‘{theme.shown(tokens[column], 40)}’"
            if column <= at
            else "later tokens are not seen"
        )
    return shown, hover, tokens


@typed
def head_score_grid(
    scores: HeadScores,
    kind: str = "induction",
    *,
    signed: bool | None = None,
    limit: float | None = None,
    title: str | None = None,
    width: int = grid.WIDTH,
) -> go.Figure:
    """Draw a score of every head, its mean over the prompts that have one.

    Args:
        scores: result of `head_scores` or `detect_heads`, or any dataset by layer and head.
        kind: which of its variables, "previous_token", say; of "to_span" choose a span first.
        signed: whether colours diverge around 0; where a head is below it, if left out.
        limit: the end of the colour scale, for grids to be compared; 1 for shares and the largest
            score otherwise, if left out.
        title: of the figure.
        width: px that the figure will have; it only decides how much text fits into a cell.

    Raises:
        SiteError: there is no such score by layer and head.
    """
    if kind not in scores or not {"layer", "head"} <= set(scores[kind].dims):
        raise SiteError(f"There is no '{kind}' by layer and head to draw.")
    extra = [dim for dim in scores[kind].dims if dim not in ("example", "layer", "head")]
    if extra:
        raise SiteError(f"'{kind}' has several values of {extra[0]}; select one of them first.")
    found = scores[kind]
    shown = found.mean("example") if "example" in found.dims else found
    values = shown.transpose("layer", "head").values.astype(float)
    layers, heads = (tuple(int(i) for i in found[name].values) for name in ("layer", "head"))
    hover = np.empty(values.shape, dtype=object)
    name = theme.escape(theme.words(kind))
    for row, column in np.ndindex(*values.shape):
        hover[row, column] = (
            f"<b>layer {layers[row]}, head {heads[column]}</b><br>{name} "
            f"{numbers.plain(float(values[row, column]), 3)}"
        )
    cells = grid.Grid(
        values=values,
        hover=hover,
        texts=(numbers.texts(values, 2), numbers.texts(values, 1)),
        elide=False,
        rows=layers,
        row_labels=tuple(str(layer) for layer in layers),
        columns=tuple(str(head) for head in heads),
        row_title="layer",
        column_title="head",
    )
    below = bool((values < 0).any())
    signed = below if signed is None else signed or below
    reach = numbers.reach(values)
    top = limit or (reach if signed or reach > 1 else 1.0)
    even = scores.get(f"{kind}_even")
    notes = []
    if even is not None and bool(even.notnull().any()):
        notes = [f"A head that attends evenly scores {numbers.plain(float(even.mean()), 3)}."]
    return grid.draw(
        cells,
        scale=theme.DIVERGING if signed else theme.SEQUENTIAL,
        limits=(-top if signed else 0.0, top),
        bar=theme.colour_bar(name),
        title=title,
        selected=None,
        width=width,
        notes=notes,
    )


@typed
def roc_lines(
    scores: Mapping[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]],
    *,
    found: str = "found, of those with an injection",
    wrong: str = "flagged, of those without",
    title: str | None = None,
) -> go.Figure:
    """Draw ROC curves: what is found against what is flagged by mistake, at every threshold.

    Args:
        scores: by what to call each curve, the scores of the class that should be high, and of the
            other; of a detector `-found["attacked_score"].values, -found["clean_score"].values`.
        found: what the share on the vertical axis is of.
        wrong: likewise on the horizontal one.
        title: of the figure.

    Raises:
        StatisticsError: a class is empty, or a score is not finite.
    """
    fig = go.Figure()
    fig.add_shape(
        type="line", x0=0, y0=0, x1=1, y1=1, line={"color": theme.MUTED, "width": 1, "dash": "dot"}
    )
    for number, (name, (high, low)) in enumerate(scores.items()):
        area = auroc(high, low)
        steps = np.unique(np.concatenate([high, low]))[::-1]
        hits, mistakes = (
            np.concatenate([[0.0], 1 - np.searchsorted(np.sort(one), steps) / len(one)])
            for one in (high, low)
        )
        fig.add_trace(
            go.Scatter(
                x=mistakes,
                y=hits,
                mode="lines",
                name=f"{theme.escape(name)}: {area:.2f}",
                line={"color": theme.colour(name, number), "width": 2},
                hovertemplate="%{y:.0%} against %{x:.0%}<extra>%{fullData.name}</extra>",
            )
        )
    theme.finish(fig, title=title, height=380)
    fig.update_layout(margin_t=72 if title else 40, hovermode="closest", showlegend=True)
    shares = {"range": [-0.02, 1.02], "tickformat": ".0%"}
    fig.update_xaxes(title_text=f"share {wrong}", **shares)
    fig.update_yaxes(title_text=f"share {found}", **shares)
    return fig
