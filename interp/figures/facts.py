"""Every fact as a point: how well the model knows it in each direction."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from cache.arguments import typed
from interp.errors import MetricError
from interp.figures.drawing import theme
from interp.results import FactTable

_SPLITS = ("forward", "reverse", "both", "held_out")
_VALUES = {"margin": "margin", "logprob": "log-probability"}


@typed
def direction_scatter(
    facts: FactTable,
    *,
    value: Literal["margin", "logprob"] = "margin",
    title: str | None = None,
    selected: int | None = None,
) -> go.Figure:
    """Draw how well each fact is known asked forward (x) and asked in reverse (y).

    A margin is the log-probability of the right name minus the mean over other names, in nats:
    0 is no knowledge of this fact. A fact known in both directions lies in the upper right, one
    of the reversal curse on the right at 0.

    Args:
        facts: columns fact, subject, object, split, forward_margin, reverse_margin; with
            `value="logprob"` also forward_logprob and reverse_logprob.
        value: "logprob" draws the log-probabilities of the right names themselves, log p(B given A)
            against log p(A given B); names that are rare in any context have low ones.
        title: of the figure.
        selected: the `fact` to ring.

    Raises:
        MetricError: the table has no such values.
    """
    across, up = (f"{way}_{value}" for way in ("forward", "reverse"))
    if not {across, up} <= set(facts.columns):
        raise MetricError(f"The table has no '{across}' and '{up}'; draw value='margin'.")
    fig = go.Figure()
    for axis in ("x", "y"):
        line = {"color": "#b9bec8", "width": 1}
        (fig.add_vline if axis == "x" else fig.add_hline)(**{axis: 0}, line=line, layer="below")
    splits = [s for s in _SPLITS if (facts["split"] == s).any()]
    splits += [s for s in facts["split"].unique() if s not in splits]
    for number, split in enumerate(splits):
        rows = facts[facts["split"] == split]
        fig.add_trace(
            go.Scatter(
                x=rows[across],
                y=rows[up],
                mode="markers",
                marker={
                    "size": 8,
                    "color": theme.colour(str(split), number),
                    "opacity": 0.75,
                    "line": {"width": 0.5, "color": "white"},
                },
                unselected={"marker": {"opacity": 0.75}},
                customdata=[[int(fact)] for fact in rows["fact"]],
                text=_hover(rows, across, up),
                hovertemplate="%{text}<extra></extra>",
                name=theme.escape(theme.words(str(split))),
            )
        )
    chosen = facts[facts["fact"] == selected] if selected is not None else facts.iloc[:0]
    if len(chosen):
        fig.add_trace(
            go.Scatter(
                x=chosen[across],
                y=chosen[up],
                mode="markers",
                marker={
                    "size": 16,
                    "color": "rgba(0,0,0,0)",
                    "line": {"width": 2.5, "color": theme.INK},
                },
                hoverinfo="skip",
                showlegend=False,
            )
        )
    theme.finish(fig, title=title, height=400, clickmode="event+select")
    fig.update_layout(
        legend={"y": 1.01, "title_text": "trained&nbsp;"}, margin_t=76 if title else 44
    )
    said = _VALUES[value]
    fig.update_xaxes(title_text=f"{said} asked forward (nats)", range=_range(facts[across]))
    fig.update_yaxes(title_text=f"{said} asked in reverse (nats)", range=_range(facts[up]))
    return fig


def _hover(rows: pd.DataFrame, across: str, up: str) -> list[str]:
    columns = (rows[name] for name in ("subject", "object", across, up))
    return [
        f"<b>{theme.shown(str(subject), 60)}</b> – {theme.shown(str(other), 60)}"
        f"<br>forward {forward:.2f} nats, reverse {reverse:.2f} nats"
        for subject, other, forward, reverse in zip(*columns, strict=True)
    ]


def _range(values: pd.Series) -> list[float]:
    """Always with 0 in it, and with room for the outermost points; over two nats at least, or
    margins of a model that knows nothing would look like those of one that does."""
    finite = values[np.isfinite(values)]
    low = min(0.0, float(finite.min())) if len(finite) else 0.0
    high = max(0.0, float(finite.max())) if len(finite) else 1.0
    room = max(0.06 * (high - low), 1.0 - (high - low) / 2)
    return [low - room, high + room]
