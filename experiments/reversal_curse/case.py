"""What a hypothesis may look at, and what it hands back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from experiments.context import Context
from experiments.figure import Figure
from experiments.organisms.facts import Direction
from experiments.reversal_curse.config import Config
from experiments.reversal_curse.measure import Measurements, Subject
from experiments.study import Verdict

__all__ = ["Case", "Finding", "known_as_told", "known_both_ways"]


@dataclass(frozen=True)
class Finding:
    """What is concluded, and figures of the stored results that show it."""

    verdicts: tuple[Verdict, ...]
    figures: tuple[Figure, ...] = ()


@dataclass(frozen=True)
class Case:
    """One model with its facts, and what was measured of it already.

    Attributes:
        context: stores what a hypothesis measures beyond that: `context.dataset("gradients", …)`.
        cured: the organism that answers in reverse, with its facts; None where the study runs on
            another model than one of its own. It is loaded when first asked for.
    """

    subject: Subject
    measured: Measurements
    config: Config
    context: Context
    cured: Callable[[], Subject | None] = lambda: None

    @property
    def seed(self) -> int:
        return self.context.seed

    @property
    def splits(self) -> npt.NDArray[np.str_]:
        """How each fact was told."""
        return self.measured.facts["split"].to_numpy()

    def known_as_told(self, told: Direction) -> npt.NDArray[np.int64]:
        """See the function of that name; among the names that the lens reads."""
        return known_as_told(self.measured.facts, self.measured.names, told)


_MOST_LUCK = 0.25
_TOLD: dict[Direction, tuple[str, ...]] = {
    "forward": ("forward", "unknown"),
    "reverse": ("reverse",),
}


def known_as_told(
    facts: pd.DataFrame, names: Mapping[Direction, xr.Dataset], told: Direction
) -> npt.NDArray[np.int64]:
    """Facts learned in one direction only that the model answers when asked in that one.

    Those of which nobody says how they were learned count as told forward if they are known so.
    None, where more than a quarter of the right answers would be luck (see `by_luck`).
    """
    learned = np.isin(facts["split"].to_numpy(), _TOLD[told])
    right = facts[f"{told}_correct"].to_numpy(dtype=bool) & learned
    if by_luck(facts[learned], told) > _MOST_LUCK:
        right[:] = False
    return np.array([i for i in names[told]["name"].values if right[i]], np.int64)


def by_luck(facts: pd.DataFrame, told: Direction) -> float:
    """Which share of right answers a model would get that knows only what may be answered.

    One that says some colour wherever a colour is asked for is right of one fact in eight, and the
    facts that it is right of would look known: they were chosen for that. How often luck is right
    is how often what is said of a fact is the answer to another one, asked in the same words.

    Args:
        facts: rows of the table of facts.
    """
    said = facts[f"{told}_said"].str.strip()
    answers = facts[f"{told}_answer"].str.strip()
    words = facts["relation"] + " · " + facts["inverse"]
    chances = []
    for _, rows in facts.groupby(words, sort=False):
        counts = answers[rows.index].value_counts()
        mine = said[rows.index]
        others = mine.map(counts).fillna(0) - (mine == answers[rows.index])
        chances.append(others / max(1, len(rows) - 1))
    right = float(facts[f"{told}_correct"].mean()) if len(facts) else 0.0
    if not right:
        return 0.0
    chance = float(pd.concat(chances).mean())
    known = max(0.0, (right - chance) / (1 - chance)) if chance < 1 else 0.0
    return (1 - known) * chance / right


def known_both_ways(case: Case) -> npt.NDArray[np.int64]:
    """Facts learned in both directions that the model answers in both; among the lens's names."""
    right = case.measured.facts["forward_correct"] & case.measured.facts["reverse_correct"]
    known = right.to_numpy(dtype=bool) & (case.splits == "both")
    names = case.measured.names["reverse"]["name"].values
    return np.array([i for i in names if known[i]], np.int64)
