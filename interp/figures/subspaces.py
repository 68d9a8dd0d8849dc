"""What a search for subspaces found: where and at which rank, and how it compares with controls."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from cache.arguments import typed
from interp.errors import PromptError
from interp.figures.drawing import grid, numbers, theme
from interp.figures.drawing.bands import band, interval_text
from interp.figures.drawing.marks import Texts
from interp.figures.patching import site_name
from interp.results import Subspaces

_DASHES = {
    "arbitrary labels": "solid",
    "random subspace": "dot",
    "norm-matched placebo": "dash",
    "unchanged": "longdashdot",
}
_OWN, _TRAINING = theme.OKABE_ITO[0], theme.OKABE_ITO[5]


@typed
def subspace_map(
    result: Subspaces,
    *,
    rank: int | None = None,
    title: str | None = None,
    selected: tuple[int, int] | None = None,
    width: int = grid.WIDTH,
) -> go.Figure:
    """Draw what `fit_das` returned: held-out accuracy by layer and position.

    Hatched cells are not clear of their controls, or are so by a dormant pathway only.

    Args:
        result: of `fit_das`.
        rank: of the subspaces. If left out, each cell shows its boundary, the smallest rank that
            generalises, in the colour of the held-out accuracy there ("–" and the best rank's
            accuracy where none does).
        title: of the figure.
        selected: (layer, column) to outline.
        width: px that the figure will have; it only decides how much text fits.

    Raises:
        PromptError: there is no such rank.
    """
    ranks = [int(r) for r in result["rank"].values]
    if rank is not None and rank not in ranks:
        raise PromptError(
            f"There is no rank {rank}; the search holds {', '.join(map(str, ranks))}."
        )
    result = result.transpose("layer", "position", "rank", ...)
    held = result["held_out"].values
    bounds = result["boundary"].values
    shape = bounds.shape
    if rank is None:
        best = held.argmax(-1)
        chosen = [
            [ranks.index(int(b)) if np.isfinite(b) else best[i, j] for j, b in enumerate(row)]
            for i, row in enumerate(bounds)
        ]
        at = np.array(chosen, dtype=np.int64).reshape(shape)
    else:
        at = np.full(shape, ranks.index(rank))
    values = np.take_along_axis(held, at[..., None], -1)[..., 0]
    holds = result["generalises"].values & ~result["dormant"].values
    clear = np.take_along_axis(holds, at[..., None], -1)[..., 0]
    texts: tuple[Texts, ...]
    if rank is None:
        said = np.array([[f"{b:.0f}" if np.isfinite(b) else "–" for b in row] for row in bounds])
        texts = (said.astype(object).reshape(shape),)
    else:
        texts = tuple(numbers.texts(values, decimals) for decimals in (2, 1))
    layers = tuple(int(layer) for layer in result["layer"].values)
    labels = tuple(str(label) for label in result["position_label"].values)
    hover = np.empty(shape, dtype=object)
    for row, column in np.ndindex(*shape):
        hover[row, column] = _hover(result, row, column, int(at[row, column]))
    return grid.draw(
        grid.Grid(
            values=values,
            hover=hover,
            texts=texts,
            elide=False,
            rows=layers,
            row_labels=tuple(map(str, layers)),
            columns=labels,
            row_title="layer",
            column_title="position",
            estimated=~clear,
        ),
        scale=theme.SEQUENTIAL,
        limits=(0.0, 1.0),
        bar=theme.colour_bar("held out", tickvals=[0, 0.5, 1], tickformat=".0%"),
        title=title,
        selected=selected,
        width=width,
        notes=_notes(result, rank, clear, width),
    )


@typed
def subspace_lines(
    result: Subspaces, layer: int, position: int | str, *, title: str | None = None
) -> go.Figure:
    """Draw accuracy against rank at one place, with all controls on held-out pairs.

    Args:
        result: of `fit_das`.
        layer: one of its layers.
        position: one of its positions, by number or label.
        title: of the figure.

    Raises:
        PromptError: there is no such layer or position.
    """
    labels = [str(label) for label in result["position_label"].values]
    known: list[int | str] = (
        [*labels]
        if isinstance(position, str)
        else [int(slot) for slot in result["position"].values]
    )
    if layer not in result["layer"].values or position not in known:
        raise PromptError(f"The search holds no layer {layer} and position {position!r}.")
    one = result.sel(layer=layer).isel(position=known.index(position)).sortby("rank")
    ranks = one["rank"].values.astype(float)
    fig = go.Figure()
    for control in one["control"].values:
        cell = one.sel(control=control)
        name = str(control)
        spans = zip(cell["control_low"].values, cell["control_high"].values, strict=True)
        spread = [_interval(*ends, one) for ends in spans]
        line = {"color": theme.MUTED, "width": 1.5, "dash": _DASHES.get(name, "dot")}
        fig.add_trace(_line(ranks, cell["control_held_out"].values, name, line, spread))
    line = {"color": _TRAINING, "width": 1.5}
    fig.add_trace(_line(ranks, one["accuracy"].values, "training pairs", line, None))
    low, high = one["held_out_low"].values, one["held_out_high"].values
    fig.add_trace(band(np.arange(len(ranks)), low, high, _OWN, "held out, 95%"))
    spread = [_interval(*ends, one) for ends in zip(low, high, strict=True)]
    line = {"color": _OWN, "width": 2.5}
    fig.add_trace(_line(ranks, one["held_out"].values, "held out", line, spread))
    if np.isfinite(one["boundary"]):
        fig.add_vline(
            x=int(np.searchsorted(ranks, float(one["boundary"]))),
            line={"color": theme.INK, "width": 1, "dash": "dot"},
            annotation_text="boundary",
            annotation_font={"size": theme.SMALL, "color": theme.MUTED},
            annotation_position="top left",
        )
    theme.finish(fig, title=title, height=360)
    fig.update_layout(margin_t=96 if title else 64)
    fig.update_yaxes(
        title_text="counterfactual answer comes out", range=[-0.03, 1.03], tickformat=".0%"
    )
    fig.update_xaxes(
        title_text="rank of the subspace",
        # Evenly: what a rank adds is compared with the one before it.
        tickvals=list(range(len(ranks))),
        ticktext=[f"{rank:.0f}" for rank in ranks],
        range=[-0.25, len(ranks) - 0.75],
        showgrid=False,
    )
    return fig


def _line(
    ranks: np.ndarray[tuple[int], np.dtype[np.float64]],
    values: np.ndarray[tuple[int], np.dtype[np.float64]],
    name: str,
    line: dict[str, object],
    spread: list[str] | None,
) -> go.Scatter:
    more = [f"<br>{text}" for text in spread] if spread else [""] * len(ranks)
    return go.Scatter(
        x=list(range(len(ranks))),
        y=values,
        mode="lines+markers",
        line=line,
        marker={"size": 6, "color": line["color"]},
        text=[
            f"<b>{theme.escape(name)}</b>, rank {rank:.0f}<br>{_percent(value)}{extra}"
            for rank, value, extra in zip(ranks, values, more, strict=True)
        ],
        hovertemplate="%{text}<extra></extra>",
        name=theme.escape(name),
    )


def _hover(result: xr.Dataset, row: int, column: int, at: int) -> str:
    cell = result.isel(layer=row, position=column, rank=at)
    where = f"{site_name(str(result.attrs.get('site', '')))} {int(cell['layer'])}"
    lines = [
        f"<b>{theme.escape(where)}</b>, {theme.shown(str(cell['position_label'].values), 40)}",
        f"rank {int(cell['rank'])}: held out <b>{_percent(float(cell['held_out']))}</b>, "
        + _interval(float(cell["held_out_low"]), float(cell["held_out_high"]), cell),
        f"training pairs {_percent(float(cell['accuracy']))}",
    ]
    for control in result["control"].values:
        held = float(cell["control_held_out"].sel(control=control))
        lines.append(f"{theme.escape(control)} {_percent(held)}")
    lines.append(f"whole activation {_percent(float(cell['whole']))}")
    natural = _percent(float(cell["natural"]))
    if bool(cell["dormant"]):
        lines.append(f"<b>dormant</b>: without such directions {natural}")
    elif not bool(cell["generalises"]):
        lines.append("not clear of every control")
    return "<br>".join(lines)


def _notes(
    result: xr.Dataset,
    rank: int | None,
    clear: np.ndarray[tuple[int, ...], np.dtype[np.bool_]],
    width: int,
) -> list[str]:
    said = []
    if rank is None:
        said.append("Numbers are the smallest rank that generalises.")
    if not clear.all():
        which = "All cells (hatched)" if not clear.any() else "Hatched cells"
        said.append(f"{which} are not clear of every control on held-out pairs.")
    dormant = result["dormant"] if rank is None else result["dormant"].sel(rank=rank)
    if bool(dormant.any()):
        n = int(dormant.sum())
        said.append(
            f"{n} subspace{'s' if n > 1 else ''} that work{'' if n > 1 else 's'} by a dormant "
            "pathway count as not clear."
        )
    return theme.lines(" ".join(said), width) if said else []


def _interval(low: float, high: float, cell: xr.Dataset) -> str:
    return interval_text(low, high, float(cell["independent"]), "groups")


def _percent(share: float) -> str:
    return f"{share:.0%}" if np.isfinite(share) else "–"
