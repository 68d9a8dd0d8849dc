"""Direct logit attribution: which part of the model says the answer, as a heatmap and as bars."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import xarray as xr

from cache.arguments import typed
from interp.errors import PromptError
from interp.figures.drawing import grid, theme
from interp.figures.drawing.numbers import plain, reach, texts
from interp.results import Attribution

# Of heads by the tokens attended to, so many are shown: those with the largest share anywhere.
MOST_HEADS = 24
_OTHERS = {
    "neurons": "embedding, attention, biases and other neurons",
    "source": "embedding, MLPs and biases",
}


@dataclass(frozen=True)
class _Table:
    """Shares [row, column], and what the rows and columns are."""

    values: npt.NDArray[np.float64]
    rows: tuple[int, ...]
    row_labels: tuple[str, ...]
    columns: tuple[str, ...]
    row_title: str
    column_title: str
    notes: tuple[str, ...]


@typed
def attribution_map(
    result: Attribution,
    example: int | None = None,
    *,
    limit: float | None = None,
    title: str | None = None,
    width: int = grid.WIDTH,
) -> go.Figure:
    """Draw what `direct_logit_attribution` returned.

    Rows are layers, columns attention (or its heads) and MLP, or groups of neurons; by source,
    rows are the heads with the largest shares and columns the tokens that they attended to. What
    has no cell stands below, with the logit (difference) that all of it adds up to.

    Args:
        result: of `direct_logit_attribution`.
        example: one prompt, or None for the mean over all; by source one is needed where there
            are several, for their tokens differ.
        limit: the end of the colour scale in logits, for maps to be compared; the largest share
            of this one if left out.
        title: of the figure.
        width: px that the figure will have; it only decides how much text fits.

    Raises:
        PromptError: there is no such prompt, or one is needed.
    """
    n = result.sizes["example"]
    if example is not None and not 0 <= example < n:
        raise PromptError(f"There is no example {example}; the attribution has {n}, from 0 on.")
    by = str(result.attrs["by"])
    if by == "source" and example is None:
        if n > 1:
            raise PromptError("Tokens differ from prompt to prompt; choose one: example=0.")
        example = 0
    numbers = result[[name for name in result.data_vars if result[name].dtype.kind == "f"]]
    one = numbers.mean("example") if example is None else numbers.isel(example=example)
    table = {"neurons": _neurons, "source": _sources}.get(by, _components)(one)
    of = str(result.attrs["of"])
    what = "logit difference" if of == "logit_diff" else "logit"
    over = f", mean of {n} prompts" if example is None and n > 1 else ""
    capped = " before the soft cap" if "capped" in result else ""
    whole = f"{what}{capped} {plain(float(one[of]))}{over}"
    limit = limit or reach(table.values, "logits")
    return grid.draw(
        grid.Grid(
            values=table.values,
            hover=_hovers(table, over),
            texts=tuple(texts(table.values, decimals) for decimals in (2, 1)),
            elide=False,
            rows=table.rows,
            row_labels=table.row_labels,
            columns=table.columns,
            row_title=table.row_title,
            column_title=table.column_title,
        ),
        scale=theme.DIVERGING,
        limits=(-limit, limit),
        bar=theme.colour_bar(f"share of the<br>{what}"),
        title=title,
        selected=None,
        width=width,
        notes=[f"{', '.join(table.notes)}; {whole}"],
    )


@typed
def attribution_bars(
    result: Attribution,
    example: int = 0,
    *,
    most: int = 12,
    limit: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """Draw the largest shares of one prompt as signed bars, and all others as one.

    The last bar is what all of them add up to, the logit (difference) itself; the one above it is
    the sum of all shares that have no bar of their own.

    Args:
        result: of `direct_logit_attribution`, by "component" or "head".
        example: which prompt.
        most: how many shares have a bar.
        limit: the end of the axis in logits on both sides of 0, for figures to be compared; what
            fits if left out.
        title: of the figure.

    Raises:
        PromptError: there is no such prompt, shares are of something else than components, or no
            bar is left to draw.
    """
    if not 0 <= example < result.sizes["example"]:
        n = result.sizes["example"]
        raise PromptError(f"There is no example {example}; the attribution has {n}, from 0 on.")
    if "component" not in result["contribution"].dims:
        raise PromptError(
            f"Bars stand for components, and this attribution is by {result.attrs['by']}; draw it "
            "with attribution_map, or ask for by='component' or by='head'."
        )
    if most < 1:
        raise PromptError(f"At least one share needs a bar, not {most}.")
    one = result.isel(example=example)
    names = [_component_words(str(name)) for name in one["component"].values]
    shares = one["contribution"].values.astype(float)
    order = np.argsort(-np.abs(shares), kind="stable")
    rows = [(names[i], float(shares[i])) for i in order[:most]]
    if len(order) > most:
        rest = f"{len(order) - most} others"
        rows.append((rest, float(shares[order[most:]].sum())))
    if "rounding" in one:
        rows.append(("rounding", float(one["rounding"])))
    of = str(result.attrs["of"])
    what = "logit difference" if of == "logit_diff" else "logit"
    rows.append((what, float(one[of])))
    labels, values = [name for name, _ in rows], [value for _, value in rows]
    colours = [theme.DIVERGING[-4] if value > 0 else theme.DIVERGING[3] for value in values[:-1]]
    fig = go.Figure(
        go.Bar(
            x=values,
            y=list(range(len(rows))),
            orientation="h",
            marker={"color": [*colours, theme.MUTED]},
            text=[plain(value) for value in values],
            textposition="outside",
            textfont={"size": theme.SMALL},
            cliponaxis=False,
            hovertext=[
                f"<b>{theme.escape(name)}</b><br>{plain(value, 3)} logits" for name, value in rows
            ],
            hovertemplate="%{hovertext}<extra></extra>",
            name="shares",
        )
    )
    theme.finish(fig, title=title, height=(52 if title else 32) + 22 * len(rows) + 46, bargap=0.28)
    furthest = 1.22 * (limit or reach(np.array(values), "logits"))
    fig.update_xaxes(
        title_text=f"share of the {what} (logits)",
        range=[-furthest, furthest],
        zeroline=True,
        zerolinecolor=theme.MUTED,
    )
    fig.update_yaxes(
        tickvals=list(range(len(rows))),
        ticktext=[theme.escape(label) for label in labels],
        range=[len(rows) - 0.5, -0.5],
        showgrid=False,
    )
    fig.update_layout(showlegend=False, margin={"l": 110, "r": 16, "t": 52 if title else 16})
    return fig


def _component_words(name: str) -> str:
    """A component for people: "head 1.3" is head 3 of layer 1."""
    if name == "input":
        return "embedding"
    if name == "bias":
        return "final biases"
    layer, _, part = name[1:].partition(".")
    if name[0] == "m":
        return f"MLP {layer}"
    if part.startswith("h"):
        return f"head {layer}.{part[1:]}"
    return f"attention {layer}" + (" bias" if part else "")


def _components(one: xr.Dataset) -> _Table:
    names = [str(name) for name in one["component"].values]
    share = dict(zip(names, one["contribution"].values.astype(float).tolist(), strict=True))
    layers = sorted({int(layer) for layer in one["layer"].values if layer >= 0})
    n_heads = int(one["head"].values.max()) + 1
    columns = {f"h{head}": f".h{head}" for head in range(n_heads)} | (
        {"bias": ".bias"} if n_heads else {"attention": ""}
    )
    values = [
        [*(share[f"a{layer}{end}"] for end in columns.values()), share[f"m{layer}"]]
        for layer in layers
    ]
    return _Table(
        np.array(values),
        tuple(layers),
        tuple(str(layer) for layer in layers),
        (*columns, "MLP"),
        "layer",
        "heads, attention's bias, and MLP" if n_heads else "component",
        (f"embedding {plain(share['input'])}", f"final biases {plain(share['bias'])}"),
    )


def _neurons(one: xr.Dataset) -> _Table:
    layers = tuple(int(layer) for layer in one["layer"].values)
    return _Table(
        one["contribution"].transpose("layer", "neurons").values.astype(float),
        layers,
        tuple(str(layer) for layer in layers),
        tuple(str(name) for name in one["neurons"].values),
        "layer",
        "neurons",
        (f"{_OTHERS['neurons']} {plain(float(one['rest']))}",),
    )


def _sources(one: xr.Dataset) -> _Table:
    flat = one["contribution"].transpose("layer", "head", "source")
    values = flat.values.astype(float).reshape(-1, flat.sizes["source"])
    tokens = [str(token) for token in one["token"].values]
    values = values[:, : sum(bool(token) for token in tokens)]
    largest = np.argsort(-np.abs(values).max(axis=1))[:MOST_HEADS]
    chosen = np.sort(largest)
    hidden = np.delete(values, chosen, axis=0)
    n_heads = flat.sizes["head"]
    notes = [f"{_OTHERS['source']} {plain(float(one['rest']))}"]
    if len(hidden):
        notes.insert(0, f"{len(hidden)} other heads {plain(float(hidden.sum()))}")
    return _Table(
        values[chosen],
        tuple(int(i) for i in chosen),
        tuple(f"a{i // n_heads}.h{i % n_heads}" for i in chosen),
        tuple(theme.visible(token) for token in tokens[: values.shape[1]]),
        "head",
        "token attended to",
        tuple(notes),
    )


def _hovers(table: _Table, over: str) -> npt.NDArray[np.object_]:
    hover = np.empty(table.values.shape, dtype=object)
    for (row, column), value in np.ndenumerate(table.values):
        place = f"{table.row_title} {table.row_labels[row]}, {table.columns[column]}"
        hover[row, column] = f"<b>{theme.escape(place)}</b><br>{plain(value, 3)} logits{over}"
    return hover
