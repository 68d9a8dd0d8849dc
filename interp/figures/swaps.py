"""What becomes of a model with parts, or activations, of another one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import xarray as xr

from cache.arguments import typed
from interp.errors import SiteError
from interp.figures.comparison import of_model
from interp.figures.drawing import grid, theme
from interp.figures.drawing.bands import band, interval_text, mean_intervals_of, prompts_of
from interp.figures.drawing.numbers import plain, reach, texts
from interp.results import Mixed, Swaps
from interp.stats import n_independent

__all__ = ["across_map", "swap_lines"]

Floats = npt.NDArray[np.float64]

_SHORT = {
    "embedding": "emb",
    "final norm": "norm",
    "unembedding": "unemb",
    "embedding and unembedding": "both ends",
}
_LETTERS = {"attention": "A", "mlp": "M", "norm": "N"}
_ORDERS = {
    "below": "all parts up to this one",
    "above": "this part and all that follow",
    "single": "this part alone",
}


@typed
def swap_lines(
    result: Swaps,
    *,
    into: Literal["base", "tuned"] = "base",
    model: str = "tuned",
    names: tuple[str, str] | None = None,
    title: str | None = None,
    width: int = grid.WIDTH,
) -> go.Figure:
    """Draw how far parts of one model move the metric of the other.

    Diamonds are single parts; the lines take all parts from the embedding up to one, and all from
    one on. Bands and bars are the 95% interval of the mean change over prompts (see
    `mean_interval`; none with few, or where all are the same). The dotted lines are both models as
    they are.

    Args:
        result: of `swap_modules`, or the swaps of `compare_models`.
        into: the model that parts of the other one are put into.
        model: which of the compared models, "tuned" or "twin".
        names: what to call the base and the other model; "base" and `model` if left out.
        title: of the figure.
        width: px that the figure will have; it only decides how much text fits.

    Raises:
        SiteError: there is no such model.
    """
    one = _into(of_model(result, model), into)
    prompts = np.asarray(prompts_of(one))
    called = names or ("base", model)
    parts = [str(name) for name in one["part"].values]
    labels = [_label(*pair) for pair in zip(one["module"].values, one["layer"].values, strict=True)]
    giver, receiver = called if into == "tuned" else reversed(called)
    unit = str(one.attrs.get("unit", ""))
    moved = (one["swapped"] - one[into]).transpose("order", "example", "part")
    fig = go.Figure()
    for number, (order, meaning) in enumerate(_ORDERS.items()):
        values = moved.sel(order=order).values.astype(float)
        drawn = np.flatnonzero(np.isfinite(values).any(0))
        low, high = mean_intervals_of(values[:, drawn], prompts)
        hover = _hovers(values[:, drawn], low, high, prompts, [parts[i] for i in drawn], unit)
        shown = [f"{text}<br>{meaning}" for text in hover]
        _add(fig, drawn, values[:, drawn].mean(0), low, high, number, meaning, shown)
    whole = (one["base" if into == "tuned" else "tuned"] - one[into]).values.astype(float)
    end = float(whole.mean())
    for level, name, above in ((0.0, receiver, end <= 0), (end, giver, end > 0)):
        fig.add_hline(
            y=level,
            line={"color": theme.INK, "width": 1, "dash": "dot"},
            annotation_text=theme.escape(name),
            annotation_position="top right" if above else "bottom right",
            annotation_font={"size": theme.SMALL, "color": theme.MUTED},
        )
    theme.finish(fig, title=title, height=420)
    notes = [
        line for note in _change(one, prompts, called) for line in theme.lines(note, width - 80)
    ]
    fig.update_layout(margin_t=96 if title else 64, margin_b=80 + 18 * max(2, len(notes)))
    measure = theme.words(str(one.attrs.get("metric", "metric")))
    fig.update_yaxes(title_text=theme.escape(f"change of {measure}{f' ({unit})' if unit else ''}"))
    ticks, angle = theme.spaced(labels, (width - 80) / len(labels))
    fig.update_xaxes(
        title_text=theme.escape(f"part of {giver} put into {receiver}"),
        tickvals=list(range(len(labels))),
        ticktext=ticks,
        tickangle=angle,
        range=[-0.5, len(labels) - 0.5],
        showgrid=False,
    )
    for number, line in enumerate(notes):
        theme.note(fig, line, below=70 + 18 * number)
    return fig


@typed
def across_map(
    result: Mixed,
    *,
    into: Literal["base", "tuned"] = "base",
    model: str = "tuned",
    title: str | None = None,
    width: int = grid.WIDTH,
) -> go.Figure:
    """Draw how far activations of one model move the metric of the other, by layer and one axis.

    Colours are the mean over prompts of the change; beside it, over each cell, stands how far
    random directions of the same length move it.

    Args:
        result: of `patch_across`, or the patches of `compare_models`.
        into: the model that activations of the other one are put into.
        model: which of the compared models, "tuned" or "twin".
        title: of the figure.
        width: px that the figure will have; it only decides how much text fits.

    Raises:
        SiteError: there is no such model, the result is of swaps, or it has more axes than one.
    """
    if "patched" not in result:
        raise SiteError("A map shows what patch_across returned; draw swaps with swap_lines.")
    one = _into(of_model(result, model), into)
    axes = [str(dim) for dim in one["patched"].dims if dim not in ("example", "layer")]
    if len(axes) != 1:
        raise SiteError(
            f"A map has layers and one axis, and here are {', '.join(axes)}; average over the "
            "others, or choose of them."
        )
    moved = (one["patched"] - one[into]).transpose("example", "layer", axes[0])
    shown = _mean(moved.values.astype(float))
    control = None
    if "control" in one:
        draws = (one["control"] - one[into]).transpose("draw", "example", "layer", axes[0])
        control = np.abs(np.stack([_mean(draw) for draw in draws.values.astype(float)])).mean(0)
    layers = tuple(int(layer) for layer in one["layer"].values)
    named = one.coords.get(f"{axes[0]}_label", one[axes[0]])
    columns = tuple(theme.visible(str(name)) for name in named.values)
    unit = theme.escape(str(one.attrs.get("unit", "")))
    hover = np.empty(shown.shape, dtype=object)
    for row, column in np.ndindex(shown.shape):
        place = f"<b>{theme.escape(str(one.attrs.get('site', 'site')))}</b> of block {layers[row]}"
        lines = [f"{place}, {axes[0]} {theme.escape(columns[column])}"]
        lines.append(f"moves it by <b>{plain(float(shown[row, column]))}</b> {unit}")
        if control is not None:
            lines.append(f"random directions: {plain(float(control[row, column]))} {unit}")
        hover[row, column] = "<br>".join(lines)
    receiver, giver = (model, "base") if into == "tuned" else ("base", model)
    prompts = np.asarray(prompts_of(one))
    limit = reach(shown, str(one.attrs.get("unit", "")))
    return grid.draw(
        grid.Grid(
            values=shown,
            hover=hover,
            texts=tuple(texts(shown, decimals) for decimals in (2, 1)),
            elide=False,
            rows=layers,
            row_labels=tuple(str(layer) for layer in layers),
            columns=columns,
            row_title="block",
            column_title=theme.words(axes[0]),
        ),
        scale=theme.DIVERGING,
        limits=(-limit, limit),
        bar=theme.colour_bar(f"{unit} moved"),
        title=title,
        selected=None,
        width=width,
        notes=[
            f"Activations of {giver} put into {receiver}, mean over {len(prompts)} prompts, or "
            "those that have the cell.",
            *_change(one, prompts, ("base", model)),
        ],
    )


def _into(result: xr.Dataset, into: str) -> xr.Dataset:
    if "into" not in result.dims:
        raise SiteError("The result was cut to one receiving model; draw it before it is cut.")
    return result.sel(into=into)


def _mean(values: Floats) -> Floats:
    """Over the examples that have the cell; NaN where none has."""
    there = np.isfinite(values)
    total = np.where(there, values, 0.0).sum(0)
    return np.where(there.any(0), total / np.maximum(there.sum(0), 1), np.nan)


def _add(
    fig: go.Figure,
    at: npt.NDArray[np.int64],
    mean: Floats,
    low: Floats,
    high: Floats,
    number: int,
    meaning: str,
    hover: Sequence[str],
) -> None:
    colour, single = theme.OKABE_ITO[number], meaning == _ORDERS["single"]
    if not single and np.isfinite(low).any():
        fig.add_trace(band(at, low, high, colour, f"{meaning}, 95%"))
    bars: dict[str, Any] = {
        "type": "data",
        "symmetric": False,
        "array": np.nan_to_num(high - mean),
        "arrayminus": np.nan_to_num(mean - low),
        "thickness": 1.5,
        "width": 3,
    }
    fig.add_trace(
        go.Scatter(
            x=at,
            y=mean,
            mode="markers" if single else "lines+markers",
            line={"color": colour, "width": 2.5},
            marker={
                "size": 10 if single else 6,
                "color": colour,
                "symbol": "diamond" if single else "circle",
            },
            error_y=bars if single else None,
            text=list(hover),
            hovertemplate="%{text}<extra></extra>",
            name=meaning,
        )
    )


def _hovers(
    values: Floats,
    low: Floats,
    high: Floats,
    prompts: npt.NDArray[Any],
    names: Sequence[str],
    unit: str,
) -> list[str]:
    n = n_independent(len(values), prompts)
    return [
        f"<b>{theme.escape(name)}</b><br>moves it by {plain(float(values[:, i].mean()))} "
        f"{theme.escape(unit)}<br>{interval_text(float(low[i]), float(high[i]), n, 'prompts')}"
        for i, name in enumerate(names)
    ]


def _change(one: xr.Dataset, prompts: npt.NDArray[Any], called: tuple[str, str]) -> tuple[str, str]:
    """What tells both models apart here, and what the figure does not say of it."""
    gap = (one["tuned"] - one["base"]).values.astype(float)
    low, high = (float(end[0]) for end in mean_intervals_of(gap[:, None], prompts))
    unit = str(one.attrs.get("unit", ""))
    interval = interval_text(low, high, n_independent(len(gap), prompts), "prompts")
    said = f"{called[1]} − {called[0]}: {plain(float(gap.mean()))} {unit} ({interval})."
    if low > 0 or high < 0:
        return said, "What is moved is worked on by all that follows, so it need not add up."
    return said, "The two models may not differ here at all, so nothing has a share in it."


def _label(module: str, layer: int) -> str:
    module = str(module)
    return _SHORT.get(module, module) if layer < 0 else f"{_LETTERS.get(module, module)}{layer}"
