"""A patchscope as a grid: what the model writes with each layer's vector put into each layer."""

from __future__ import annotations

from typing import Literal

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from cache.arguments import typed
from interp.errors import PromptError
from interp.figures.drawing import grid, theme
from interp.results import Patchscoped

_TITLES = {
    "text": "what is written",
    "control": "what is written with another prompt's vector",
}


@typed
def patchscope_map(
    result: Patchscoped,
    example: int = 0,
    *,
    show: Literal["text", "control"] = "text",
    title: str | None = None,
    selected: tuple[int, int] | None = None,
    width: int = grid.WIDTH,
) -> go.Figure:
    """Draw what `patchscope` returned for one example.

    Each cell shows the first words that were written, or the likeliest next token where nothing
    was, coloured by that token's probability from 0 to 1. Over a cell stand the whole text, the
    likeliest next tokens, what the prompt says without a vector, and what the other vector makes
    of it.

    Args:
        result: of `patchscope`.
        example: which one.
        show: "text", or "control" for the same grid of the control's vector.
        title: of the figure.
        selected: (source layer, target layer) to outline.
        width: px that the figure will have; it only decides how much text fits into a cell.

    Raises:
        PromptError: there is no such example or grid, or no next tokens to colour by.
    """
    if not 0 <= example < result.sizes["example"]:
        raise PromptError(
            f"There is no example {example}; the result has {result.sizes['example']}, from 0 on."
        )
    prefix = {"text": "", "control": "control_"}.get(show)
    if prefix is None or f"{prefix}top_token" not in result:
        raise PromptError(
            f"The result holds no next tokens of '{show}'; run patchscope with next_tokens=1 or "
            "more, and with a control to show one."
        )
    one = result.isel(example=example).transpose("source_layer", "target_layer", ...)
    top = one[f"{prefix}top_token"].values
    probability = np.exp(one[f"{prefix}top_logprob"].values.astype(float))
    written = one[f"{prefix}text"].values if f"{prefix}text" in one else top[..., 0]
    whole, first = (np.empty(written.shape, dtype=object) for _ in "ab")
    hover = np.empty(written.shape, dtype=object)
    sources, targets = (one[f"{side}_layer"].values for side in ("source", "target"))
    for row, column in np.ndindex(*written.shape):
        text = str(written[row, column])
        whole[row, column] = theme.visible(text)
        first[row, column] = theme.visible((text.split() or [text])[0])
        cell = one.isel(source_layer=row, target_layer=column)
        hover[row, column] = _hover(cell, int(sources[row]), int(targets[column]))
    cells = grid.Grid(
        values=probability[..., 0],
        hover=hover,
        texts=(whole, first),
        elide=True,
        rows=tuple(int(layer) for layer in sources),
        row_labels=tuple(str(layer) for layer in sources),
        columns=tuple(str(layer) for layer in targets),
        row_title="layer it is read from",
        column_title="layer it is put into",
    )
    if selected is not None:  # a column is outlined by its number
        selected = (
            selected[0],
            targets.tolist().index(selected[1]) if selected[1] in targets else -1,
        )
    return grid.draw(
        cells,
        scale=theme.SEQUENTIAL,
        limits=(0.0, 1.0),
        bar=theme.colour_bar("probability", tickvals=[0, 0.5, 1], tickformat=".0%"),
        title=title,
        selected=selected,
        width=width,
        notes=[_note(one, show)],
    )


def _note(one: xr.Dataset, show: str) -> str:
    said = f"{_TITLES[show]}; colour: probability of the next token"
    if "unpatched_text" in one:
        plain = theme.shown(str(one["unpatched_text"].item()), 30)
        said += f"; without a vector: ‘{plain}’"
    return said


def _hover(cell: xr.Dataset, source: int, target: int) -> str:
    lines = [f"<b>layer {source} into layer {target}</b>"]
    for prefix, name in (
        ("", "with the vector"),
        ("control_", "with another prompt's vector"),
        ("unpatched_", "without a vector"),
    ):
        if f"{prefix}text" in cell:
            lines.append(f"{name}: ‘{theme.shown(str(cell[f'{prefix}text'].item()), 60)}’")
        if f"{prefix}top_token" in cell:
            best = zip(
                cell[f"{prefix}top_token"].values[:3],
                np.exp(cell[f"{prefix}top_logprob"].values[:3].astype(float)),
                strict=True,
            )
            said = ", ".join(f"{theme.shown(str(token), 30)} {p:.0%}" for token, p in best)
            lines.append(f"next {name}: {said}")
    return "<br>".join(lines)
