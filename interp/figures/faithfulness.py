"""How well circuits of growing size do what the whole model does."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import xarray as xr

from cache.arguments import typed
from interp.figures.drawing import theme
from interp.figures.drawing.bands import band
from interp.results import Curve

_CIRCUIT, _COMPLEMENT, _RANDOM = theme.OKABE_ITO[0], theme.OKABE_ITO[1], theme.MUTED
_WIDTH = 640  # px that a line of small print has
_BESIDE = 150  # px of a figure left and right of it
_FURTHEST = (-1.0, 2.0)  # of the axis; a band or draw may leave it, and a note says so

Floats = npt.NDArray[np.float64]


@typed
def faithfulness_lines(
    curve: Curve, *, log: bool = True, title: str | None = None, width: int | None = None
) -> go.Figure:
    """Draw what `faithfulness_curve` returned.

    One line is the circuits' faithfulness with its 95% interval, one their complements', and the
    grey ones those of random circuits of the same size, with their mean. 1 does what the whole
    model does, 0 what it does without any edge. Where no share can be told nothing is drawn but
    the reason. A note says whether the pairs are others than those that the edges were scored on.

    Args:
        curve: result of `faithfulness_curve`.
        log: whether the share of edges is on a logarithmic axis. On a linear one, half of the
            figure is circuits of more than half of the edges, which are nearly the whole model.
        title: of the figure.
        width: px that the figure will have; it only decides where lines of small print end.
    """
    room = _WIDTH if width is None else width - _BESIDE
    shares = curve["fraction"].values.astype(float)
    f, low, high, complement = (
        curve[name].values.astype(float) for name in ("f", "f_low", "f_high", "complement")
    )
    random = curve["random"].values.astype(float)
    fig = go.Figure()
    for level, name in ((0.0, "no edge"), (1.0, "whole model")):
        fig.add_hline(y=level, line={"color": theme.MUTED, "width": 1, "dash": "dot"})
        fig.add_annotation(
            text=name,
            xref="paper",
            x=1.0,
            y=level,
            xanchor="left",
            showarrow=False,
            font={"size": theme.SMALL, "color": theme.MUTED},
        )
    fig.add_trace(band(shares, low, high, _CIRCUIT, "interval"))
    fig.add_traces(list(_random(shares, random)))
    fig.add_trace(_line(shares, complement, _COMPLEMENT, "all other edges", dash="dash"))
    fig.add_trace(_line(shares, f, _CIRCUIT, "circuit", text=_hovers(curve)))
    clear = bool(int(curve.attrs["clear"]))
    notes = _areas(curve, log) if clear else [f"⚠ {curve.attrs['reason']}"]
    if not clear:
        fig.update_layout(plot_bgcolor=theme.EMPTY)
    bottom, top = _reach(f, complement, random.mean(0) if len(random) else f)
    beyond = sum(int(((v < bottom) | (v > top)).sum()) for v in (f, complement, low, high, random))
    if beyond:
        notes.append(f"▲ {beyond} values, ends of intervals among them, lie beyond the axis.")
    notes = [line for note in [*notes, *_pairs(curve)] for line in theme.lines(note, room)]
    below = 52
    theme.finish(fig, title=title, height=330 + 18 * len(notes) + (28 if title else 0))
    fig.update_layout(
        margin={"t": 68 if title else 40, "b": below + 8 + 18 * len(notes), "r": 78},
        legend={"traceorder": "reversed"},
    )
    fig.update_yaxes(title_text="faithfulness", range=[bottom, top])
    fig.update_xaxes(
        title_text="share of all edges",
        type="log" if log else "linear",
        range=_range(shares, log),
        tickvals=_ticks(shares) if log else None,
        ticktext=[_percent(share) for share in _ticks(shares)] if log else None,
        tickformat=None if log else ".0%",
        showgrid=False,
    )
    for number, text in enumerate(notes):
        theme.note(fig, text, below=below + 18 * number)
    return fig


def _line(
    shares: Floats,
    values: Floats,
    colour: str,
    name: str,
    *,
    dash: str = "solid",
    text: list[str] | None = None,
) -> go.Scatter:
    return go.Scatter(
        x=shares,
        y=values,
        mode="lines+markers",
        line={"color": colour, "width": 2.5, "dash": dash},
        marker={"size": 7, "color": colour},
        text=text or [f"<b>{name}</b><br>faithfulness {_number(value)}" for value in values],
        hovertemplate="%{text}<extra></extra>",
        name=name,
    )


def _random(shares: Floats, random: Floats) -> Iterator[go.Scatter]:
    """Each draw as a thin line, and their mean."""
    for draw in random:
        yield go.Scatter(
            x=shares,
            y=draw,
            mode="lines",
            line={"color": _RANDOM, "width": 1},
            opacity=0.45,
            hoverinfo="skip",
            showlegend=False,
            name="random draw",
        )
    if len(random):
        name = f"random edges, mean of {len(random)}"
        yield _line(shares, random.mean(0), _RANDOM, name, dash="dot")


def _hovers(curve: xr.Dataset) -> list[str]:
    texts = []
    for share in curve["fraction"].values:
        one = curve.sel(fraction=share)
        texts.append(
            f"<b>circuit of {int(one['n_edges']):,} edges</b> ({_percent(float(share))} asked for)"
            f"<br>faithfulness <b>{_number(float(one['f']))}</b>, interval "
            f"{_number(float(one['f_low']))} to {_number(float(one['f_high']))}"
            f"<br>all other edges {_number(float(one['complement']))}"
            f"<br>edges shared with circuits of other pairs: {float(one['jaccard']):.0%}, "
            f"at least {float(one['jaccard_low']):.0%}"
        )
    return texts


def _pairs(curve: xr.Dataset) -> list[str]:
    """Whether the circuits are measured on pairs that they were not found on."""
    n, shared = int(curve.attrs["pairs"]), int(curve.attrs["shared_pairs"])
    if not shared:
        return [f"Measured on {n} pairs that the edges were not scored on."]
    which = "the pairs" if shared == n else f"{n} pairs, {shared} of them those"
    text = f"⚠ Measured on {which} that the edges were scored on, which flatters the circuits; "
    return [f"{text}give faithfulness_curve others."]


def _areas(curve: xr.Dataset, log: bool) -> list[str]:
    """CPR and CMD on the axis that is drawn, with random circuits' beside them."""
    axis = "_log" if log else ""
    notes = []
    for name, meaning in (("cpr", "area under the line"), ("cmd", "area between line and 1")):
        value, low, high = (float(curve[f"{name}{axis}{end}"]) for end in ("", "_low", "_high"))
        random = curve[f"{name}{axis}_random"].values.astype(float)
        said = f"{name.upper()} ({meaning}) {_number(value)}, interval {_number(low)} to "
        said += _number(high)
        if random.size:
            said += f"; random {_number(float(random.mean()))}"
        notes.append(said + (", over the log axis" if log else ""))
    return notes


def _reach(*lines: Floats) -> tuple[float, float]:
    """0 and 1 with some room, and the lines as far as they are not out of all proportion."""
    values = np.concatenate([line[np.isfinite(line)] for line in lines])
    low = float(max(_FURTHEST[0], min(-0.1, values.min(initial=0.0) - 0.05)))
    high = float(min(_FURTHEST[1], max(1.15, values.max(initial=0.0) + 0.05)))
    return low, high


def _range(shares: Floats, log: bool) -> list[float]:
    if not log:
        return [-0.02, 1.02]
    low, high = np.log10(shares[[0, -1]])
    room = 0.03 * (high - low)
    return [float(low - room), float(high + room)]


def _ticks(shares: Floats) -> list[float]:
    usual = [mantissa * 10.0**power for power in range(-5, 1) for mantissa in (1, 2, 5)]
    return [tick for tick in usual if shares[0] * 0.99 <= tick <= shares[-1] * 1.01]


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"


def _number(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "−") if np.isfinite(value) else "–"
