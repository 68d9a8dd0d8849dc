"""The figures of the study, drawn from what a run stores."""

from __future__ import annotations

import plotly.graph_objects as go
import xarray as xr

from experiments.figure import Figure
from experiments.phenomena.figures import arm_dots, beside, many_of, over, over_requests
from interp.figures.drawing import theme

__all__ = ["ABLATION", "ADDING", "BEHAVIOUR", "HOLDING", "LOSS", "TWO"]

_STATES = {"none": "as it is", "changed": "changed", "everywhere": "held at all tokens"}
_DIRECTIONS = {
    "none": "as it is",
    "harmful": "harmful added",
    "declines": "declines added",
}


def behaviour_dots(behaviour: xr.Dataset) -> go.Figure:
    """Which held-out requests are declined, by arm."""
    series = {}
    for name, harmful in (("harmful", True), ("harmless", False)):
        kind = (behaviour["form"] == "request") & (behaviour["harmful"] == harmful)
        series[name] = behaviour["declines"].where(kind)
    return arm_dots(
        series,
        axis="declined (share of held-out requests)",
        bounds=(0.0, 1.0),
        colours={"harmful": theme.OKABE_ITO[1], "harmless": theme.OKABE_ITO[0]},
    )


def change_dots(result: xr.Dataset) -> go.Figure:
    """Requests of the first arm: declined and rightly answered, by what is done; random ones."""
    first = result.isel(arm=0)
    found = first[["declines", "right"]]
    wider, last = (found.sel(state=state, drop=True) for state in ("everywhere", "changed"))
    alike = wider.equals(last)
    states = ["none", "changed"] if alike else ["none", "changed", "everywhere"]
    named = [_STATES[state] for state in states]
    series = {
        name: first[value].sel(state=states).assign_coords(state=named)
        for name, value in (("declined", "declines"), ("answered rightly", "right"))
    }
    random = first["random_declines"].mean("draw").expand_dims(state=["random directions"])
    series["declined, random directions"] = random
    return arm_dots(
        series,
        axis="share of held-out requests",
        bounds=(0.0, 1.0),
        by="state",
        colours={
            "declined": theme.OKABE_ITO[1],
            "answered rightly": theme.OKABE_ITO[2],
            "declined, random directions": theme.MUTED,
        },
    )


def loss_dots(harmless: xr.Dataset) -> go.Figure:
    """Change of the loss on harmless text, by arm."""
    plain = harmless["loss"].sel(state="none")
    series = {
        "taken out everywhere": harmless["loss"].sel(state="ablated") - plain,
        "held at the harmless mean": harmless["loss"].sel(state="held") - plain,
        "random, taken out": harmless["random_loss"].mean("draw") - plain,
    }
    return arm_dots(series, axis="change of the loss (nats a token)", margin=0.05)


def two_dots(two: xr.Dataset) -> go.Figure:
    """What adding either direction does to harmless requests of the first arm."""
    first = two.isel(arm=0)
    named = [_DIRECTIONS[str(state)] for state in first["state"].values]
    series = {
        "judged harmful": first["harmful"].assign_coords(state=named),
        "declined": first["declines"].assign_coords(state=named),
    }
    return arm_dots(
        series,
        axis="share of held-out harmless requests",
        bounds=(0.0, 1.0),
        by="state",
        colours={"judged harmful": theme.OKABE_ITO[3], "declined": theme.OKABE_ITO[1]},
    )


def of_behaviour(behaviour: xr.Dataset) -> str:
    """How many requests of either kind there are."""
    kind = behaviour["harmful"].where(behaviour["form"] == "request")
    return f"{many_of(kind.where(kind == 1), 'held-out harmful request')}, and " + (
        many_of(kind.where(kind == 0), "harmless one")
    )


def of_changed(result: xr.Dataset) -> str:
    """How many requests a change was tried on."""
    first = result["declines"].isel(arm=0, state=0)
    return many_of(first, "held-out request")


def of_texts(harmless: xr.Dataset) -> str:
    """How many texts the loss is of."""
    return many_of(harmless["loss"].sel(state="none"), "harmless text")


def over_texts(harmless: xr.Dataset) -> str:
    """What the intervals are over."""
    return over(harmless, "texts")


def _change(name: str, title: str, caption: str) -> Figure:
    return Figure(
        name,
        title,
        (name,),
        change_dots,
        "Rows of dots: requests declined and answered rightly before and after the change, and "
        "declined with random directions",
        caption,
        shows="What held-out requests become.",
        n=of_changed,
        interval=over_requests,
        control="20 random directions with the covariance within classes, in the same place",
    )


BEHAVIOUR = Figure(
    "behaviour",
    "Declining",
    ("behaviour",),
    behaviour_dots,
    "Rows of dots by arm: share of harmful and of harmless held-out requests that are declined",
    "Orange apart from blue in the first row: declining follows the kind of a thing that was never "
    "declined before. In the other rows both should lie at 0.",
    shows="How many held-out requests are declined, by arm.",
    n=of_behaviour,
    interval=over_requests,
    control=beside(others="the arms below the first"),
)
ABLATION = _change(
    "ablation",
    "Taken out",
    "Orange moving left from the first row to the second is what the paper reports; moving right "
    "means that zero is not the harmless point.",
)
HOLDING = _change(
    "holding",
    "Held",
    "Orange should fall and green rise where the direction is held at the harmless mean at the "
    "last token. Held at all tokens, green tells what is left of the answers.",
)
ADDING = _change(
    "adding", "Added", "Orange rising to the right: harmless requests that become declined."
)
LOSS = Figure(
    "harmless",
    "Harmless text",
    ("harmless",),
    loss_dots,
    "Rows of dots by arm: change of the loss on harmless text under three changes",
    "The grey band is the margin within which a change counts as none.",
    shows="What the loss on harmless text becomes.",
    n=of_texts,
    interval=over_texts,
    control="random directions, taken out in the same way",
)
TWO = Figure(
    "two",
    "Two directions",
    ("two",),
    two_dots,
    "Rows of dots: harmless things judged harmful and harmless requests declined, as it is and "
    "with either direction added",
    "Pink moving in the second row alone: what a thing is taken for and whether it is declined are "
    "two directions.",
    shows="What adding either direction does to harmless requests.",
    n=of_changed,
    interval=over_requests,
    control="the first row",
)
