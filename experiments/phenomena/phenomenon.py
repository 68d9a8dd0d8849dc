"""What a study of a phenomenon is made of; `experiments.phenomena.study` makes a `Study` of it.

Everything here is a plain value, and every function stands in a module, so that workers can be
given it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

import xarray as xr

from experiments.figure import Figure
from experiments.organisms.training.recipe import FINISHED, Recipe
from experiments.phenomena.config import PhenomenonConfig
from experiments.reporter import Progress
from experiments.reports.paper import Card
from experiments.run_directory.shapes import Shapes
from experiments.study import Verdict
from interp.model.model import Model

__all__ = [
    "GIVEN",
    "Arm",
    "Asked",
    "Hypothesis",
    "Measured",
    "Phenomenon",
    "Published",
    "Subject",
]

GIVEN = "model"
"""The arm that a user's model is, in the place of the study's own."""

DataT = TypeVar("DataT")

Measured: TypeAlias = Mapping[str, Sequence[xr.Dataset]]
"""What was measured: by arm, one labelled result for each seed. Of a user's model there is one arm,
`GIVEN`, with one result."""


@dataclass(frozen=True)
class Arm:
    """What is told or done otherwise in some of a study's organisms. The first arm is the one that
    the study is about."""

    name: str
    about: str
    """A line."""
    recipe: str = ""
    """Which recipe it is trained by; its own name if left out."""
    after: str = FINISHED
    """The stage after which its model is taken; `UNTRAINED` before the first step."""

    @property
    def trained_by(self) -> str:
        return self.recipe or self.name


@dataclass(frozen=True)
class Subject(Generic[DataT]):
    """A model with what it is asked.

    Attributes:
        arm: its name.
        seed: of the organism; of a user's model that of the run.
        beside: the model that it is compared with, where a hypothesis names one.
    """

    model: Model
    data: DataT
    arm: str
    seed: int
    beside: Model | None = None


@dataclass(frozen=True)
class Asked:
    """A prompt and an answer that the model's tokenizer must be able to read."""

    prompt: str
    answer: str
    where: str
    """Where it stands in the data: "request 3"."""
    unlike: tuple[str, ...] = ()
    """Other answers, all of which must begin with another token than this one."""


@dataclass(frozen=True)
class Hypothesis(Generic[DataT]):
    """A claim, what is measured for it in each model, and what follows.

    Attributes:
        id: "R1".
        name: of its stored results: "ablation".
        claim: as a sentence.
        measure: takes a model with its data, a seed for what it draws, and a progress callback;
            gives values per example with readable labels, in every arm with the same dimensions.
            It must follow from its arguments alone.
        judge: takes what was measured, by arm; must do with the first arm alone (a user's model).
        figures: each of the stored result called `name`, which has the dimensions arm and seed
            before those that are measured.
        arms: in which it is measured; all if left out.
        beside: the arm whose model of the same seed a subject is compared with (`Subject.beside`);
            of a user's model it is the one that the setting `twin` names, if any.
        method: instrument, statistic and control, as a sentence or two.
        planted: what of this the training has put there, as a sentence; empty where nothing.
    """

    id: str
    name: str
    claim: str
    measure: Callable[[Subject[DataT], int, Progress], xr.Dataset]
    judge: Callable[[Measured], Verdict]
    figures: tuple[Figure, ...] = ()
    arms: tuple[str, ...] | None = None
    beside: str = ""
    method: str = ""
    planted: str = ""

    def measured_in(self, arm: str) -> bool:
        return arm == GIVEN or self.arms is None or arm in self.arms


@dataclass(frozen=True)
class Published:
    """A number that a paper reports, and the verdict whose estimate stands beside it."""

    what: str
    number: str
    source: str
    verdict: str
    """Its id; empty where this study has no such number."""


@dataclass(frozen=True)
class Phenomenon(Generic[DataT]):
    """A study of a phenomenon.

    Attributes:
        name, title, summary: as a `Study` has them.
        question: the heading of the report; of a user's model with its name for "{model}".
        arms: the first is the one that the study is about.
        recipe: gives the recipe of that name for a seed; its `data` is what `read` takes.
        read: checks plain JSON data and makes the study's own type of it; raises FactsError with
            one sentence that begins with the path.
        asked: what of the data a model must be able to read.
        hypotheses: in the order of the report.
        headline: the answer in sentences that one would quote, from the verdicts by id.
        cards: examples that can be read, from what was measured (by hypothesis' name).
        published: numbers of papers.
        limits: sentences.
        reference: the papers.
        shapes: what stored results hold; see `Study.results`.
        config_type: of its settings.
    """

    name: str
    title: str
    summary: str
    question: str
    arms: tuple[Arm, ...]
    recipe: Callable[[str, int], Recipe]
    read: Callable[[Any, Path], DataT]
    asked: Callable[[DataT], Sequence[Asked]]
    hypotheses: tuple[Hypothesis[DataT], ...]
    headline: Callable[[Mapping[str, Verdict]], Sequence[str]]
    cards: Callable[[Mapping[str, Measured]], Sequence[Card]]
    limits: tuple[str, ...]
    reference: str
    published: tuple[Published, ...] = ()
    shapes: Shapes | None = None
    config_type: type[PhenomenonConfig] = PhenomenonConfig

    def __post_init__(self) -> None:
        for names in (
            [arm.name for arm in self.arms],
            [one.id for one in self.hypotheses],
            [one.name for one in self.hypotheses],
        ):
            if not names or len(set(names)) < len(names):
                raise ValueError(f"each needs a name of its own: {', '.join(names) or 'none'}")
        for one in self.hypotheses:
            arms = {arm.name for arm in self.arms}
            if one.beside and one.beside not in arms:
                raise ValueError(f"'{one.name}' is measured beside '{one.beside}', which is no arm")
            unknown = set(one.arms or ()) - arms
            if unknown or not one.measured_in(self.arms[0].name):
                raise ValueError(f"'{one.name}' must be measured in the first arm, and in no other")
            for figure in one.figures:
                if figure.results != (one.name,):
                    raise ValueError(f"the figure '{figure.name}' draws more than '{one.name}'")
