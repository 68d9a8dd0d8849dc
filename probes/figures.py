"""Figures of probes: the control always beside the probe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from interp.errors import ProbeError
from interp.figures.drawing import theme
from interp.figures.drawing.bands import band
from interp.figures.drawing.numbers import plain

__all__ = ["probe_lines", "retrieval_lines", "steering_lines", "transfer_map"]

Array = np.ndarray[Any, np.dtype[Any]]

_PROBE, _CONTROL, _SHUFFLED = theme.OKABE_ITO[0], theme.OKABE_ITO[1], theme.MUTED


def probe_lines(
    report: xr.Dataset,
    *,
    words: xr.Dataset | None = None,
    names: Sequence[str] | None = None,
    axis: str = "",
    title: str | None = None,
) -> go.Figure:
    """Draw what `probe_report` returned: held-out accuracy at every site.

    One line is the probe, one the control labels, each with its interval over groups as a band; the
    grey one is what probes make of shuffled labels, and the dotted one what answering without
    looking gets. Points are hollow where the corrected p value is .05 or more. Where there are too
    few groups for intervals, none are drawn.

    Args:
        report: result of `probe_report`.
        words: a report of one site on the same examples, what their prompts' words tell, say; a
            line across.
        names: what to call the sites; their own names if left out.
        axis: what to call all of them.
        title: of the figure.

    Raises:
        ProbeError: there are more or fewer names than sites.
    """
    sites = [str(site) for site in report["site"].values]
    shown = sites if names is None else list(names)
    if len(shown) != len(sites):
        raise ProbeError(f"{len(shown)} names do not fit {len(sites)} sites.")
    at = np.arange(len(sites))
    found = report["p_corrected"].values < 0.05
    fig = go.Figure()
    across = [(float(report["majority"]), "commonest class", "dot")]
    if words is not None:
        across.append((float(words["accuracy"].values[0]), "words alone", "longdashdot"))
    across.sort()
    for (value, name, dash), anchor in zip(across, ("top", "bottom"), strict=False):
        _across(fig, value, name, dash, anchor if len(across) > 1 else "middle")
    for name in ("control", "accuracy"):
        _, colour, low, high = _with_interval(report, name)
        if len(sites) > 1:
            fig.add_trace(band(at, low, high, colour, name))
    shuffled = report["null"].mean("null").values
    fig.add_trace(_line(at, shuffled, _SHUFFLED, "shuffled labels", dash="dot"))
    for name, called, dash in (("control", "control labels", "dash"), ("accuracy", "probe", "")):
        values, colour, *ends = _with_interval(report, name)
        hovers = _hovers(report) if name == "accuracy" else None
        line = _line(at, values, colour, called, dash=dash or "solid", hovers=hovers)
        if len(sites) == 1:
            line.error_y = _bars(values, *ends)
        if name == "accuracy":
            line.marker.symbol = ["circle" if one else "circle-open" for one in found]
        fig.add_trace(line)
    theme.finish(fig, title=title, height=360 + (28 if title else 0), hovermode="x unified")
    fig.update_layout(margin={"t": 68 if title else 40, "b": 84 if axis else 72, "r": 110})
    fig.update_yaxes(title_text="held-out accuracy", range=[0, 1.03], tickformat=".0%")
    fig.update_xaxes(
        showgrid=False,
        tickvals=at,
        ticktext=[theme.escape(name) for name in shown],
        range=[-0.5, len(sites) - 0.5],
        title_text=theme.escape(axis),
    )
    groups = int(report.attrs.get("groups", 0))
    intervals = f"95% intervals over {groups:,} groups"
    if report["accuracy_low"].isnull().all():
        intervals = f"{groups:,} groups are too few for intervals"
    note = f"{intervals}; hollow points: corrected p ≥ .05."
    if report.attrs.get("drift"):
        note += " Neighbours are alike: p may be too small."
    theme.note(fig, note, below=64 if axis else 48)
    return fig


def retrieval_lines(results: Mapping[str, xr.Dataset], *, title: str | None = None) -> go.Figure:
    """Draw what `retrieve` returned of several questions: how often the right item is preferred.

    A line for each result, with its interval as a band; the dotted one is chance, 1/2. Points are
    hollow where the corrected p value is .05 or more.

    Args:
        results: by what to call them, all of the same sites.
        title: of the figure.

    Raises:
        ProbeError: there is none, or they are of different sites.
    """
    sites = [tuple(str(site) for site in result["site"].values) for result in results.values()]
    if len(set(sites)) != 1:
        raise ProbeError(
            f"Lines are drawn over the same sites, but these {len(sites)} results have "
            f"{len(set(sites))} kinds of them; draw those of one kind."
        )
    at = np.arange(len(sites[0]))
    fig = go.Figure()
    _across(fig, 0.5, "chance", "dot", "middle")
    for number, (name, result) in enumerate(results.items()):
        colour = theme.OKABE_ITO[number % len(theme.OKABE_ITO)]
        values, low, high = (
            result[f"preferred{end}"].values.astype(float) for end in ("", "_low", "_high")
        )
        fig.add_trace(band(at, low, high, colour, name))
        hovers = [
            f"<b>{theme.escape(name)}: {float(one['preferred']):.1%}</b>"
            f"{_interval(one, 'preferred')}, corrected p {float(one['p_corrected']):.2g}"
            for one in (result.isel(site=i) for i in at)
        ]
        line = _line(at, values, colour, theme.escape(name), hovers=hovers)
        line.marker.symbol = [
            "circle" if p < 0.05 else "circle-open" for p in result["p_corrected"].values
        ]
        fig.add_trace(line)
    theme.finish(fig, title=title, height=380 + (28 if title else 0), hovermode="x unified")
    fig.update_layout(margin={"t": 84 if title else 56, "b": 72, "r": 80})
    fig.update_yaxes(title_text="right one preferred", range=[0, 1.03], tickformat=".0%")
    fig.update_xaxes(
        showgrid=False,
        tickvals=at,
        ticktext=[theme.escape(site) for site in sites[0]],
        range=[-0.5, len(at) - 0.5],
    )
    theme.note(fig, "95% intervals; hollow points: corrected p ≥ .05.", below=48)
    return fig


def transfer_map(
    result: xr.Dataset, *, site: str | None = None, title: str | None = None
) -> go.Figure:
    """Draw what `transfer_sites` or `transfer_conditions` returned: trained in rows, tested in
    columns.

    Args:
        result: the result.
        site: which one to draw, where probes were trained by condition.
        title: of the figure.
    """
    accuracy = result["accuracy"]
    if "site" in accuracy.dims:
        accuracy = accuracy.sel(site=site or str(accuracy["site"].values[0]))
    values = accuracy.values
    texts = [[f"{100 * value:.0f}" for value in row] for row in values]
    fig = go.Figure(
        go.Heatmap(
            z=values,
            x=[theme.escape(str(name)) for name in accuracy["test"].values],
            y=[theme.escape(str(name)) for name in accuracy["train"].values],
            zmin=0,
            zmax=1,
            colorscale=theme.SEQUENTIAL,
            text=texts,
            texttemplate="%{text}" if values.size <= 400 else None,
            hovertemplate="trained on %{y}, tested on %{x}: %{z:.1%}<extra></extra>",
            xgap=1,
            ygap=1,
            colorbar=theme.colour_bar("accuracy", tickformat=".0%"),
        )
    )
    theme.finish(fig, title=title, height=180 + 26 * len(values) + (28 if title else 0))
    fig.update_layout(margin={"b": 80, "r": 90})
    fig.update_yaxes(title_text="trained on", autorange="reversed", showgrid=False, type="category")
    fig.update_xaxes(title_text="tested on", showgrid=False, type="category")
    return fig


def steering_lines(result: xr.Dataset, *, title: str | None = None) -> go.Figure:
    """Draw what `steering_check` returned: the answer by dose, and random directions in grey.

    Lines are random directions that vary as the activations do, dotted ones those that are equally
    likely everywhere; all are at right angles to the probe's.
    """
    result = result.sortby("dose")
    doses = result["dose"].values
    fig = go.Figure()
    kinds = {
        "control": ("random, as activations vary", "solid"),
        "isotropic": ("random, everywhere alike", "dot"),
    }
    for kind, (name, dash) in kinds.items():
        draws = result[kind].mean("example").transpose("dose", "draw").values
        for number in range(draws.shape[1]):
            fig.add_trace(
                go.Scatter(
                    x=doses,
                    y=draws[:, number],
                    mode="lines",
                    line={"color": _SHUFFLED, "width": 1, "dash": dash},
                    opacity=0.5,
                    name=name,
                    legendgroup=kind,
                    showlegend=number == 0,
                    hoverinfo="skip",
                )
            )
    values = result["value"].mean("example").values
    fig.add_trace(
        go.Scatter(
            x=doses,
            y=values,
            mode="lines+markers",
            line={"color": _PROBE, "width": 2.5},
            marker={"size": 7},
            name="the probe's direction",
            hovertemplate="dose %{x:g}: %{y:.2f}<extra></extra>",
        )
    )
    theme.finish(fig, title=title, height=340 + (28 if title else 0))
    fig.update_layout(margin={"t": 68 if title else 40})
    fig.update_xaxes(title_text="dose, in standard deviations of the prompts' own activations")
    fig.update_yaxes(title_text=theme.escape(str(result.attrs["metric"])))
    return fig


def _with_interval(report: xr.Dataset, name: str) -> tuple[Any, str, Any, Any]:
    values = report[name].values
    colour = _PROBE if name == "accuracy" else _CONTROL
    return values, colour, report[f"{name}_low"].values, report[f"{name}_high"].values


def _across(fig: go.Figure, value: float, name: str, dash: str, anchor: str) -> None:
    """A line from side to side, its name at the right of it."""
    fig.add_hline(y=value, line={"color": theme.MUTED, "width": 1, "dash": dash})
    fig.add_annotation(
        text=name,
        xref="paper",
        x=1.0,
        y=value,
        xanchor="left",
        yanchor=anchor,
        showarrow=False,
        font={"size": theme.SMALL, "color": theme.MUTED},
    )


def _bars(values: Array, low: Array, high: Array) -> dict[str, Any]:
    ends = {"array": high - values, "arrayminus": values - low}
    return {"type": "data", "symmetric": False, **ends, "thickness": 1.2, "width": 4}


def _line(
    at: Array,
    values: Array,
    colour: str,
    name: str,
    *,
    dash: str = "solid",
    hovers: list[str] | None = None,
) -> go.Scatter:
    return go.Scatter(
        x=at,
        y=values,
        mode="lines+markers",
        line={"color": colour, "width": 2, "dash": dash},
        marker={"size": 8, "color": colour},
        text=hovers or [f"{name}: {value:.1%}" for value in values],
        hovertemplate="%{text}<extra></extra>",
        name=name,
    )


def _interval(one: xr.Dataset, name: str) -> str:
    low, high = float(one[f"{name}_low"]), float(one[f"{name}_high"])
    if np.isnan(low):
        return ""
    if name in ("accuracy", "preferred"):
        return f", interval {low:.1%} to {high:.1%}"
    return f", interval {plain(100 * low, 1)} to {plain(100 * high, 1)}"


def _hovers(report: xr.Dataset) -> list[str]:
    out = []
    for number in range(report.sizes["site"]):
        one = report.isel(site=number)
        out.append(
            f"<b>probe: {float(one['accuracy']):.1%}</b>"
            f"{_interval(one, 'accuracy')}"
            f"<br>selectivity {plain(100 * float(one['selectivity']), 1)} points"
            f"{_interval(one, 'selectivity')}"
            f"<br>AUROC {float(one['auroc']):.3f}, corrected p {float(one['p_corrected']):.2g}"
            f"<br>online code {float(one['compression']):.2f} times shorter than a uniform one"
        )
    return out
