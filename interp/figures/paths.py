"""Path patching as a heatmap: what each component tells the receivers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import xarray as xr

from cache.arguments import typed
from interp.errors import SiteError
from interp.figures.drawing import grid, theme
from interp.figures.drawing.numbers import plain, reach, texts
from interp.results import Paths


@typed
def path_map(
    result: Paths,
    *,
    example: int | None = None,
    title: str | None = None,
    width: int = grid.WIDTH,
) -> go.Figure:
    """Draw what `patch_paths` returned: layer × head, and the MLPs in the last column.

    Colours are the metric minus its value in the run that is changed. The embedding has no layer;
    what it does stands in the note.

    Args:
        result: of `patch_paths`.
        example: one pair, or None for the mean over all.
        title: of the figure.
        width: px that the figure will have; it only decides how much text fits.

    Raises:
        SiteError: no such example, or no sender is a head or an MLP.
    """
    if example is not None and not 0 <= example < result.sizes["example"]:
        raise SiteError(
            f"There is no pair {example}; the result holds {result.sizes['example']}, from 0 on."
        )
    one = result.isel(example=slice(None) if example is None else [example])
    base = "clean" if result.attrs["direction"] == "noising" else "corrupt"
    patched = one["patched"].mean("example").values.astype(float)
    moved = patched - float(one[base].mean())
    layer, head = (result[name].values.astype(int) for name in ("layer", "head"))
    inside = layer >= 0
    if not inside.any():
        raise SiteError("No sender here is a head or an MLP; a map needs at least one.")
    layers, heads = np.unique(layer[inside]), np.unique(head[head >= 0])
    row = np.searchsorted(layers, layer)
    column = np.where(head >= 0, np.searchsorted(heads, head), len(heads))
    change = np.full((len(layers), len(heads) + 1), np.nan)
    hover = np.full(change.shape, "no such sender", dtype=object)
    for index in np.nonzero(inside)[0]:
        place = row[index], column[index]
        change[place] = moved[index]
        hover[place] = _hover(one, base, str(result["sender"].values[index]), patched[index])
    limit = reach(change, str(result.attrs["unit"]))
    return grid.draw(
        grid.Grid(
            values=change,
            hover=hover,
            texts=tuple(texts(change, decimals) for decimals in (2, 1)),
            elide=False,
            rows=tuple(int(i) for i in layers),
            row_labels=tuple(str(i) for i in layers),
            columns=(*(str(i) for i in heads), "MLP"),
            row_title="block",
            column_title="head",
        ),
        scale=theme.DIVERGING,
        limits=(-limit, limit),
        bar=theme.colour_bar(theme.escape(f"{result.attrs['unit']} moved")),
        title=title,
        selected=None,
        width=width,
        notes=_notes(one, moved[~inside]),
    )


def _hover(one: xr.Dataset, base: str, sender: str, patched: float) -> str:
    unit = theme.escape(one.attrs["unit"])
    metric = theme.escape(theme.words(str(one.attrs["metric"])))
    unpatched, n = float(one[base].mean()), one.sizes["example"]
    return "<br>".join(
        [
            f"<b>{theme.escape(sender)}</b> → {theme.escape(one.attrs['receivers'])}",
            f"moves {metric} by <b>{plain(patched - unpatched)}</b> {unit}",
            f"from {plain(unpatched)} to {plain(patched)}",
            f"{n} pair{'s' if n > 1 else ''}",
        ]
    )


def _notes(one: xr.Dataset, embedding: npt.NDArray[np.float64]) -> list[str]:
    attrs = one.attrs
    noising = attrs["direction"] == "noising"
    runs = "Corrupted outputs in the clean run" if noising else "Clean outputs in the corrupted run"
    way = "directly" if attrs["through"] == "nothing" else f"directly or through {attrs['through']}"
    notes = [f"{runs}, into {attrs['receivers']}, {way}."]
    if len(embedding):
        notes.append(f"The embedding moves it by {plain(float(embedding[0]))} {attrs['unit']}.")
    return notes
