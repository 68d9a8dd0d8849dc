"""What was found beside random ones: a direction at several doses, tokens of a search."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from cache.arguments import typed
from interp.errors import DirectionError, MetricError
from interp.figures.drawing import theme
from interp.figures.drawing.bands import band, interval_text, mean_intervals_of, prompts_of
from interp.figures.drawing.numbers import plain
from interp.results import DoseResponse, Moved, Searched, SuffixScores
from interp.stats import n_independent

_OWN, _CONTROL, _VECTORS = theme.OKABE_ITO[0], theme.MUTED, theme.OKABE_ITO[2]


@typed
def dose_lines(result: DoseResponse, *, title: str | None = None) -> go.Figure:
    """Draw the mean over examples against the dose.

    The band around the line is the 95% interval of the mean over examples (see `mean_interval`;
    none with few of them); the grey one holds the middle 95% of the random directions' means. The
    dotted line is the model unchanged.

    Args:
        result: of `dose_response`.
        title: of the figure.

    Raises:
        DirectionError: it is no such result.
    """
    if not {"value", "control", "plain"} <= set(result):
        raise DirectionError("This is no dose response; draw what dose_response returned.")
    result = result.sortby("dose")
    doses = result["dose"].values.astype(float)
    value = result["value"].transpose("example", "dose").values.astype(float)
    unit = str(result.attrs.get("unit", ""))
    fig = go.Figure()
    draws = result["control"].mean("example").transpose("dose", "draw").values.astype(float)
    if draws.shape[1]:
        low, high = np.quantile(draws, [0.025, 0.975], axis=1)
        fig.add_trace(band(doses, low, high, _CONTROL, "random directions, middle 95%"))
        name = f"{draws.shape[1]} random directions"
        spread = [f"middle 95%: {plain(a)} to {plain(b)}" for a, b in zip(low, high, strict=True)]
        fig.add_trace(_line(doses, draws.mean(1), _CONTROL, name, unit, spread))
    prompts = np.asarray(prompts_of(result))
    low, high = mean_intervals_of(value, prompts)
    if np.isfinite(low).any():
        fig.add_trace(band(doses, low, high, _OWN, "direction, 95%"))
    counts = [n_independent(at.sum(), prompts[at]) for at in np.isfinite(value).T]
    spread = [interval_text(*each, "examples") for each in zip(low, high, counts, strict=True)]
    fig.add_trace(_line(doses, value.mean(0), _OWN, "direction", unit, spread))
    fig.add_hline(
        y=float(result["plain"].mean()), line={"color": theme.INK, "width": 1, "dash": "dot"}
    )
    theme.finish(fig, title=title, height=340)
    fig.update_layout(margin_t=72 if title else 40)
    measure = theme.words(str(result.attrs.get("metric", "metric")))
    fig.update_yaxes(title_text=theme.escape(f"{measure} ({unit})" if unit else measure))
    what = "coordinate" if result.attrs.get("kind") == "clamp" else "dose"
    fig.update_xaxes(title_text=what, showgrid=False)
    return fig


def _line(
    doses: npt.NDArray[np.float64],
    means: npt.NDArray[np.float64],
    colour: str,
    name: str,
    unit: str,
    spread: list[str],
) -> go.Scatter:
    return go.Scatter(
        x=doses,
        y=means,
        mode="lines+markers",
        line={"color": colour, "width": 2.5},
        marker={"size": 7, "color": colour},
        text=[
            f"<b>{name}</b>, {plain(float(dose))}<br>{plain(float(mean))} {theme.escape(unit)}"
            f"<br>{interval}"
            for dose, mean, interval in zip(doses, means, spread, strict=True)
        ],
        hovertemplate="%{text}<extra></extra>",
        name=name,
    )


@typed
def search_lines(
    result: Searched,
    *,
    controls: SuffixScores | None = None,
    continuous: Moved | None = None,
    title: str | None = None,
) -> go.Figure:
    """Draw the mean score of the prompts after each step of a search.

    The band around the line is the 95% interval of the mean over prompts (see `mean_interval`;
    none with few of them); dots are steps at which a swap was taken, and the hover tells the tokens
    as they were then. The search has chosen the suffix on these very prompts, so that the interval
    says how much prompts differ, and not what another prompt would get. The grey band holds the
    middle 95% of the random suffixes' means, a dashed line is their mean; the dotted line is the
    best that vectors reached within their bound.

    Args:
        result: of `greedy_coordinate_search`.
        controls: of `score_suffixes`, on the same prompts and goal: random suffixes, say.
        continuous: of `continuous_suffix`, on the same prompts and goal.
        title: of the figure.

    Raises:
        MetricError: what is drawn together measures different things.
    """
    others = [one for one in (controls, continuous) if one is not None]
    for one in others:
        same = one.attrs.get("goal") == result.attrs.get("goal")
        if not same or list(one["prompt"].values) != list(result["prompt"].values):
            raise MetricError(
                "The search and what it is compared with have other prompts or another goal; give "
                "results on the same ones."
            )
    score = result["score"].transpose("example", "step").values.astype(float)
    step = result["step"].values
    prompts = np.asarray(prompts_of(result))
    low, high = mean_intervals_of(score, prompts)
    unit = str(result.attrs.get("unit", ""))
    fig = go.Figure()
    if controls is not None:
        _add_controls(fig, controls, step, unit)
    if np.isfinite(low).any():
        # A step's band reaches as far as its line does.
        at, below, above = np.repeat(step, 2)[1:], np.repeat(low, 2)[:-1], np.repeat(high, 2)[:-1]
        fig.add_trace(band(at, below, above, _OWN, "search, 95%"))
    n = n_independent(np.ones(len(prompts), dtype=np.bool_).sum(), prompts)
    tokens = [str(text).strip() for text in result["text"].values]
    tried = np.cumsum(result["tried"].values)
    moved = result["changed_slot"].values >= 0
    mean = score.mean(0)
    fig.add_trace(
        go.Scatter(
            x=step,
            y=mean,
            mode="lines+markers",
            line={"color": _OWN, "width": 2.5, "shape": "hv"},
            marker={"size": np.where(moved, 8, 0), "color": _OWN, "opacity": 1},
            text=[
                f"<b>step {at}</b>, {int(runs):,} suffixes run<br>{plain(float(value))} "
                f"{theme.escape(unit)}<br>{interval_text(a, b, n, 'prompts')}"
                f"<br>{theme.shown(text, 80)}"
                for at, runs, value, a, b, text in zip(
                    step, tried, mean, low, high, tokens, strict=True
                )
            ],
            hovertemplate="%{text}<extra></extra>",
            name="search",
            legendrank=1,
        )
    )
    if continuous is not None:
        level = float(continuous["score"].mean())
        bound = float(continuous.attrs["bound"])
        name = f"vectors within {bound:g}"
        fig.add_trace(_level(step, level, _VECTORS, "dot", name, unit))
    theme.finish(fig, title=title, height=360)
    fig.update_layout(margin_t=72 if title else 40, margin_b=88)
    measure = theme.words(str(result.attrs.get("metric", "score")))
    fig.update_yaxes(title_text=theme.escape(f"{measure} ({unit})" if unit else measure))
    fig.update_xaxes(title_text="step", showgrid=False)
    theme.note(fig, f"found: {theme.shorten(theme.visible(tokens[-1]), 90)}", below=52)
    return fig


def _add_controls(
    fig: go.Figure, controls: SuffixScores, step: npt.NDArray[np.int64], unit: str
) -> None:
    means = controls["score"].mean("example").values.astype(float)
    low, high = np.quantile(means, [0.025, 0.975])
    if len(means) > 1:
        below, above = np.full(len(step), low), np.full(len(step), high)
        fig.add_trace(band(step, below, above, _CONTROL, "random suffixes, middle 95%"))
    name = f"{len(means)} random suffixes" if len(means) > 1 else "random suffix"
    fig.add_trace(_level(step, float(means.mean()), _CONTROL, "dash", name, unit))


def _level(
    step: npt.NDArray[np.int64], level: float, colour: str, dash: str, name: str, unit: str
) -> go.Scatter:
    return go.Scatter(
        x=step,
        y=np.full(len(step), level),
        mode="lines",
        line={"color": colour, "width": 2, "dash": dash},
        hovertemplate=f"<b>{theme.escape(name)}</b><br>{plain(level)} {theme.escape(unit)}"
        "<extra></extra>",
        name=name,
    )
