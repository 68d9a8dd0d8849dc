"""A report as one HTML page that opens offline."""

from __future__ import annotations

from collections.abc import Mapping

import plotly.graph_objects as go

from experiments.figure import Telling
from experiments.numbers import percent
from experiments.reports.page import render_page
from experiments.reports.paper import Paper
from experiments.study import Verdict

__all__ = ["html", "interval"]


def html(
    paper: Paper,
    drawn: Mapping[str, go.Figure],
    told: Mapping[str, Telling],
    codes: Mapping[str, str],
) -> str:
    """The page as text.

    Args:
        drawn: the figures by name.
        told: what is told with each.
        codes: by figure the Python that draws it.
    """
    values = {
        "paper": paper,
        "told": told,
        "codes": codes,
        "interval": interval,
        "kind": lambda part: type(part).__name__,
    }
    return render_page("experiments.reports", "paper.html.j2", drawn, values)


def interval(verdict: Verdict) -> str:
    """The estimate with its interval, as a cell of the table of verdicts."""
    if verdict.estimate is None:
        return "–"
    share = verdict.unit.startswith("share")

    def shown(value: float | None) -> str:
        if value is None:
            return "–"
        return percent(value) if share else f"{value:.3g}".replace("-", "−")

    ends = f" [{shown(verdict.low)}, {shown(verdict.high)}]"
    bounded = verdict.low is not None or verdict.high is not None
    # Pages say what brackets hold "unless another confidence is named".
    named = f" ({percent(verdict.confidence)})" if verdict.confidence != 0.95 else ""
    return shown(verdict.estimate) + (f"{ends}{named}" if bounded else "")
