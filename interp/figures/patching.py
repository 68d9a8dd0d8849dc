"""Activation patching as a heatmap: how much of the effect one activation carries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import xarray as xr

from interp.errors import SiteError
from interp.figures import grid, theme

Value = Literal["normalised", "raw", "change"]

_SITES = {
    "resid_pre": "residual stream into block",
    "resid_mid": "residual stream inside block",
    "resid_post": "residual stream after block",
    "attn_out": "attention output of block",
    "mlp_out": "MLP output of block",
    "q": "queries of block",
    "k": "keys of block",
    "v": "values of block",
    "z": "head output in block",
}

_COLUMN_TITLES = {"head": "head", "span": "part of the prompt"}


def site_name(site: str) -> str:
    """A site as words that a layer number can follow: "residual stream into block"."""
    return _SITES.get(site, f"{site} of block")


def patching_map(
    result: xr.Dataset,
    *,
    example: int | None = None,
    value: Value = "normalised",
    limit: float | None = None,
    title: str | None = None,
    selected: tuple[int, int] | None = None,
    width: int = grid.WIDTH,
) -> go.Figure:
    """Draw what `sweep` returned: layer × position, span or head.

    Args:
        result: result of `sweep`.
        example: one pair, or None for the mean over all (pairs without the token are left out of
            a cell's mean; its hover says how many there are).
        value: "normalised" colours the share of the effect, 0 as in the corrupted run and 1 as in
            the clean one, on a scale fixed to [-1, 1] (cells beyond it carry a triangle); "raw"
            the metric itself; "change" the metric minus its value in the corrupted run, which
            needs no division and can be compared between maps.
        limit: the end of the colour scale of "raw" and "change", for maps to be compared; the
            largest value of this one if left out.
        title: of the figure.
        selected: (layer, column) to outline.
        width: px that the figure will have; it only decides how much text fits.

    Raises:
        SiteError: the sweep has two axes besides layers, an unknown value, or no such example.
    """
    column_axis = _column_axis(result)
    if value not in get_args(Value):
        raise SiteError(f"Unknown value '{value}'; choose one of {', '.join(get_args(Value))}.")
    if example is not None and not 0 <= example < result.sizes["example"]:
        raise SiteError(
            f"There is no pair {example}; the sweep holds {result.sizes['example']}, from 0 on."
        )
    numbers = _numbers(result, column_axis, example)
    if example is not None:
        kept = np.nonzero(numbers.n.any(axis=0))[0]
        columns = kept if len(kept) else np.arange(numbers.n.shape[1])
    else:
        columns = np.arange(numbers.n.shape[1])
    labels = _columns(result, column_axis, example)
    layers = tuple(int(layer) for layer in np.atleast_1d(result["layer"].values))
    shown = {"normalised": numbers.share, "raw": numbers.patched, "change": numbers.change}[value]
    limit = 1.0 if value == "normalised" else limit or _reach(shown)
    shown, hover = shown[:, columns], _hovers(result, numbers, labels, layers)[:, columns]
    beyond = np.argwhere(np.abs(np.nan_to_num(shown)) > limit * (1 + 1e-6))
    for row, column in beyond:
        hover[row, column] += "<br>▲ beyond the colours"
    cells = grid.Grid(
        values=shown,
        hover=hover,
        texts=tuple(_texts(shown, decimals) for decimals in (2, 1)),
        elide=False,
        rows=layers,
        row_labels=tuple(str(layer) for layer in layers),
        columns=tuple(theme.visible(labels[i]) for i in columns),
        row_title=_row_title(str(result.attrs.get("site", "")), column_axis),
        column_title=_COLUMN_TITLES.get(column_axis, "position" if example is None else "token"),
    )
    fig = grid.draw(
        cells,
        scale=theme.DIVERGING,
        limits=(-limit, limit),
        bar=_bar(value, limit, str(result.attrs.get("unit", ""))),
        title=title,
        selected=_visible_selection(selected, columns),
        width=width,
        small_print=_clipping(shown, beyond, limit) if len(beyond) else None,
    )
    # Clicks name the column of the result, also where absent ones are left out of the picture.
    targets = fig.data[1]
    targets.customdata = [[layer, int(columns[column])] for layer, column in targets.customdata]
    if len(beyond):
        grid.mark(fig, [(int(row), int(column)) for row, column in beyond])
    return fig


@dataclass(frozen=True)
class _Numbers:
    """Per cell [layer, column], for one pair or as means: NaN and n = 0 where there is nothing."""

    share: npt.NDArray[np.float64]
    patched: npt.NDArray[np.float64]
    change: npt.NDArray[np.float64]
    n: npt.NDArray[np.int64]
    clean: float
    corrupt: float


def _numbers(result: xr.Dataset, column_axis: str, example: int | None) -> _Numbers:
    # Not at the top: it brings torch along, which figures of other kinds have no use for.
    from interp.patching.results import normalised

    order = ("example", "layer", column_axis)
    share = normalised(result).transpose(*order)
    patched = result["patched"].transpose(*order)
    if example is not None:
        share, patched = share.isel(example=[example]), patched.isel(example=[example])
        result = result.isel(example=[example])
    change = patched - result["corrupt"]
    return _Numbers(
        share.mean("example", skipna=True).values.astype(float),
        patched.mean("example", skipna=True).values.astype(float),
        change.mean("example", skipna=True).values.astype(float),
        np.isfinite(patched.values).sum(axis=0),
        float(result["clean"].mean()),
        float(result["corrupt"].mean()),
    )


def _column_axis(result: xr.Dataset) -> str:
    axes = [str(d) for d in result["patched"].dims if d not in ("example", "layer")]
    if len(axes) != 1 or axes[0] not in ("position", "span", "head"):
        raise SiteError(
            f"A map has one axis besides the layers, but this sweep has {', '.join(axes) or 'none'}"
            "; choose one entry of the others, as in result.sel(position=3)."
        )
    return axes[0]


def _columns(result: xr.Dataset, column_axis: str, example: int | None) -> list[str]:
    if column_axis == "head":
        return [str(h) for h in result["head"].values]
    if column_axis == "span":
        return [str(s) for s in result["span"].values]
    labels = [str(label) for label in result["position_label"].values]
    if example is None:
        return [_shared_token(result, i) or label for i, label in enumerate(labels)]
    tokens = [str(t) for t in result["clean_token"].isel(example=example).values]
    return [token or label for token, label in zip(tokens, labels, strict=True)]


def _shared_token(result: xr.Dataset, column: int) -> str:
    """The token that all prompts have at a position, or "" where they differ: it says more than
    a label."""
    if "clean_token" not in result.coords or result.sizes["example"] < 2:
        return ""
    tokens = {
        str(token)
        for run in ("clean", "corrupt")
        for token in result[f"{run}_token"].values[:, column]
    }
    return tokens.pop() if len(tokens) == 1 else ""


def _hovers(
    result: xr.Dataset, numbers: _Numbers, labels: list[str], layers: tuple[int, ...]
) -> npt.NDArray[np.object_]:
    unit = theme.escape(result.attrs.get("unit", ""))
    metric = theme.escape(theme.words(str(result.attrs.get("metric", "metric"))))
    site = theme.escape(site_name(str(result.attrs.get("site", ""))))
    hover = np.empty(numbers.n.shape, dtype=object)
    for row, layer in enumerate(layers):
        for column, label in enumerate(labels):
            n = int(numbers.n[row, column])
            lines = [f"<b>{site} {layer}</b>, {_place(result, label, column)}"]
            if n == 0:
                hover[row, column] = "<br>".join([*lines, "no such token here"])
                continue
            share = float(numbers.share[row, column])
            lines += [
                _share_line(share),
                f"{metric} patched {_plain(numbers.patched[row, column])} {unit}",
                f"clean {_plain(numbers.clean)}, corrupted {_plain(numbers.corrupt)}",
                f"{n} pair{'s' if n > 1 else ''}",
            ]
            hover[row, column] = "<br>".join(lines)
    return hover


def _place(result: xr.Dataset, label: str, column: int) -> str:
    if "head" in result["patched"].dims:
        return f"head {theme.escape(label)}"
    if "position" in result["patched"].dims:
        name = str(result["position_label"].values[column])
        return f"‘{theme.shown(label, 40)}’" + (f" ({theme.escape(name)})" if name != label else "")
    return theme.shown(label, 40)


def _share_line(share: float) -> str:
    if not np.isfinite(share):
        return "share of the effect: undefined, clean and corrupted hardly differ"
    return f"share of the effect <b>{_plain(share)}</b>"


def _plain(number: float, decimals: int = 2) -> str:
    """A number with a true minus sign, which zero never has."""
    return f"{round(number, decimals) + 0.0:.{decimals}f}".replace("-", "−")


def _texts(shown: npt.NDArray[np.float64], decimals: int) -> npt.NDArray[np.object_]:
    text = np.empty(shown.shape, dtype=object)
    for index, number in np.ndenumerate(shown):
        text[index] = _plain(float(number), decimals) if np.isfinite(number) else ""
    return text


def _row_title(site: str, column_axis: str) -> str:
    return "block" if column_axis == "head" or not site.startswith("resid") else "into block"


def _bar(value: Value, limit: float, unit: str) -> dict[str, object]:
    if value != "normalised":
        return theme.colour_bar(theme.escape(unit if value == "raw" else f"{unit} moved"))
    return theme.colour_bar(
        "share of effect",
        tickvals=[-1, 0, 1],
        ticktext=["−1", "0 corrupt", "1 clean"],
    )


def _reach(shown: npt.NDArray[np.float64]) -> float:
    finite = np.abs(shown[np.isfinite(shown)])
    return float(finite.max()) if finite.size and finite.max() > 0 else 1.0


def _clipping(shown: npt.NDArray[np.float64], beyond: npt.NDArray[np.int64], limit: float) -> str:
    values = [float(shown[row, column]) for row, column in beyond]
    furthest = max(values, key=abs)
    cells = "1 cell lies" if len(values) == 1 else f"{len(values)} cells lie"
    return f"▲ {cells} beyond ±{limit:.3g}, up to {_plain(furthest)}"


def _visible_selection(
    selected: tuple[int, int] | None, columns: npt.NDArray[np.int64]
) -> tuple[int, int] | None:
    if selected is None or selected[1] not in columns:
        return None
    return selected[0], int(np.nonzero(columns == selected[1])[0][0])
