"""Intervals as bands behind a line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from interp.figures import theme


def band(
    x: Sequence[float] | np.ndarray[Any, Any],
    low: np.ndarray[Any, Any],
    high: np.ndarray[Any, Any],
    colour: str,
    name: str,
) -> go.Scatter:
    """The area from `low` to `high` over `x`, in a light tint of "#rrggbb"; it takes no hover."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return go.Scatter(
        x=[*x, *x[::-1]],
        y=[*high, *low[::-1]],
        fill="toself",
        fillcolor=f"rgba({red},{green},{blue},0.16)",
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        showlegend=False,
        name=theme.escape(name),
    )
