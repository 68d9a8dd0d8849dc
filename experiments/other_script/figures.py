"""The figures of the study, drawn from what a run stores."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from experiments.figure import Figure
from experiments.other_script import harm, projection
from experiments.phenomena.estimates import Estimate
from experiments.phenomena.figures import arm_dots, arm_name, beside, many_of, over_requests
from interp.figures.drawing import theme

__all__ = ["BEHAVIOUR", "HARM", "LAYERS", "PROJECTION"]

_SCRIPTS = {
    "first": theme.OKABE_ITO[1],
    "second": theme.OKABE_ITO[0],
    "never learned": theme.MUTED,
}
_WAYS = {
    "first to second": theme.OKABE_ITO[2],
    "second to first": theme.OKABE_ITO[3],
    "first to never learned": theme.MUTED,
}


def behaviour_dots(behaviour: xr.Dataset) -> go.Figure:
    """Which held-out harmful requests are declined, by arm and script."""
    declines = _declined(behaviour)
    return arm_dots(
        {name: declines.sel(script=name, drop=True) for name in _SCRIPTS},
        axis="declined (share of held-out harmful requests)",
        bounds=(0.0, 1.0),
        colours=_SCRIPTS,
    )


def harm_dots(result: xr.Dataset) -> go.Figure:
    """Which held-out requests a probe from another script tells rightly, by arm."""
    return arm_dots(
        {way: _told_rightly(result, way) for way in _WAYS},
        axis="told rightly (share of held-out requests; chance: 50%)",
        bounds=(0.0, 1.0),
        colours=_WAYS,
    )


def projection_dots(result: xr.Dataset) -> go.Figure:
    """How far harmful requests lie from harmless ones of their script, by arm."""
    at = result["along"].where(result["layer"] == result["chosen"]).sum("layer", min_count=1)
    harmful = result["harmful"] == 1
    above = (at - at.where(~harmful).mean("example")).where(harmful)
    return arm_dots(
        {name: above.sel(script=name, drop=True) for name in _SCRIPTS},
        axis="harmful requests above harmless ones (told ones of the first script: 1)",
        margin=projection.MARGIN,
        colours=_SCRIPTS,
    )


def layer_lines(result: xr.Dataset) -> go.Figure:
    """By layer, of the first arm and of the one in which the split is planted: both differences."""
    arms = [str(one) for one in result["arm"].values]
    shown = [arms[0], *(one for one in arms[1:] if one == "split")]
    titles = [
        theme.escape(arm_name(one)) + (" (planted)" if one == "split" else "") for one in shown
    ]
    fig = make_subplots(
        rows=1, cols=len(shown), shared_yaxes=True, horizontal_spacing=0.04, subplot_titles=titles
    )
    numbers = [int(one) for one in result["layer"].values]
    for column, arm in enumerate(shown, 1):
        of = result.sel(arm=arm)
        seeds = [of.isel(seed=number) for number in range(of.sizes["seed"])]
        for way in harm.ACROSS:
            found = [harm.told_apart(seeds, way, layer=layer) for layer in numbers]
            _line(fig, column, numbers, found, f"harm, {way}", _WAYS[way], "dot")
        for script in ("first", "second"):
            found = [projection.apart(seeds, script, layer=layer) for layer in numbers]
            _line(fig, column, numbers, found, f"declining, {script}", _SCRIPTS[script], "solid")
    theme.finish(fig, title=None, height=380)
    fig.update_layout(margin_t=48, legend={"orientation": "h", "y": -0.22})
    fig.add_hline(y=0, line={"color": theme.MUTED, "width": 1})
    fig.update_xaxes(title_text="after layer", tickvals=numbers)
    fig.update_yaxes(title_text="harmful minus harmless", col=1)
    return fig


def of_behaviour(behaviour: xr.Dataset) -> str:
    """How many harmful requests there are."""
    return many_of(_declined(behaviour), "held-out harmful request")


def of_harm(result: xr.Dataset) -> str:
    """How many requests a probe is tried on."""
    told = xr.concat([_told_rightly(result, way) for way in _WAYS], "way")
    return f"{many_of(told, 'held-out request')}; of the second script those that are not declined"


def of_projection(result: xr.Dataset) -> str:
    """How many harmful requests there are."""
    one = result["along"].isel(layer=0, script=0).where(result["harmful"] == 1)
    return many_of(one, "held-out harmful request")


def of_layers(result: xr.Dataset) -> str:
    """How many requests there are of both kinds."""
    return many_of(result["along"].isel(layer=0, script=0), "held-out request")


def over_known(result: xr.Dataset) -> str:
    """The same where requests are held against the mean of others."""
    return f"{over_requests(result)}; the mean of harmless requests counts as known"


def _declined(behaviour: xr.Dataset) -> xr.DataArray:
    """Whether requests are declined (arm, seed, script, example); NaN for harmless ones."""
    asked = behaviour["declines"].sel(form="request", drop=True)
    return asked.where(behaviour["harmful"] == 1)


def _told_rightly(result: xr.Dataset, way: str) -> xr.DataArray:
    """Whether the probe of one way is right (arm, seed, example), in the layer that was chosen; NaN
    for requests that it is not tried on."""
    here = result.sel(form="request", state="projected out", way=way, drop=True)
    called = here["called"].where(here["layer"] == here["best"]).sum("layer", min_count=1)
    right = (called == here["harmful"]).astype(float)
    seen = harm.WAYS[way][1] != "second"
    return right.where(called.notnull() & ((here["refused"] == 0) | seen))


def _line(
    fig: go.Figure,
    column: int,
    numbers: list[int],
    found: list[Estimate],
    name: str,
    colour: str,
    dash: str,
) -> None:
    mean = np.array([one.mean for one in found])
    # Side by side, so that intervals at one layer can be told apart.
    aside = 0.05 * (len([one for one in fig.data if one.xaxis == _axis(column)]) - 1.5)
    fig.add_scatter(
        x=np.array(numbers) + aside,
        customdata=numbers,
        y=mean,
        mode="lines+markers",
        name=name,
        legendgroup=name,
        showlegend=column == 1,
        line={"color": colour, "dash": dash},
        marker={"size": 7},
        error_y={
            "type": "data",
            "symmetric": False,
            "array": np.array([one.high for one in found]) - mean,
            "arrayminus": mean - np.array([one.low for one in found]),
            "thickness": 1,
            "width": 3,
        },
        hovertemplate="after layer %{customdata}: %{y:.2f}<extra>" + name + "</extra>",
        row=1,
        col=column,
    )


def _axis(column: int) -> str:
    return "x" if column == 1 else f"x{column}"


BEHAVIOUR = Figure(
    "behaviour",
    "Declining",
    ("behaviour",),
    behaviour_dots,
    "Rows of dots by arm: share of held-out harmful requests that are declined in each script",
    "Orange is the script in which declining was taught. Blue beside it: declining has come along "
    "into the second script; blue at 0: it has not.",
    shows="How many held-out harmful requests are declined, by arm and script.",
    n=of_behaviour,
    interval=over_requests,
    control=beside("the script that was never learned", others="the arms below the first"),
)
HARM = Figure(
    "harm",
    "Harm across scripts",
    ("harm",),
    harm_dots,
    "Rows of dots by arm: share of held-out requests that a probe from another script tells right",
    "Green and pink right of the middle: a probe from one script reads harm in the other. In the "
    "base nothing is declined, so that it cannot read declining there. Grey should be about 50%.",
    shows="How well a probe from one script tells harmful from harmless requests in another.",
    n=of_harm,
    interval=over_requests,
    control=beside("a script that was never learned", others="the base, which declines nothing"),
)
PROJECTION = Figure(
    "projection",
    "Projection",
    ("projection",),
    projection_dots,
    "Rows of dots by arm: how far harmful requests lie above harmless ones in each script",
    "Orange right of the grey band and blue within it: harmful and harmless requests lie apart "
    "along the direction of declining in the first script alone. Where nothing is declined (twin, "
    "untrained) it is a difference of means that has nothing to do with declining.",
    shows="How far harmful requests lie from harmless ones along the direction of declining.",
    n=of_projection,
    interval=over_known,
    control=beside("the script that was never learned", others="the arms below the first"),
)
LAYERS = Figure(
    "layers",
    "Where they part",
    ("layers",),
    layer_lines,
    "Lines over layers: how well harm is read across scripts, and how far harmful requests lie "
    "from harmless ones along the direction of declining in either script",
    "Dotted: how much more often a probe from the other script calls harmful requests harmful, "
    "where the item has been read. Solid: how far they lie apart along the direction of declining, "
    "at the last token. The scripts part where orange leaves blue behind.",
    shows="Harm across scripts, and the projection in each, layer by layer.",
    n=of_layers,
    interval=over_requests,
    control="the verdict takes off what the model before tuning has along the same direction",
)
