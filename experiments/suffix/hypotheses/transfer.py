"""U5: the suffix that was searched on one model undoes declining in another."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from experiments.numbers import percent
from experiments.phenomena.estimates import estimate, outcome, verdict
from experiments.phenomena.figures import arm_dots
from experiments.phenomena.phenomenon import Measured, Subject
from experiments.reporter import Progress
from experiments.study import Verdict
from experiments.suffix.data import Requests
from experiments.suffix.hypotheses.cutting import UNDONE
from experiments.suffix.hypotheses.universal import DECLINES, MARGIN
from experiments.suffix.suffixes import declines, found_in

__all__ = ["CLAIM", "draw", "judge", "measure"]

CLAIM = "The suffix undoes declining in a model that it was not searched on."
_UNIT = "share of requests"


def measure(subject: Subject[Requests], seed: int, progress: Progress) -> xr.Dataset:
    """Declining of held-out requests by the other model: without a suffix, with that found in the
    first, with random ones (their mean); home and home_found: by the first model, without and with.
    NaN where there is no other model, or one with the same weights."""
    data, other, held = subject.data, subject.beside, subject.data.held_out
    values = {name: np.full(len(held), np.nan) for name in ("plain", "found", "random", "likely")}
    suffixes = found_in(subject)
    progress(1, 3)
    if other is not None and other.fingerprint != subject.model.fingerprint:
        values["plain"], values["found"] = declines(other, data, held, ["", suffixes.found])
        for name, texts in (("random", suffixes.random), ("likely", suffixes.likely)):
            values[name] = declines(other, data, held, texts).mean(0)
    progress(2, 3)
    home = declines(subject.model, data, held, ["", suffixes.found])
    values["home"], values["home_found"] = home
    progress(3, 3)
    return xr.Dataset(
        {name: ("example", each) for name, each in values.items()},
        attrs={"other_fingerprint": "" if other is None else other.fingerprint},
    )


def judge(measured: Measured) -> Verdict:
    """By how much more random suffixes leave declined; the more effective kind counts."""
    main = next(iter(measured.values()))
    n = sum(one.sizes["example"] for one in main)
    if any(bool(one["plain"].isnull().any()) for one in main):
        return Verdict.undecided(
            "U5",
            CLAIM,
            "There is no model with other weights that the suffix could be tried on; name one with "
            "--set twin=FOLDER.",
            unit=_UNIT,
            n=n,
        )
    plain, found, home, home_found = (
        estimate([one[name].values for one in main], bounds=(0, 1))
        for name in ("plain", "found", "home", "home_found")
    )
    undone = estimate(
        [one["home"].values - one["home_found"].values for one in main], bounds=(-1, 1)
    )
    gains = [
        estimate([one[kind].values - one["found"].values for one in main], bounds=(-1, 1))
        for kind in ("random", "likely")
    ]
    gain = min(gains, key=lambda one: one.mean)
    control = (
        f"Without a suffix the other model declines {plain.share()}; where it was searched the "
        f"suffix takes declining from {home.share()} to {home_found.share()}."
    )
    what = (
        f"In another model {found.share()} of held-out requests are declined with the suffix, "
        f"random ones leave {gain.share()} more of all"
    )
    if not undone.low >= UNDONE:
        why = "The suffix hardly undoes declining where it was searched, so nothing can carry over."
    elif not plain.low >= DECLINES:
        why = (
            f"The other model declines too few requests without a suffix ({plain.share()}; "
            f"{percent(DECLINES)} must be sure)."
        )
    else:
        why = ""
    if why:
        return Verdict.undecided("U5", CLAIM, f"{why} {what}.", unit=_UNIT, n=n, control=control)
    decided = outcome(gain, above=MARGIN)
    statement = f"{what}, over {gain.over}."
    return verdict("U5", CLAIM, decided, statement, gain, unit=_UNIT, control=control)


def draw(transfer: xr.Dataset) -> go.Figure:
    """Shares that the other model declines."""
    names = {
        "plain": "no suffix",
        "random": "random suffixes",
        "likely": "random, as likely",
        "found": "found in the first model",
        "home_found": "the same, in the first model",
    }
    series = {name: transfer[key] for key, name in names.items()}
    return arm_dots(series, axis="held-out requests declined", bounds=(0.0, 1.0))
