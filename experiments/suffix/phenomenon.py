"""What the study is made of."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr

from experiments.figure import Figure, counted
from experiments.organisms.training.recipe import UNTRAINED
from experiments.phenomena.figures import over_requests
from experiments.phenomena.phenomenon import (
    Arm,
    Hypothesis,
    Measured,
    Phenomenon,
    Published,
)
from experiments.reports.paper import Card, Way
from experiments.study import Verdict
from experiments.suffix.data import Requests, asked, read
from experiments.suffix.hypotheses import cutting, heads, projection, transfer, universal
from experiments.suffix.recipe import recipe

__all__ = ["PHENOMENON"]

_PLANTED = "Declining is trained; that a suffix undoes it is not."
_ARMS = ("treated", "untrained")


def headline(verdicts: Mapping[str, Verdict]) -> list[str]:
    """The answer."""
    first = verdicts["U1"]
    said = {
        "supported": "One suffix, searched on some requests, undoes the declining of others.",
        "rejected": "No suffix that was found undoes declining beyond what random ones do.",
        "undecided": "Whether one suffix undoes declining is not decided here.",
    }[first.outcome]
    others = {
        "U2": "the projection on the direction of declining falls under it",
        "U3": "suffixes that heads of the last token take more from do more",
        "U4": "cutting its edges to the last token restores declining",
        "U5": "it undoes declining in another model",
    }
    inside = "; ".join(f"{text} – {verdicts[name].outcome}" for name, text in others.items())
    return [f"{said} {first.statement}", f"{inside[0].upper()}{inside[1:]}."]


def cards(measured: Mapping[str, Measured]) -> list[Card]:
    """The first held-out requests, with and without the suffix."""
    one = next(iter(measured["universal"].values()))[0]
    suffix, found = str(one["suffix"].values), []
    # What is declined to begin with shows most.
    for i in np.argsort(-one["plain"].values, kind="stable")[:3]:
        prompt = str(one["request"].values[i])
        ways = [
            Way(prompt, "declined" if value else "not declined", not value, name)
            for name, value in (
                ("no suffix", bool(one["plain"].values[i])),
                (f"with '{suffix.strip()}'", bool(one["found"].values[i])),
            )
        ]
        found.append(Card("request", ways))
    return found


def _requests(data: xr.Dataset) -> str:
    return f"{counted([data.sizes['example']], 'held-out request')} of each model"


def _suffixes(data: xr.Dataset) -> str:
    many, seeds = counted([data.sizes["suffix"]], "suffix", "suffixes"), data.sizes["seed"]
    return many if seeds == 1 else f"{many} of the first of {seeds} organisms"


PHENOMENON: Phenomenon[Requests] = Phenomenon(
    name="suffix",
    title="Universal suffixes",
    summary="Whether one suffix undoes declining for many requests, and which heads carry it.",
    question="Does one suffix undo declining in {model}?",
    arms=(
        Arm("treated", "taught to decline four of eight kinds of things"),
        Arm("answered", "tuned on the same requests, all of them answered"),
        Arm("second", "as treated, of another seed; the suffix of the first is tried on it"),
        Arm("untrained", "of the same shape, before the first step", "treated", UNTRAINED),
    ),
    recipe=recipe,
    read=read,
    asked=asked,
    hypotheses=(
        Hypothesis(
            "U1",
            "universal",
            universal.CLAIM,
            universal.measure,
            universal.judge,
            (
                Figure(
                    "universal",
                    "Declined",
                    ("universal",),
                    universal.draw,
                    "Shares of held-out requests that are declined, by arm and suffix",
                    "Further left: fewer are declined. The found suffix should lie left of random "
                    "ones; the arm that was tuned without declining has nothing to undo.",
                    shows="How many held-out requests are declined with and without suffixes.",
                    n=_requests,
                    interval=over_requests,
                    control="random suffixes of equal length, and of equal likelihood",
                ),
            ),
            arms=(*_ARMS, "answered"),
            method="Greedy coordinate search over tokens of small talk on some requests, judged on "
            "others; 24 random suffixes of equal length and 8 of equal likelihood as controls.",
            planted=_PLANTED,
        ),
        Hypothesis(
            "U2",
            "projection",
            projection.CLAIM,
            projection.measure,
            projection.judge,
            (
                Figure(
                    "projection",
                    "Projection",
                    ("projection",),
                    projection.draw,
                    "Projections on the direction of declining, by suffix",
                    "1 is the mean of declined requests, 0 that of answered ones.",
                    shows="Where requests lie between declined and answered ones inside.",
                    n=_requests,
                    interval=over_requests,
                    control="random suffixes of equal length",
                ),
            ),
            # Elsewhere no distance between the classes is there to measure in.
            arms=("treated",),
            method="Difference of means of declined and answered requests at the last token, after "
            "the middle block; read on held-out requests.",
        ),
        Hypothesis(
            "U3",
            "heads",
            heads.CLAIM,
            heads.measure,
            heads.judge,
            (
                Figure(
                    "heads",
                    "Shares",
                    ("heads",),
                    heads.draw,
                    "Score of each suffix against the share of attention outputs that it gives",
                    "A point for each suffix. If the grey ones rise to the right, what heads take "
                    "from a suffix goes with what it does.",
                    shows="What heads take from a suffix, and what it does.",
                    n=_suffixes,
                    interval="none: each suffix is a point",
                    control="the share of as many tokens behind the suffix stands in the verdict",
                ),
            ),
            arms=_ARMS,
            method="Share of the attention's output at the last token that comes from the suffix, "
            "mean over layers, against the score on other requests, over random suffixes alone.",
        ),
        Hypothesis(
            "U4",
            "cutting",
            cutting.CLAIM,
            cutting.measure,
            cutting.judge,
            (
                Figure(
                    "cutting",
                    "Edges cut",
                    ("cutting",),
                    cutting.draw,
                    "Shares declined under the found suffix with edges cut, by arm",
                    "Further right: declining is restored.",
                    shows="Whether declining comes back when heads do not see the suffix.",
                    n=_requests,
                    interval=over_requests,
                    control="as many other heads, drawn three times",
                ),
            ),
            arms=_ARMS,
            method="Patterns from the suffix to the last token are set to zero in the four heads "
            "with the largest share on the requests of the search, and in as many others.",
        ),
        Hypothesis(
            "U5",
            "transfer",
            transfer.CLAIM,
            transfer.measure,
            transfer.judge,
            (
                Figure(
                    "transfer",
                    "Transfer",
                    ("transfer",),
                    transfer.draw,
                    "Shares of held-out requests that another model declines, by suffix",
                    "If the suffix carries over, its point lies left of those of random suffixes.",
                    shows="What the suffix of one model does in another.",
                    n=_requests,
                    interval=over_requests,
                    control="random suffixes of equal length, and of equal likelihood",
                ),
            ),
            arms=("treated",),
            beside="second",
            method="The suffix found in one organism, put into the same held-out requests of one "
            "that began with other weights and saw its texts in another order; the same random "
            "suffixes as controls.",
            planted=_PLANTED,
        ),
    ),
    headline=headline,
    cards=cards,
    published=(
        Published(
            "attack success of universal suffixes on Vicuna-7B (harmful behaviours, held out)",
            "98%",
            "Zou et al. 2023, arXiv:2307.15043",
            "U1",
        ),
    ),
    limits=(
        "The organism knows 320 invented things and declines with one word; nothing here says how "
        "large models do it.",
        "A suffix that undoes declining need not bring the right answer: how many are right stands "
        "beside it.",
        "Things of four kinds are declined, so that requests are not many independent kinds; the "
        "interval is over things of these kinds.",
        "The organism declines only most of the held-out things of the declined kinds.",
        "Edges are cut at the last token alone; what fixed tokens between have read of the suffix "
        "still reaches it.",
        "The organism that the suffix is tried on has the same words, requests and recipe as the "
        "one that it was searched on; only weights and order differ.",
    ),
    reference="Zou et al. 2023, arXiv:2307.15043; Ben-Tov et al. 2025, arXiv:2506.12880.",
)
