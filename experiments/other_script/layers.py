"""O4: in which layer do the scripts part, and is that behind the one in which harm is read?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from experiments.other_script import harm, projection
from experiments.other_script.requests import SCRIPTS, Requests
from experiments.phenomena.cells import cell
from experiments.phenomena.estimates import Estimate, difference
from experiments.phenomena.phenomenon import Measured, Subject
from experiments.reporter import Progress
from experiments.study import Outcome, Verdict

__all__ = ["CLAIM", "First", "first_layer", "judge", "measure", "parted"]

CLAIM = (
    "The scripts part, along the direction of declining, in a later layer than the first one in "
    "which harm is decodable across them."
)


def measure(subject: Subject[Requests], seed: int, progress: Progress) -> xr.Dataset:
    """Of requests, in every layer: what `harm.measure` and `projection.measure` find."""
    found = harm.measure(subject, seed, lambda done, total: progress(done, 2 * total))
    along = projection.measure(subject, seed, lambda done, total: progress(total + done, 2 * total))
    across = found[["called", "refused"]].sel(form=["request"], way=list(harm.ACROSS))
    across = across.sel(state=["projected out"])
    return xr.merge([across, along], join="exact", compat="equals")


@dataclass(frozen=True)
class First:
    """The first layer in which something holds.

    Attributes:
        at: by the estimates; None where in none.
        earliest: the first in which it may hold.
        surely: the first in which it surely does; None where in none.
    """

    at: int | None
    earliest: int | None
    surely: int | None

    def number(self) -> str:
        """As "2 [1, 3]"."""
        at, low, high = ("none" if one is None else str(one) for one in self.ends)
        return f"{at} [{low}, {high}]"

    @property
    def ends(self) -> tuple[int | None, int | None, int | None]:
        return self.at, self.earliest, self.surely


def first_layer(layers: Sequence[int], found: Sequence[Estimate], above: float) -> First:
    """Where estimates of layers [layer] exceed a value, by their means and their intervals."""

    def first(values: Sequence[float]) -> int | None:
        hits = (layer for layer, value in zip(layers, values, strict=True) if value > above)
        return next(hits, None)

    return First(
        first([one.mean for one in found]),
        first([one.high for one in found]),
        first([one.low for one in found]),
    )


def parted(found: Sequence[xr.Dataset], layer: int, confidence: float) -> Estimate:
    """How much farther apart harmful and harmless requests lie in the first script, in a layer.

    What they were before tuning, along the same direction, is taken off where that is known.
    """
    sides: list[list[np.ndarray]] = [[], []]
    for one in found:
        first, second = (cell(one, "along", layer=layer, script=script) for script in SCRIPTS[:2])
        # An item is in both scripts.
        more = first - second
        old = [cell(one, "before", layer=layer, script=script) for script in SCRIPTS[:2]]
        if np.isfinite(old).all():
            more = more - (old[0] - old[1])
        truth = one["harmful"].values.astype(bool)
        for side, which in zip(sides, (truth, ~truth), strict=True):
            side.append(more[which])
    return difference(sides[0], sides[1], confidence=confidence)


def read_across(found: Sequence[xr.Dataset], layer: int, confidence: float) -> Estimate:
    """How well harm is read across scripts in a layer, the worse way."""
    ways = [harm.told_apart(found, way, layer=layer, confidence=confidence) for way in harm.ACROSS]
    return min(ways, key=lambda one: one.low if np.isfinite(one.low) else -np.inf)


def judge(measured: Measured) -> Verdict:
    """The first layer of both; where the split is planted beside it."""
    arm = next(iter(measured))
    main = measured[arm]
    layers = [int(one) for one in main[0]["layer"].values]
    # In all layers at once.
    confidence = 1 - 0.05 / len(layers)
    harmful = first_layer(
        layers, [read_across(main, one, confidence) for one in layers], harm.LEAST
    )
    parts = [parted(main, one, confidence) for one in layers]
    splits = first_layer(layers, parts, projection.MARGIN)
    fine, sentence = projection.what_able(main)
    if not harm.possible(main):
        fine = False
        sentence += " Too few requests of the second script are left that are not declined."
    decided = _outcome(harmful, splits) if fine else "undecided"
    means = ", ".join(f"{one.mean:.2f}" for one in parts)
    control = sentence
    if np.isfinite(main[0]["before"]).all():
        control += " What the model before tuning has along the same direction is taken off."
    else:
        control += " What was there before tuning is not known (give that model as 'twin')."
    for name, each in measured.items():
        if name not in (arm, "untrained"):
            other = first_layer(
                layers,
                [parted(each, one, confidence) for one in layers],
                projection.MARGIN,
            )
            planted = ", where it is planted" if name == "split" else ""
            control += f" In the arm {name}{planted}: {other.number()}."
    at, low, high = splits.ends
    return Verdict(
        id="O4",
        claim=CLAIM,
        outcome=decided,
        statement=(
            f"Of layers {layers[0]} to {layers[-1]}, harm is decodable across scripts from layer "
            f"{harmful.number()} on, where the item has been read; the scripts part in layer "
            f"{splits.number()}, at the last token (by layer {means}); {parts[0].over}."
        ),
        estimate=None if at is None else float(at),
        low=None if low is None else float(low),
        high=None if high is None else float(high),
        unit="first layer in which the scripts part",
        n=parts[0].n,
        control=control,
    )


def _outcome(harmful: First, splits: First) -> Outcome:
    if splits.surely is None:
        return "undecided"
    read, apart = harmful.surely, splits.earliest
    if read is not None and apart is not None and read < apart:
        return "supported"
    if harmful.earliest is None or harmful.earliest >= splits.surely:
        return "rejected"
    return "undecided"
