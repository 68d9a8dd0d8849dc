"""What a batch of interventions is run with: the two runs, the metric, and what is put in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from interp.errors import SiteError
from interp.forward.passes import Recording
from interp.metrics import Metric, Scorer
from interp.model.model import Model
from interp.patching.interventions import Indices, Mask, Places
from interp.patching.sources import Constants
from interp.prompts.pairs import PromptPairs, Reading, Run
from interp.sites import Site

Direction = Literal["denoising", "noising"]
Progress = Callable[[int, int], None]
"""Called with (done, in all)."""

# (the run that is changed, the run that the values come from)
RUNS: dict[str, tuple[Run, Run]] = {
    "denoising": ("corrupt", "clean"),
    "noising": ("clean", "corrupt"),
}


@dataclass(frozen=True)
class Plan:
    """Everything that the terms of a metric need that are read from the same sequences.

    Attributes:
        base, source: the run that is changed and the other, as they are read.
        constants: what is put in at each site, where that is not the other run's activation.
        batch_size: rows in one pass; None for as many as fit.
    """

    model: Model
    pairs: PromptPairs
    direction: Direction
    base: Scorer
    source: Scorer
    constants: Constants | None = None
    batch_size: int | None = None

    @property
    def readings(self) -> tuple[Reading, Reading]:
        """The sequences of the run that is changed, and of the other."""
        return self.base.reading, self.source.reading

    @property
    def length(self) -> int:
        return max(reading.ids.shape[1] for reading in self.readings)

    @property
    def places(self) -> Places:
        return places(self.pairs, self.direction, constant=self.constants is not None)

    def values(self, site: Site, source: Recording) -> Tensor:
        """What is put in at `site` [example, position, …]."""
        if self.constants is None:
            return source[site]
        constant = self.constants[site]
        if site.name == "pattern":
            return constant.expand(source.batch, -1, self.length, self.length)
        return constant.expand(source.batch, self.length, *constant.shape)

    def idle(self) -> Mask:
        """Slots where what is put in is what was there [example, slot].

        Two runs that start with the same tokens have the same activations there.
        """
        here, there = self.places.destination, self.places.origin
        if self.constants is not None:
            return np.zeros(here.shape, dtype=np.bool_)
        base, source = (reading.ids for reading in self.readings)
        width = min(base.shape[1], source.shape[1])
        differs = (base[:, :width] != source[:, :width]).numpy()
        shared = np.where(differs.any(1), differs.argmax(1), width)
        return np.asarray((here == there) & (here < shared[:, None]))


def places(pairs: PromptPairs, direction: Direction, *, constant: bool) -> Places:
    """Where the pairs' slots stand in the run that is changed and in the other.

    Args:
        constant: whether a constant is put in, which has no place of its own.
    """
    slots: Mapping[Run, Indices] = {
        "clean": pairs.alignment.clean,
        "corrupt": pairs.alignment.corrupt,
    }
    base, source = RUNS[direction]
    return Places(slots[base], slots[base if constant else source])


def plans(
    model: Model,
    pairs: PromptPairs,
    metric: Metric,
    direction: Direction,
    constants: Constants | None,
    batch_size: int | None = None,
) -> list[Plan]:
    """One plan for each kind of sequence that the metric is read from."""
    found = []
    for read in metric.reads:
        base, source = (
            Scorer.of(model, pairs, metric, read, pairs.reading(run, read))
            for run in RUNS[direction]
        )
        found.append(Plan(model, pairs, direction, base, source, constants, batch_size))
    return found


def check_direction(direction: str | None, source: object) -> Direction:
    """The direction that is meant, by default that of the source.

    Raises:
        SiteError: there is no such direction.
    """
    other = isinstance(source, str) and source == "other"
    chosen = direction or ("denoising" if other else "noising")
    if chosen not in RUNS:
        raise SiteError(f"Unknown direction '{chosen}'; choose 'denoising' or 'noising'.")
    return "denoising" if chosen == "denoising" else "noising"
