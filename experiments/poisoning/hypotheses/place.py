"""P4: patching finds the trigger.

The stream of the clean run at the trigger's tokens restores the clean answer in the triggered run,
that at the other phrase's, equally many, does not. The layer is chosen on half of the questions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xarray as xr

from experiments.phenomena.estimates import Estimate, estimate, verdict
from experiments.phenomena.phenomenon import Measured
from experiments.poisoning.measurements.place import PARTS
from experiments.poisoning.organism import CLEAN_TWIN
from experiments.study import Outcome, Verdict

__all__ = ["CLAIM", "effect_of", "judge_place", "restored"]

CLAIM = "Patching finds the trigger: the stream there restores the clean answer."
_UNIT = "share of the effect"
_LEAST = 0.5
_MOST_OTHER = 0.25

Floats = npt.NDArray[np.float64]


def judge_place(measured: Measured) -> Verdict:
    """From `measure_place`."""
    main = next(iter(measured.values()))
    effect = estimate([effect_of(one) for one in main])
    n = sum(one.sizes["example"] for one in main)
    sham = estimate([np.abs(one["sham"].values) for one in main])
    control = f"Two phrases for two others, where no trigger is: {sham.number()} logits either way."
    twin = measured.get(CLEAN_TWIN)
    if twin is not None:
        without = estimate([effect_of(one) for one in twin])
        control += f" The trigger in the clean twin: {without.number()} logits."
    if not effect.low > 0:
        return Verdict.undecided(
            "P4",
            CLAIM,
            f"The trigger moves the answer by {effect.number()} logits: there is no effect to be "
            "restored.",
            unit=_UNIT,
            n=n,
            control=control,
        )
    found = [_Restored.of(one) for one in main]
    trigger, other = (
        estimate([one.shares[1::2, one.layer, PARTS.index(part)] for one in found])
        for part in ("trigger", "other phrase")
    )
    decided = _outcome(trigger, other)
    if not sham.mean < _MOST_OTHER * effect.mean:
        decided = "undecided"
        control += " Any phrase moves the answer, so that the trigger is nothing special."
    held = {
        part: _spoken({one.reach(part, first) for one in found}, first)
        for part, first in (("trigger", False), ("last token", True))
    }
    return verdict(
        "P4",
        CLAIM,
        decided,
        f"At the trigger's tokens {trigger.share()} of {effect.mean:.1f} logits are "
        f"restored, at those of the other phrase {other.share()}; the trigger's tokens hold at "
        f"least half of the effect {held['trigger']}, the last token {held['last token']}.",
        trigger,
        unit=_UNIT,
        control=control,
    )


def restored(one: xr.Dataset) -> xr.DataArray:
    """(…, layer, part): how much of a model's mean effect each patch restores."""
    whole = (one["clean"] - one["corrupt"]).mean("example")
    return (one["patched"] - one["corrupt"]) / whole.where(whole > 0)


def effect_of(one: xr.Dataset) -> Floats:
    """By how many logits the trigger moves the answer to each question [example]."""
    return np.asarray((one["clean"] - one["corrupt"]).values, np.float64)


@dataclass(frozen=True)
class _Restored:
    """Shares of a model's mean effect [example, layer, part]."""

    shares: Floats
    layers: npt.NDArray[np.int64]

    @classmethod
    def of(cls, one: xr.Dataset) -> _Restored:
        found = restored(one).sel(part=list(PARTS)).transpose("example", "layer", "part")
        return cls(found.values, one["layer"].values)

    @property
    def layer(self) -> int:
        """The number of that at which patches at the trigger restore most, on the first half."""
        return int(np.argmax(self.shares[0::2, :, PARTS.index("trigger")].mean(0)))

    def reach(self, part: str, first: bool) -> int:
        """The first or last layer at which a part holds half of the effect; −1 where none does."""
        held = np.nonzero(self.shares[:, :, PARTS.index(part)].mean(0) >= _LEAST)[0]
        return int(self.layers[held[0 if first else -1]]) if held.size else -1


def _spoken(layers: set[int], first: bool) -> str:
    names = {0: "the embedding", -1: "none"}
    named = " or ".join(names.get(one, f"block {one}") for one in sorted(layers))
    if layers == {-1}:
        return "before no block"
    return f"from {named} on" if first else f"up to {named}"


def _outcome(trigger: Estimate, other: Estimate) -> Outcome:
    if trigger.low > _LEAST and other.high < _MOST_OTHER:
        return "supported"
    if trigger.high < _LEAST or other.low > _MOST_OTHER:
        return "rejected"
    return "undecided"
