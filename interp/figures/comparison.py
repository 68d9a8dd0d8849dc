"""Two models side by side: how far their activations and weights lie apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import xarray as xr

from cache.arguments import typed
from interp.errors import PromptError, SiteError
from interp.figures.drawing import grid, theme
from interp.figures.drawing.numbers import texts
from interp.results import ActivationDifference, WeightDifference

__all__ = ["difference_map", "of_model", "spectrum_lines"]

_MEASURES = {
    "relative": "‖Δ‖ / ‖base‖",
    "norm": "‖Δ‖",
    "cosine": "cosine",
}


@typed
def difference_map(
    result: ActivationDifference,
    example: int | None = 0,
    *,
    site: str = "resid_post",
    measure: Literal["relative", "norm", "cosine"] = "relative",
    model: str = "tuned",
    title: str | None = None,
    width: int = grid.WIDTH,
) -> go.Figure:
    """Draw what `activation_difference` returned, layer by position.

    Args:
        result: of `activation_difference`, or the activations of `compare_models`.
        example: one prompt, or None for the mean over those that have the position.
        site: which of the sites that were compared.
        measure: the length of the difference as a share of the base's activation, that length
            itself, or the cosine of the angle between both activations. The colours of a length
            span a tenth of the base's at least, those of a cosine .9 to 1, so that two models that
            hardly differ look alike.
        model: which of the compared models, "tuned" or "twin".
        title: of the figure.
        width: px that the figure will have; it only decides how much text fits.

    Raises:
        PromptError: there is no such example.
        SiteError: the site was not compared.
    """
    one = of_model(result, model)
    sites = [str(name) for name in one["site"].values]
    if site not in sites:
        raise SiteError(f"'{site}' was not compared; choose one of {', '.join(sites)}.")
    if example is not None and not 0 <= example < one.sizes["example"]:
        raise PromptError(
            f"There is no example {example}; the result holds {one.sizes['example']}, from 0 on."
        )
    one = one.sel(site=site)
    values = one[measure].transpose("example", "layer", "position").values.astype(float)
    there = np.isfinite(one["norm"].values).any(axis=(0, 1))
    if example is None:
        count = np.maximum(np.isfinite(values).sum(0), 1)
        shown = np.where(np.isfinite(values).any(0), np.nansum(values, axis=0) / count, np.nan)
        columns = [str(index) for index in one["position"].values]
    else:
        shown = values[example]
        there = np.isfinite(one["norm"].isel(example=example).values).any(axis=0)
        columns = [theme.visible(str(t)) for t in one["token"].values[example]]
    kept = np.flatnonzero(there)
    shown = shown[:, kept]
    layers = tuple(int(layer) for layer in one["layer"].values)
    labels = [columns[i] for i in kept]
    over = "" if example is not None else f"<br>mean over {one.sizes['example']} prompts"
    hover = np.empty(shown.shape, dtype=object)
    for row, column in np.ndindex(shown.shape):
        where = f"<b>{theme.escape(site)}</b> of block {layers[row]}, position {kept[column]}"
        token = f" ‘{theme.shown(labels[column], 40)}’" if example is not None else ""
        value = _number(float(shown[row, column]))
        hover[row, column] = f"{where}{token}<br>{_MEASURES[measure]}: {value}{over}"
    limits = _limits(shown, measure, one)
    return grid.draw(
        grid.Grid(
            values=shown,
            hover=hover,
            texts=tuple(texts(shown, decimals) for decimals in (2, 1)),
            elide=False,
            rows=layers,
            row_labels=tuple(str(layer) for layer in layers),
            columns=tuple(labels),
            row_title="block",
            column_title="token" if example is not None else "position",
        ),
        # Of cosines the small ones are the difference.
        scale=theme.SEQUENTIAL[::-1] if measure == "cosine" else theme.SEQUENTIAL,
        limits=limits,
        bar=theme.colour_bar(theme.escape(_MEASURES[measure])),
        title=title,
        selected=None,
        width=width,
        notes=theme.lines(
            "A difference of activations is no effect: see what it does by swaps and patches.",
            width - 80,
        ),
    )


@typed
def spectrum_lines(
    result: WeightDifference,
    parameters: int | Sequence[str] = 5,
    *,
    model: str = "tuned",
    title: str | None = None,
) -> go.Figure:
    """Draw the singular values of what has become of weights, largest first.

    Where there are several models, the same weights of the others are drawn dashed.

    Args:
        result: of `weight_difference`, or the weights of `compare_models`.
        parameters: how many of the matrices that changed most, relative to their size, or their
            names.
        model: which of the compared models chooses them.
        title: of the figure.

    Raises:
        SiteError: no such parameter, none that is a changed matrix, or no such model.
    """
    one = of_model(result, model)
    chosen = _chosen(one, parameters)
    ranks = one["rank"].values
    fig = go.Figure()
    several = [str(m) for m in result["model"].values] if "model" in result.dims else [model]
    for which in sorted(several, key=lambda name: name == model):
        drawn = of_model(result, which)
        for number, name in enumerate(chosen):
            row = drawn.sel(parameter=name)
            values = row["singular_value"].values.astype(float)
            if not np.isfinite(values).any():
                continue
            label = f"{name}{'' if which == model else f' ({which})'}"
            fig.add_trace(
                go.Scatter(
                    x=ranks,
                    y=values,
                    mode="lines+markers",
                    line={
                        "color": theme.OKABE_ITO[number % len(theme.OKABE_ITO)],
                        "width": 2 if which == model else 1,
                        "dash": "solid" if which == model else "dash",
                    },
                    marker={"size": 6 if which == model else 4},
                    text=[
                        f"<b>{theme.escape(label)}</b>, value {rank}<br>{_number(value)}"
                        f"<br>{_weights(row)}"
                        for rank, value in zip(ranks, values, strict=True)
                    ],
                    hovertemplate="%{text}<extra></extra>",
                    name=theme.escape(theme.shorten(label, 60)),
                    showlegend=which == model,
                )
            )
    theme.finish(fig, title=title, height=360 + 20 * len(chosen))
    fig.update_layout(
        margin_t=72 if title else 24,
        margin_b=76 + 20 * len(chosen),
        legend={"orientation": "v", "y": -0.26, "yanchor": "top"},
    )
    heights = np.concatenate([np.asarray(trace.y, dtype=float) for trace in fig.data])
    levels = _levels(heights[np.isfinite(heights) & (heights > 0)])
    fig.update_yaxes(
        title_text="singular value of the change",
        type="log",
        tickvals=levels,
        ticktext=[f"{level:g}" for level in levels],
    )
    if len(several) > 1:
        others = ", ".join(name for name in several if name != model)
        theme.note(fig, f"Dashed: the same weights of {others}.", below=44)
    ticks = ranks if len(ranks) <= 20 else None
    fig.update_xaxes(title_text="number, largest first", tickvals=ticks, showgrid=False)
    return fig


def of_model(result: xr.Dataset, model: str) -> xr.Dataset:
    """What a result says of one of the models that were compared with the base."""
    if "model" not in result.dims:
        return result
    names = [str(name) for name in result["model"].values]
    if model not in names:
        raise SiteError(f"There is no model '{model}' here; choose one of {', '.join(names)}.")
    return result.sel(model=model)


def _chosen(one: xr.Dataset, parameters: int | Sequence[str]) -> list[str]:
    known = [str(name) for name in one["parameter"].values]
    changed = np.isfinite(one["singular_value"].values).any(1)
    if not isinstance(parameters, int):
        wrong = [name for name in parameters if name not in known]
        if wrong or not len(parameters):
            raise SiteError(f"There is no parameter '{wrong[0] if wrong else ''}' in the result.")
        return list(parameters)
    if not changed.any():
        raise SiteError("No matrix has changed, so there is no spectrum to draw.")
    size = np.where(changed, np.nan_to_num(one["relative"].values, nan=0.0), -1.0)
    order = np.argsort(-size, kind="stable")[: max(1, parameters)]
    return [known[i] for i in order if changed[i]]


def _levels(values: npt.NDArray[np.float64]) -> list[float]:
    """Round numbers over the range of values: 1, 2 and 5, or powers of ten where there are many."""
    low, high = (int(np.floor(np.log10(end))) for end in (values.min(), values.max()))
    steps = (1, 2, 5) if high - low < 3 else (1,)
    return [float(f"{step}e{power}") for power in range(low, high + 1) for step in steps]


def _weights(row: xr.Dataset) -> str:
    relative, rank = float(row["relative"]), float(row["effective_rank"])
    return f"{_number(relative)} of the base's size, effective rank {_number(rank)}"


def _limits(shown: npt.NDArray[np.float64], measure: str, one: xr.Dataset) -> tuple[float, float]:
    """Both ends of the colours of a measure."""
    finite = shown[np.isfinite(shown)]
    if measure == "cosine":
        return float(finite.min(initial=0.9)), 1.0
    least = 0.1
    if measure == "norm":
        share = one["relative"].values
        lengths = (one["norm"].values / np.where(share > 0, share, np.nan)).ravel()
        lengths = lengths[np.isfinite(lengths)]
        least *= float(np.median(lengths)) if lengths.size else 10.0
    return 0.0, float(finite.max(initial=least))


def _number(value: float) -> str:
    if not np.isfinite(value):
        return "–"
    return f"{float(value):.3g}".replace("-", "−")
