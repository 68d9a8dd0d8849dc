"""What figures of these studies share: arms in rows, a point for each seed, an interval."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from experiments.figure import counted
from experiments.phenomena.estimates import estimate
from experiments.phenomena.phenomenon import GIVEN
from interp.figures.drawing import theme
from interp.figures.drawing.dots import Dots, interval_dots, nothing_to_draw

__all__ = ["arm_dots", "arm_name", "beside", "many_of", "over", "over_requests"]


def arm_name(arm: str) -> str:
    """As people read it."""
    return "this model" if arm == GIVEN else arm


def many_of(values: xr.DataArray, one: str) -> str:
    """Over how many examples each model's mean is, as a phrase: "24 requests of each model".

    Args:
        values: (…, example), NaN where an example is not drawn; models without any are left out.
        one: what an example is.
    """
    there = np.isfinite(values.transpose(..., "example").values.astype(float))
    counts = {int(count) for count in np.unique(there.sum(-1))}
    return f"{counted(counts - {0}, one)} of each model"


def beside(*own: str, others: str) -> Callable[[xr.Dataset], str]:
    """What a figure is held against: what it draws of each model, and the arms, where there are
    such: a model that is measured alone has none.

    Args:
        own: controls within a model.
        others: those that are arms.
    """
    return functools.partial(_beside, own, others)  # which is sent to workers


def _beside(own: tuple[str, ...], others: str, results: xr.Dataset) -> str:
    told = [*own, others] if results.sizes["arm"] > 1 else list(own)
    return "; ".join(told) or "none: no other model was measured"


def over(results: xr.Dataset, many: str) -> str:
    """What the intervals of `arm_dots` are over.

    Args:
        results: (arm, seed, …).
        many: what examples are.
    """
    seeds = results.sizes["seed"]
    if seeds == 1:
        return f"95% of the mean over {many}, of this one model of each arm"
    return f"95% of the mean over {seeds} organisms, never narrower than over {many}; " + (
        "small points: organisms"
    )


def over_requests(results: xr.Dataset) -> str:
    """The same where examples are requests."""
    return over(results, "requests")


def arm_dots(
    series: Mapping[str, xr.DataArray],
    *,
    axis: str,
    bounds: tuple[float, float] | None = None,
    margin: float = 0.0,
    colours: Mapping[str, str] | None = None,
    by: str = "arm",
) -> go.Figure:
    """Means with their intervals in a row for each arm, with the seeds' means as points.

    Args:
        series: by name the values (arm, seed, example), of which NaN are left out.
        axis: what is drawn, with its unit.
        bounds: smallest and largest possible value, as for `estimate`.
        margin: what counts as none on both sides of 0.
        colours: by series; the usual ones if left out.
        by: the dimension that the rows are, if not the arms.
    """
    rows = list(
        dict.fromkeys(arm_name(str(arm)) for one in series.values() for arm in one[by].values)
    )
    dots = []
    for number, (name, values) in enumerate(series.items()):
        found = {}
        for row in values[by].values:
            of_seeds = values.sel({by: row}).transpose("seed", ...).values
            flat = [np.asarray(each, np.float64).ravel() for each in of_seeds]
            if all(np.isfinite(each).any() for each in flat):
                found[arm_name(str(row))] = estimate(flat, bounds=bounds)
        dots.append(
            Dots(
                name,
                (colours or {}).get(name, theme.OKABE_ITO[number % len(theme.OKABE_ITO)]),
                list(found),
                [one.mean for one in found.values()],
                [one.low for one in found.values()],
                [one.high for one in found.values()],
                [np.asarray(one.seeds) for one in found.values()]
                if any(len(one.seeds) > 1 for one in found.values())
                else (),
            )
        )
    if not any(one.rows for one in dots):
        return nothing_to_draw("There are no values to draw")
    fig = interval_dots(rows, dots, margin=margin, axis=axis)
    if bounds == (0.0, 1.0):
        fig.update_xaxes(range=[-0.03, 1.03], tickformat=".0%")
    fig.update_layout(showlegend=len(series) > 1)
    return fig
