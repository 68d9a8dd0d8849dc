"""R2 to R4: one direction taken out, held at the harmless mean, or added; each beside random ones.

Which layer and token the direction is taken from is chosen for each change by what that change does
to other told requests; what is told here is of held-out ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import xarray as xr

from experiments.phenomena.estimates import Estimate, estimate, verdict
from experiments.phenomena.phenomenon import Measured, Subject
from experiments.refusal.measuring import (
    DRAWS,
    Candidate,
    Changes,
    ablated,
    added,
    candidates,
    chosen,
    declining_gap,
    halves,
    held,
    read,
    rivals,
)
from experiments.refusal.requests import Requests
from experiments.reporter import Progress
from experiments.study import Outcome, Verdict
from interp.figures.drawing.numbers import plain as number

__all__ = ["ABLATED", "ADDED", "HELD", "Change", "judge_change", "measure_change"]

_LEAST, _NONE = 0.2, 0.1
"""An effect that counts, and one that does not, as shares of requests."""
_LEAST_DECLINED = 0.3
"""Where fewer are declined there is nothing to take away; where more harmless ones are, to add; and
where harmful ones are not declined by so much more than harmless ones, no direction is of that."""


@dataclass(frozen=True)
class Change:
    """What is done with a direction.

    Attributes:
        id, claim: of its verdict.
        harmful: whether it is tried on harmful requests, and should lower declining; otherwise on
            harmless ones, which it should make declined.
        make: from a direction and the layer that it is from.
        said: what is done, in words.
    """

    id: str
    claim: str
    harmful: bool
    make: Callable[[Subject[Requests], Candidate], Changes]
    said: str


def _ablated(subject: Subject[Requests], one: Candidate) -> Changes:
    return ablated(subject, one.vector)


def _held(subject: Subject[Requests], one: Candidate) -> Changes:
    return held(subject, one.vector)


def _added(subject: Subject[Requests], one: Candidate) -> Changes:
    return added(one.vector, one.layer)


ABLATED = Change(
    "R2",
    "Projecting one direction out of the stream everywhere makes the model decline no longer.",
    True,
    _ablated,
    "projecting it out everywhere",
)
HELD = Change(
    "R3",
    "Holding one direction at its harmless mean, at the last token, makes the model decline no "
    "longer.",
    True,
    _held,
    "holding it at the harmless mean at the last token",
)
ADDED = Change(
    "R4",
    "Adding one direction after one layer makes the model decline harmless requests.",
    False,
    _added,
    "adding it after one layer",
)


def measure_change(
    change: Change, subject: Subject[Requests], seed: int, progress: Progress
) -> xr.Dataset:
    """Held-out requests without the change, with it, and with random directions.

    Returns:
        declines, odds, right (state, example), the states being "none", "changed" and "everywhere"
        (held at all tokens; the same as "changed" of other changes); random_declines and
        random_odds (draw, example); gap, how many more harmful than harmless requests are declined
        (see `declining_gap`); layer and position of the direction; cosine and total of the random
        ones (see `Controls`).
    """
    data = subject.data
    sign = -1 if change.harmful else 1
    choosing = halves(data, "request", harmful=change.harmful)[1]
    test = data.some("request", harmful=change.harmful, split="held out")
    among = candidates(subject)
    total, done = len(among) + DRAWS + 2, 0

    def tell() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    def score(one: Candidate) -> float:
        tell()
        return sign * float(read(subject, choosing, change.make(subject, one)).odds.mean())

    best, _ = chosen(among, score)
    states = [read(subject, test), read(subject, test, change.make(subject, best))]
    tell()
    # By its id: a worker has a copy.
    wider = held(subject, best.vector, everywhere=True) if change.id == HELD.id else None
    states.append(read(subject, test, wider) if wider is not None else states[1])
    tell()
    controls = rivals(subject, best, seed)
    drawn = []
    for vector in controls.directions:
        rival = Candidate(best.layer, best.position, vector)
        drawn.append(read(subject, test, change.make(subject, rival)))
        tell()
    return xr.Dataset(
        {
            **{
                name: (("state", "example"), np.stack([getattr(one, name) for one in states]))
                for name in ("declines", "odds", "right")
            },
            "random_declines": (("draw", "example"), np.stack([one.declines for one in drawn])),
            "random_odds": (("draw", "example"), np.stack([one.odds for one in drawn])),
            "gap": declining_gap(subject),
            "layer": best.layer,
            "position": best.position,
            "cosine": float(controls.cosine.mean()),
            "total": controls.total,
            "prompt": ("example", [one.prompt for one in test]),
        },
        coords={"state": ["none", "changed", "everywhere"]},
    )


def effects(change: Change, one: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """How far declining moves as claimed (example), and with random directions (draw, example)."""
    sign = -1.0 if change.harmful else 1.0
    plain = one["declines"].sel(state="none").values
    own: np.ndarray = sign * (one["declines"].sel(state="changed").values - plain)
    random: np.ndarray = sign * (one["random_declines"].values - plain)
    return own, random


def judge_change(change: Change, measured: Measured) -> Verdict:
    """The change in declining, beyond random directions; the other arms as controls."""
    arm = next(iter(measured))
    main = measured[arm]
    found = [effects(change, one) for one in main]
    own = estimate([mine for mine, _ in found], bounds=(-1.0, 1.0))
    beyond = estimate([mine - rival.mean(0) for mine, rival in found], bounds=(-2.0, 2.0))
    random = np.mean([rival.mean(1) for _, rival in found], axis=0)
    plain = estimate([one["declines"].sel(state="none").values for one in main], bounds=(0.0, 1.0))
    after = estimate(
        [one["declines"].sel(state="changed").values for one in main], bounds=(0.0, 1.0)
    )
    right = estimate([one["right"].sel(state="changed").values for one in main], bounds=(0.0, 1.0))
    room = plain.mean if change.harmful else 1 - plain.mean
    gap = float(np.mean([float(one["gap"]) for one in main]))
    able = min(room, gap) >= _LEAST_DECLINED
    decided = _outcome(own, beyond, random) if able else "undecided"
    others = {
        name: estimate([effects(change, one)[0] for one in each], bounds=(-1.0, 1.0))
        for name, each in measured.items()
        if name != arm
    }
    # Adding makes any model decline that has learned how; the untrained one has not.
    controls = {name: one for name, one in others.items() if change.harmful or name == "untrained"}
    if any(one.low > _NONE for one in controls.values()):
        decided = "undecided"
    where = "; ".join(
        f"after layer {int(one['layer'])}, token {int(one['position'])}" for one in main
    ).replace("-", "−")
    too_few = ""
    if room < _LEAST_DECLINED:
        too_few = (
            " Too few are declined to take that away."
            if change.harmful
            else " Too many are declined already."
        )
    if gap < _LEAST_DECLINED:
        too_few += (
            f" Of harmful requests only {number(gap)} more are declined than of harmless ones (a "
            f"share; {_LEAST_DECLINED} at least), so that this is no direction of declining."
        )
    elsewhere = "".join(f" In the arm {name}: {one.number()}." for name, one in others.items())
    cosine = float(np.mean([one["cosine"] for one in main]))
    total = float(np.mean([one["total"] for one in main]))
    return verdict(
        change.id,
        change.claim,
        decided,
        (
            f"Declined are {plain.share()} of held-out "
            f"{'harmful' if change.harmful else 'harmless'} requests, and {after.share()} after "
            f"{change.said} (found {where}); {right.share()} are then answered "
            f"rightly; {own.over}.{too_few}"
        ),
        own,
        unit="share of requests "
        + ("declined no longer" if change.harmful else "declined that were not"),
        control=(
            f"{DRAWS} random directions with the covariance within classes, at right angles "
            f"(|cos| {cosine:.2f} before; {total:.2f} with the total covariance): "
            f"{number(random.mean())} on average, {number(random.max())} at most; beyond them "
            f"{beyond.number()}.{elsewhere}"
        ),
    )


def _outcome(own: Estimate, beyond: Estimate, random: np.ndarray) -> Outcome:
    if own.low > _NONE and beyond.low > _LEAST and own.mean > random.max():
        return "supported"
    return "rejected" if own.high < _NONE else "undecided"
