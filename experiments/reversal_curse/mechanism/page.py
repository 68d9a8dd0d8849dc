"""Both directions side by side: lens, patching, attribution and transplants, of one fact or all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from experiments.figure import counted
from interp.figures.drawing import theme
from interp.figures.drawing.numbers import plain
from interp.figures.ranks import rank_axis, rank_scale
from interp.stats import mean_interval, mean_intervals, median_interval

__all__ = ["all_facts", "facts_of_all", "one_fact"]

Floats = npt.NDArray[np.float64]
Names = npt.NDArray[np.str_]
_WAYS = ("forward", "reverse")
_HEIGHTS = (0.2, 0.3, 0.2, 0.3)


@dataclass(frozen=True)
class _Stage:
    """What is drawn in a column, of the same facts: [example, …] each.

    Attributes:
        ranks: of the answer's first token [example, layer].
        moved: what patching the stream into a block moves, in logits [example, layer, position].
        effect: of which there is so much [example].
        labels: of the positions.
        shares: of components, in logits [example, component]; None where there are none.
        components: their names.
        carried: what transplants bring out, in nats [example, source, target].
        layers: after which they are read and written; in deeper models not all.
    """

    ranks: Floats
    moved: Floats
    effect: Floats
    labels: tuple[str, ...]
    shares: Floats | None
    components: tuple[str, ...]
    carried: Floats
    layers: tuple[int, ...]
    names: tuple[Names, ...]
    """Who is asked about, of ranks, patches, components and transplants [example] each: examples
    that ask about one person are no independent ones."""


def all_facts(
    lens_forward: xr.Dataset,
    lens_reverse: xr.Dataset,
    patched_forward: xr.Dataset,
    patched_reverse: xr.Dataset,
    components_forward: xr.Dataset,
    components_reverse: xr.Dataset,
    carried_forward: xr.Dataset,
) -> go.Figure:
    """The facts told forward, asked both ways: means (of ranks medians) with 95% intervals.

    Cells of maps whose interval holds 0 are grey, and all of patching where the effect's does.
    """
    return _draw(
        _both_ways(
            (lens_forward, patched_forward, components_forward),
            (lens_reverse, patched_reverse, components_reverse),
            carried_forward,
        ),
        single=False,
    )


def facts_of_all(
    lens_forward: xr.Dataset,
    lens_reverse: xr.Dataset,
    patched_forward: xr.Dataset,
    patched_reverse: xr.Dataset,
    components_forward: xr.Dataset,
    components_reverse: xr.Dataset,
    carried_forward: xr.Dataset,
) -> str:
    """Over how many facts the panels of `all_facts` are."""
    columns = _both_ways(
        (lens_forward, patched_forward, components_forward),
        (lens_reverse, patched_reverse, components_reverse),
        carried_forward,
    )
    counts = [len(names) for one in columns for names in one.names]
    return counted(counts, "fact") + " a panel"


def _both_ways(
    forward: tuple[xr.Dataset, xr.Dataset, xr.Dataset],
    reverse: tuple[xr.Dataset, xr.Dataset, xr.Dataset],
    carried: xr.Dataset,
) -> list[_Stage]:
    """Lens, patches and components of the facts told forward, asked both ways."""
    columns = []
    for (lens, patched, shares), way in ((forward, "as told"), (reverse, "own")):
        split = lens["split"].values
        main = next((name for name in ("forward", "unknown") if (split == name).any()), "")
        facts = [int(i) for i in np.nonzero(split == main)[0]]
        columns.append(_stage(lens, patched, shares, carried, way, facts))
    return columns


def one_fact(
    lens_forward: xr.Dataset,
    lens_reverse: xr.Dataset,
    patched_forward: xr.Dataset,
    patched_reverse: xr.Dataset,
    components_forward: xr.Dataset,
    components_reverse: xr.Dataset,
    carried_forward: xr.Dataset,
) -> go.Figure:
    """The first fact of `components_forward`, asked both ways; no shares, since there is one.

    Where that has none, no fact was told forward, and none is drawn as if it had been.
    """
    facts = components_forward["fact"].values[:1] if "fact" in components_forward else ()
    columns = [
        _stage(lens, patched, shares, carried_forward, way, [int(fact) for fact in facts])
        for lens, patched, shares, way in (
            (lens_forward, patched_forward, components_forward, "as told"),
            (lens_reverse, patched_reverse, components_reverse, "own"),
        )
    ]
    return _draw(columns, single=True)


def _stage(
    lens: xr.Dataset,
    patched: xr.Dataset,
    shares: xr.Dataset,
    carried: xr.Dataset,
    way: str,
    facts: Sequence[int],
) -> _Stage:
    # Told forward: as told it is the subject that is asked about.
    asked = lens["subject" if way == "as told" else "object"].values.astype(np.str_)
    here = np.isin(patched["fact"].values, facts)
    values = patched["patched"].transpose("example", "layer", "position").values[here]
    corrupt = patched["corrupt"].values[here]
    own = None
    attributed = np.zeros(0, np.int64)
    if "contribution" in shares:
        drawn = np.isin(shares["fact"].values, facts)
        own, attributed = (
            shares["contribution"].values[drawn].astype(float),
            shares["fact"].values[drawn],
        )
    put = (
        carried[way]
        .transpose("example", "source_place", "source_layer", "target_place", "target_layer")
        .values
    )
    # Not xarray's stack, which cannot take no examples.
    n, places, layers, others, written = put.shape
    scores = put.reshape(n, places * layers, others * written)
    if way == "own":
        scores = scores - carried["unpatched"].values[:, None, None]
    put_in = np.isin(carried["fact"].values, facts)
    rows = [np.array(each, np.int64) for each in (facts, patched["fact"][here], attributed)]
    return _Stage(
        lens["answer_rank"].values[rows[0]].astype(float),
        (values - corrupt[:, None, None]).astype(float),
        (patched["clean"].values[here] - corrupt).astype(float),
        tuple(str(label) for label in patched["position_label"].values),
        own,
        tuple(str(name) for name in shares["component"].values) if own is not None else (),
        scores[put_in],
        tuple(int(layer) for layer in carried["source_layer"].values),
        tuple(asked[each] for each in (*rows, carried["fact"].values[put_in])),
    )


def _draw(columns: Sequence[_Stage], *, single: bool) -> go.Figure:
    titles = ("asked as told", "asked in reverse")
    fig = make_subplots(
        rows=4,
        cols=2,
        row_heights=list(_HEIGHTS),
        vertical_spacing=0.085,
        horizontal_spacing=0.13,
        column_titles=[f"<b>{title}</b>" for title in titles],
    )
    # One scale in both columns, or an empty map would be stretched until its noise looks strong.
    moved = [_moved(one, single=single) for one in columns]
    carried = [_means(one.carried, one.names[3], single=single) for one in columns]
    limits = [max([1.0, *map(_reach, maps)]) for maps in (moved, carried)]
    worst = max([1.0, *(float(np.nanmax(one.ranks, initial=0.0)) for one in columns)])
    for number, one in enumerate(columns):
        at = {"col": number + 1}
        _ranks(fig, one, theme.COLOURS[_WAYS[number]], row=1, **at)
        _map(fig, moved[number], one.labels, limits[0], row=2, **at)
        _bars(fig, one, theme.COLOURS[_WAYS[number]], single=single, row=3, **at)
        _map(fig, carried[number], (), limits[1], row=4, **at)
    theme.finish(fig, title=None, height=1120, showlegend=False, bargap=0.25)
    fig.update_layout(margin={"t": 40, "b": 140, "l": 70, "r": 90})
    _axes(fig, columns, worst)
    _notes(fig, columns, single=single)
    return fig


def _moved(one: _Stage, *, single: bool) -> Floats:
    """Means of what patches move; none of an effect that is not clear of 0."""
    means = _means(one.moved, one.names[1], single=single)
    clear = single or (len(one.effect) > 0 and mean_interval(one.effect, one.names[1])[0] > 0)
    return means if clear else np.full(means.shape, np.nan)


def _means(values: Floats, names: Names, *, single: bool) -> Floats:
    """Means over examples, of these names; NaN where the interval holds 0, or there is none."""
    if not len(values):
        return np.full(values.shape[1:], np.nan)
    if single:
        return np.asarray(values[0])
    flat = values.reshape(len(values), -1)
    out = np.full(flat.shape[1], np.nan)
    whole = np.isfinite(flat).all(0)  # a place that all of them have
    if whole.any():
        low, high = mean_intervals(flat[:, whole].T, names)
        clear = (low > 0) | (high < 0)
        out[whole] = np.where(clear, flat[:, whole].mean(0), np.nan)
    return out.reshape(values.shape[1:])


def _reach(values: Floats) -> float:
    return float(np.nanmax(np.abs(values), initial=0.0)) if np.isfinite(values).any() else 0.0


def _ranks(fig: go.Figure, one: _Stage, colour: str, **at: int) -> None:
    ranks = one.ranks
    if not len(ranks):
        return
    layers = list(range(ranks.shape[1]))
    ends = [median_interval(ranks[:, layer], one.names[0]) for layer in layers]
    middle = np.median(ranks, axis=0)
    low, high = (np.array([end[side] for end in ends]) for side in (0, 1))
    bars = {}
    if np.isfinite(low).all():
        bars = {
            "type": "data",
            "symmetric": False,
            "array": rank_scale(high) - rank_scale(middle),
            "arrayminus": rank_scale(middle) - rank_scale(low),
            "color": colour,
            "thickness": 1.5,
            "width": 4,
        }
    fig.add_trace(
        go.Scatter(
            x=layers,
            y=rank_scale(middle),
            mode="lines+markers",
            line={"color": colour, "width": 2.5},
            error_y=bars or None,
            customdata=middle + 1,
            hovertemplate="%{x} blocks passed: rank %{customdata:,.0f}<extra></extra>",
        ),
        **_where(at),
    )


def _map(fig: go.Figure, values: Floats, columns: Sequence[str], limit: float, **at: int) -> None:
    fig.add_trace(
        go.Heatmap(
            z=values,
            x=[theme.visible(label) for label in columns] or None,
            zmin=-limit,
            zmax=limit,
            colorscale=theme.DIVERGING,
            xgap=1,
            ygap=1,
            showscale=at["col"] == 1,
            colorbar=theme.colour_bar(
                "logits" if columns else "nats",
                len=0.24,
                y=0.775 if columns else 0.215,
                yanchor="top",
            ),
            hovertemplate="%{y} · %{x}<br><b>%{z:+.2f}</b><extra></extra>",
        ),
        **_where(at),
    )
    # Cells without a value are grey, also where no cell has one.
    rows, width = values.shape
    fig.add_shape(
        type="rect",
        x0=-0.5,
        x1=width - 0.5,
        y0=-0.5,
        y1=rows - 0.5,
        fillcolor=theme.EMPTY,
        line_width=0,
        layer="below",
        **_where(at),
    )
    fig.update_xaxes(range=[-0.5, width - 0.5], **_where(at))
    fig.update_yaxes(range=[-0.5, rows - 0.5], **_where(at))


def _bars(fig: go.Figure, one: _Stage, colour: str, *, single: bool, **at: int) -> None:
    if one.shares is None or not len(one.shares):
        return
    means = one.shares.mean(0)
    bars, shades = None, [colour] * len(means)
    if not single:
        low, high = mean_intervals(one.shares.T, one.names[2])
        bars = {
            "type": "data",
            "symmetric": False,
            "array": np.nan_to_num(high - means),
            "arrayminus": np.nan_to_num(means - low),
            "color": theme.INK,
            "thickness": 1.2,
            "width": 3,
        }
        shades = [colour if a > 0 or b < 0 else "#c9ccd3" for a, b in zip(low, high, strict=True)]
    fig.add_trace(
        go.Bar(
            x=list(one.components),
            y=means,
            marker={"color": shades},
            error_y=bars,
            hovertemplate="%{x}: <b>%{y:+.2f}</b> logits<extra></extra>",
        ),
        **_where(at),
    )


def _where(at: dict[str, int]) -> dict[str, int]:
    return {"row": at["row"], "col": at["col"]}


def _axes(fig: go.Figure, columns: Sequence[_Stage], worst: float) -> None:
    spans = go.Figure()
    rank_axis(spans, worst)
    labels = _places(columns[0].layers)
    shares = [one.shares for one in columns if one.shares is not None and len(one.shares)]
    reach = max([1.0, *(float(np.abs(each.mean(0)).max()) for each in shares)]) * 1.35
    for column in (1, 2):
        fig.update_yaxes(spans.layout.yaxis.to_plotly_json(), row=1, col=column)
        fig.update_xaxes(title_text="blocks passed", dtick=1, row=1, col=column)
        fig.update_xaxes(tickangle=-35, row=2, col=column)
        fig.update_yaxes(dtick=1, row=2, col=column)
        fig.update_yaxes(range=[-reach, reach], zeroline=True, row=3, col=column)
        for axis, side in ((fig.update_xaxes, 1), (fig.update_yaxes, 0)):
            axis(tickvals=list(range(len(labels[side]))), ticktext=labels[side], row=4, col=column)
        fig.update_xaxes(tickangle=-35, title_text="written at", row=4, col=column)
    for row, title in enumerate(
        ("rank of the answer", "patched into block", "logits of the answer", "vector read at")
    ):
        fig.update_yaxes(title_text=title, title_standoff=6, row=row + 1, col=1)
    fig.update_xaxes(showgrid=False)
    fig.update_yaxes(showgrid=False)


def _places(layers: Sequence[int]) -> tuple[list[str], list[str]]:
    """Names of sources and targets of a transplant, with the block behind which they are.

    "end" is the question's end.
    """
    return tuple(  # type: ignore[return-value]
        [f"{place} · {layer}" for place in names for layer in layers]
        for names in (("name", "end", "answer"), ("name", "end"))
    )


def _notes(fig: go.Figure, columns: Sequence[_Stage], *, single: bool) -> None:
    for number, (one, way) in enumerate(zip(columns, ("as told", "in reverse"), strict=True)):
        if single and len(one.ranks):
            text = f"Asked {way}: one pair; no share, circuit or interval can be told of one."
        else:
            text = f"Asked {way}: {_effect(one.effect, one.names[1])}"
        theme.note(fig, text, below=96 + 18 * number)


def _effect(effect: Floats, names: Names) -> str:
    """How far clean and corrupted prompts lie apart, and whether that is clear of nothing."""
    if not len(effect):
        return "no pairs."
    low, high = mean_interval(effect, names)
    text = f"clean and corrupted prompts lie {plain(float(effect.mean()))} logits apart"
    if np.isnan(low):
        return f"{text}, n = {len(effect)}, too few for an interval; no share is told."
    text += f" [{plain(low)}, {plain(high)}], n = {len(effect)}"
    return f"{text}." if low > 0 else f"{text}; not clear of 0, so no share is told."
