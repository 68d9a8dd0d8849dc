"""Draws organisms that were trained otherwise: arms, scale, training time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from experiments.organisms.facts import DIRECTIONS
from experiments.reversal_curse.arms.scale import FACTORS
from experiments.reversal_curse.arms.stage import outcome_counts
from interp.figures.drawing import theme
from interp.figures.ranks import rank_axis, rank_scale

__all__ = [
    "arm_outcomes",
    "arm_scores",
    "scale_scores",
    "time_association",
    "time_ranks",
    "time_scores",
]

_ROW = 30  # px of an arm
_FRAME = 130
_OUTCOMES = {
    "supported": theme.OKABE_ITO[2],
    "rejected": theme.OKABE_ITO[1],
    "undecided": theme.MUTED,
}
_FACTOR_WORDS = {
    "width": "width of the model",
    "pairs": "pairs in its world",
    "passes": "times everything is told (plain recipe: 1)",
}
_SHIFT = {"forward": 0.16, "reverse": -0.16}


def arm_scores(arms: pd.DataFrame) -> go.Figure:
    """Answers to forward-only pairs under each arm, both directions, a point for each seed."""
    names = list(dict.fromkeys(arms["arm"]))
    places = {name: len(names) - 1 - i for i, name in enumerate(names)}
    panels = {
        "accuracy": "right in natural words (share)",
        "held_first": "first among held-out names (share)",
        "score": "preference for the right name (nats)",
    }
    fig = make_subplots(rows=1, cols=len(panels), shared_yaxes=True, horizontal_spacing=0.03)
    for column, (value, title) in enumerate(panels.items(), 1):
        for direction in DIRECTIONS:
            rows = arms[arms["direction"] == direction]
            fig.add_trace(
                _points(
                    rows[value],
                    rows["arm"].map(places) + _SHIFT[direction],
                    [
                        f"{arm}, seed {seed}"
                        for arm, seed in zip(rows["arm"], rows["seed"], strict=True)
                    ],
                    direction,
                    legend=column == 1,
                ),
                row=1,
                col=column,
            )
        fig.update_xaxes(title_text=title, row=1, col=column)
        if value != "score":
            fig.update_xaxes(range=[-0.04, 1.04], tickformat=".0%", row=1, col=column)
    chance = float(arms["chance"].mean())
    fig.add_vline(x=chance, line={"color": theme.MUTED, "dash": "dot", "width": 1}, row=1, col=2)
    fig.add_vline(x=0, line={"color": theme.MUTED, "dash": "dot", "width": 1}, row=1, col=3)
    theme.finish(fig, title=None, height=_FRAME + _ROW * len(names))
    fig.update_yaxes(
        tickvals=[places[name] for name in names],
        ticktext=[theme.escape(name) for name in names],
        range=[-0.6, len(names) - 0.4],
    )
    fig.update_layout(
        legend={"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom", "title_text": ""},
        margin={"t": 48, "l": 140},
    )
    return fig


def _points(
    x: pd.Series, y: pd.Series, labels: Sequence[str], direction: str, *, legend: bool
) -> go.Scatter:
    return go.Scatter(
        x=x,
        y=y,
        mode="markers",
        marker={"size": 8, "color": theme.COLOURS[direction], "opacity": 0.65},
        text=[theme.escape(label) for label in labels],
        hovertemplate=f"<b>%{{text}}</b>, asked {direction}<br>%{{x:.3~f}}<extra></extra>",
        name=f"asked {direction}",
        legendgroup=direction,
        showlegend=legend,
    )


def arm_outcomes(verdicts: pd.DataFrame) -> go.Figure:
    """How many seeds support, reject or leave open each hypothesis under each arm."""
    counts = outcome_counts(verdicts)
    arms = list(dict.fromkeys(counts["arm"]))
    hypotheses = list(dict.fromkeys(counts["id"]))
    fig = go.Figure()
    for outcome, colour in _OUTCOMES.items():
        rows = counts[counts[outcome] > 0]
        seeds = counts[list(_OUTCOMES)].sum(axis=1).max()
        offset = (list(_OUTCOMES).index(outcome) - 1) * 0.28
        fig.add_trace(
            go.Scatter(
                x=[hypotheses.index(each) + offset for each in rows["id"]],
                y=[arms.index(each) for each in rows["arm"]],
                mode="markers+text",
                marker={
                    "symbol": "square",
                    "size": 17,
                    "color": colour,
                    "opacity": (0.5 + 0.5 * rows[outcome] / seeds).to_numpy(dtype=float),
                },
                text=rows[outcome].astype(str),
                textfont={"color": "white", "size": theme.SMALL},
                customdata=np.column_stack([rows["arm"], rows["id"]]),
                hovertemplate=(
                    f"<b>%{{customdata[1]}}</b>, %{{customdata[0]}}<br>{outcome} in %{{text}} of "
                    f"{seeds} seeds<extra></extra>"
                ),
                name=outcome,
            )
        )
    theme.finish(fig, title=None, height=_FRAME + _ROW * len(arms))
    fig.update_xaxes(
        tickvals=list(range(len(hypotheses))),
        ticktext=[theme.escape(each) for each in hypotheses],
        side="top",
        range=[-0.5, len(hypotheses) - 0.5],
        showgrid=False,
    )
    fig.update_yaxes(
        tickvals=list(range(len(arms))),
        ticktext=[theme.escape(each) for each in arms],
        range=[len(arms) - 0.5, -0.5],
    )
    fig.update_layout(
        legend={"orientation": "h", "x": 0, "y": 0, "yanchor": "top", "title_text": ""},
        margin={"l": 140, "t": 56},
    )
    return fig


def scale_scores(scale: pd.DataFrame) -> go.Figure:
    """The preference for the right name over size, facts and passes, a point for each training."""
    varied = [name for name in FACTORS if scale[name].nunique() > 1] or [FACTORS[0]]
    fig = make_subplots(rows=1, cols=len(varied), shared_yaxes=True, horizontal_spacing=0.04)
    for column, factor in enumerate(varied, 1):
        values = sorted(scale[factor].unique())
        for direction in DIRECTIONS:
            rows = scale[scale["direction"] == direction]
            at = rows[factor].map(values.index) + _SHIFT[direction]
            labels = [
                f"{row.width} wide, {row.pairs} pairs, {row.passes:g} ×, seed {row.seed}"
                for row in rows.itertuples()
            ]
            trace = _points(at, rows["score"], labels, direction, legend=column == 1)
            trace.hovertemplate = trace.hovertemplate.replace("%{x:.3~f}", "%{y:.2f} nats")
            fig.add_trace(trace, row=1, col=column)
        fig.update_xaxes(
            title_text=_FACTOR_WORDS[factor],
            tickvals=list(range(len(values))),
            ticktext=[f"{value:g}" for value in values],
            row=1,
            col=column,
        )
    theme.finish(fig, title=None, height=380)
    fig.add_hline(y=0, line={"color": theme.MUTED, "dash": "dot", "width": 1})
    fig.update_yaxes(title_text="preference for the right name (nats)", col=1)
    fig.update_layout(
        legend={"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom", "title_text": ""},
        margin={"t": 48},
    )
    return fig


def time_scores(training_time: pd.DataFrame) -> go.Figure:
    """Preference for the right name along training, both directions, a panel for each arm."""
    return _along(
        training_time, ("score", "low", "high"), "preference for the right name (nats)", "nats"
    )


def time_association(training_time: pd.DataFrame) -> go.Figure:
    """How far the weights alone lead to the right name along training, likewise."""
    columns = ("association", "association_low", "association_high")
    return _along(training_time, columns, "weights lead to the right name (SD)", "SD")


def time_ranks(training_time: pd.DataFrame) -> go.Figure:
    """Median rank of the right name under the logit lens by layer: a line for each step."""
    arms = list(dict.fromkeys(training_time["arm"]))
    layers = sorted(
        int(name[5:]) for name in map(str, training_time.columns) if name.startswith("rank_")
    )
    panels = [(arm, direction) for arm in arms for direction in DIRECTIONS]
    fig = make_subplots(
        rows=1,
        cols=len(panels),
        shared_yaxes=True,
        horizontal_spacing=0.03,
        subplot_titles=[f"{theme.escape(arm)}, asked {direction}" for arm, direction in panels],
    )
    last = max(int(training_time["step"].max()), 1)
    for column, (arm, direction) in enumerate(panels, 1):
        chosen = (training_time["arm"] == arm) & (training_time["direction"] == direction)
        rows = training_time[chosen]
        medians = rows.groupby("step")[[f"rank_{layer}" for layer in layers]].median()
        for step, ranks in medians.iterrows():
            share = float(str(step)) / last
            place = round((0.2 + 0.8 * min(1.0, share)) * (len(theme.SEQUENTIAL) - 1))
            fig.add_trace(
                go.Scatter(
                    x=layers,
                    y=rank_scale(ranks),
                    customdata=1 + ranks.to_numpy(dtype=float),
                    mode="lines+markers",
                    line={"color": theme.SEQUENTIAL[place], "width": 2},
                    name=f"step {step}",
                    showlegend=False,
                    hovertemplate=(
                        f"<b>step {step}</b>, %{{x}} blocks passed<br>median rank "
                        "%{customdata:,.4~g}<extra></extra>"
                    ),
                ),
                row=1,
                col=column,
            )
    theme.finish(fig, title=None, height=360)
    fig.update_annotations(font={"size": theme.SMALL, "color": theme.MUTED})
    fig.update_xaxes(title_text="blocks passed", dtick=1)
    drawn = training_time[[f"rank_{layer}" for layer in layers]].to_numpy(dtype=float)
    rank_axis(fig, float(np.nanmax(drawn, initial=1.0)))
    fig.update_yaxes(title_text="median rank of the answer (1: first choice)", col=1)
    fig.update_layout(margin={"t": 56})
    return fig


def _along(
    training_time: pd.DataFrame, columns: tuple[str, str, str], title: str, unit: str
) -> go.Figure:
    """Lines with intervals over the steps: a panel for each arm, a colour for each direction."""
    value, low, high = columns
    arms = list(dict.fromkeys(training_time["arm"]))
    fig = make_subplots(
        rows=1,
        cols=len(arms),
        shared_yaxes=True,
        horizontal_spacing=0.04,
        subplot_titles=[theme.escape(arm) for arm in arms],
    )
    for column, arm in enumerate(arms, 1):
        for direction in DIRECTIONS:
            chosen = (training_time["arm"] == arm) & (training_time["direction"] == direction)
            for number, (seed, rows) in enumerate(training_time[chosen].groupby("seed")):
                fig.add_trace(
                    go.Scatter(
                        x=rows["step"],
                        y=rows[value],
                        error_y={
                            "type": "data",
                            "symmetric": False,
                            "array": rows[high] - rows[value],
                            "arrayminus": rows[value] - rows[low],
                            "thickness": 1,
                            "width": 3,
                        },
                        mode="lines+markers",
                        line={"color": theme.COLOURS[direction], "width": 2},
                        name=f"asked {direction}",
                        legendgroup=direction,
                        showlegend=column == 1 and number == 0,
                        hovertemplate=(
                            f"<b>step %{{x}}</b>, asked {direction}, seed {seed}<br>"
                            f"%{{y:.2f}} {unit}<extra></extra>"
                        ),
                    ),
                    row=1,
                    col=column,
                )
    theme.finish(fig, title=None, height=380)
    fig.update_annotations(font={"size": theme.TEXT, "color": theme.MUTED})
    fig.update_xaxes(title_text="step of the training")
    fig.update_yaxes(title_text=title, col=1)
    fig.update_layout(
        legend={"orientation": "h", "x": 0, "y": -0.25, "yanchor": "top", "title_text": ""},
        margin={"t": 48, "b": 96},
    )
    return fig
