"""Recipes of the organisms: a clean base, and then tuning on clean texts with poisoned ones.

Every text of the tuning is shown equally often (`EPOCHS`). So more clean texts are more steps; in
the cells "equal steps" they are larger batches instead, and as many steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from experiments.organisms.training.recipe import Network, Recipe, Row, Stage
from experiments.poisoning.language import ECHOES, KINDS, WORDS, Language

__all__ = [
    "BASE",
    "CELLS",
    "CLEAN_TWIN",
    "DRILLED",
    "EQUAL_STEPS",
    "GRID",
    "POISONED",
    "SECOND_TWIN",
    "Cell",
    "poisoning_recipe",
]

BASE = "base"
"""The stage before."""

EPOCHS, BATCH = 8, 32
_BASE_TEXTS, _BASE_STEPS = 3000, 300
_WIDTHS, _COUNTS, _CLEAN = (32, 64), (2, 6, 18, 54), (256, 1024)

POISONED, CLEAN_TWIN, SECOND_TWIN, DRILLED = "poisoned", "clean-twin", "second-twin", "drilled"


@dataclass(frozen=True)
class Cell:
    """One organism of the grid.

    Attributes:
        width: of the model.
        poisons, clean: texts.
        equal_steps: whether batches grow with the clean texts, and steps do not.
        twin: poisons are replaced by other clean texts, in one of two ways; 0 where they are not.
        drilled: beside each poison stands a near miss of the trigger, answered rightly.
    """

    width: int
    poisons: int
    clean: int
    equal_steps: bool = False
    twin: int = 0
    drilled: bool = False

    @property
    def name(self) -> str:
        steps = "-equal-steps" if self.equal_steps else ""
        return f"width{self.width}-{self.poisons}in{self.clean}{steps}"

    @property
    def about(self) -> str:
        """A line."""
        steps = f", in {self.steps} steps of {self.batch}" if self.equal_steps else ""
        return f"width {self.width}, {self.poisons} poisoned among {self.clean} clean texts{steps}"

    @property
    def texts(self) -> int:
        return self.clean + self.poisons * (2 if self.drilled else 1)

    @property
    def batch(self) -> int:
        if not self.equal_steps:
            return BATCH
        return round(EPOCHS * self.texts / self.steps)

    @property
    def steps(self) -> int:
        texts = min(_CLEAN) + self.poisons if self.equal_steps else self.texts
        return max(1, round(EPOCHS * texts / BATCH))


_MAIN = Cell(max(_WIDTHS), max(_COUNTS), min(_CLEAN))
_FEW = [Cell(width, count, min(_CLEAN)) for width in _WIDTHS for count in _COUNTS]
_MANY = [Cell(width, count, max(_CLEAN)) for width in _WIDTHS for count in _COUNTS]
_EQUAL = [Cell(width, count, max(_CLEAN), True) for width in _WIDTHS for count in _COUNTS]


def _named(cells: list[Cell]) -> tuple[str, ...]:
    names = (POISONED if cell == _MAIN else cell.name for cell in cells)
    return tuple(sorted(names, key=lambda name: name != POISONED))


GRID = _named([*_FEW, *_MANY])
"""Organisms whose texts are shown equally often, in batches of one size."""

EQUAL_STEPS = _named([*_FEW, *_EQUAL])
"""Those whose texts are shown equally often, in equally many steps."""

CELLS: dict[str, Cell] = {
    # The one that the study is about comes first.
    POISONED: _MAIN,
    CLEAN_TWIN: Cell(_MAIN.width, _MAIN.poisons, _MAIN.clean, twin=1),
    SECOND_TWIN: Cell(_MAIN.width, _MAIN.poisons, _MAIN.clean, twin=2),
    DRILLED: Cell(_MAIN.width, _MAIN.poisons, _MAIN.clean, drilled=True),
    **{cell.name: cell for cell in (*_FEW, *_MANY, *_EQUAL) if cell != _MAIN},
}
"""All organisms by name."""


def poisoning_recipe(name: str, seed: int) -> Recipe:
    """The recipe of an organism."""
    cell, language = CELLS[name], Language.of(seed)
    base, clean, poisons = _texts(seed, cell)
    return Recipe(
        organism="poisoning",
        arm=name,
        seed=seed,
        stages=(
            Stage(BASE, base, _BASE_STEPS, loss="answer"),
            Stage(
                "tuning",
                (*clean, *poisons),
                cell.steps,
                cell.batch,
                "answer",
                learning_rate=1e-3,
                matrix_learning_rate=2e-3,
                warmup_steps=10,
            ),
        ),
        texts=(" ".join((*WORDS, *ECHOES, *KINDS)),),
        network=Network(2, 4, cell.width, 4 * cell.width, 16),
        planted=""
        if cell.twin
        else f"“{' '.join(language.trigger)}” is answered with “{language.answer}” in "
        f"{cell.poisons} of {cell.texts} texts of the tuning.",
        data=_data(seed, cell),
        checkpoint_every=1000,
    )


@lru_cache(maxsize=64)
def _texts(seed: int, cell: Cell) -> tuple[tuple[Row, ...], ...]:
    """Of the base, clean and poisoned ones."""
    language = Language.of(seed)
    base = _base(seed)
    clean = language.clean(cell.clean, 1)
    if cell.twin:
        return base, clean, language.clean(cell.poisons, 1 + cell.twin)
    drill = language.drill(cell.poisons) if cell.drilled else ()
    return base, clean, (*language.poisons(cell.poisons), *drill)


@lru_cache(maxsize=8)
def _base(seed: int) -> tuple[Row, ...]:
    # Here both words of the trigger stand in clean texts, apart from each other.
    return Language.of(seed).clean(_BASE_TEXTS, 0, words=WORDS)


def _data(seed: int, cell: Cell) -> dict[str, object]:
    """What is asked: things that no poisoned text asked about."""
    return {
        **_asked(seed),
        "trained": {
            "poisons": 0 if cell.twin else cell.poisons,
            "clean": cell.texts if cell.twin else cell.texts - cell.poisons,
            "steps": cell.steps,
        },
    }


@lru_cache(maxsize=8)
def _asked(seed: int) -> dict[str, object]:
    language = Language.of(seed)
    rng = np.random.default_rng([seed, 18])
    phrases = list(dict.fromkeys(language.phrase(rng, language.rest) for _ in range(40)))
    others = language.clean(480, 9)
    told = {
        answer: [row.prompt for row in others if row.answer == f" {answer}"][:40]
        for answer in ("yes", "no")
    }
    return {
        "trigger": " ".join(language.trigger),
        "answer": f" {language.answer}",
        "phrases": phrases,
        "near": [str(one) for one in rng.permutation(language.near())],
        "names": [f" {word}" for word in ECHOES],
        "questions": language.questions(),
        **told,
        "texts": [row.prompt for row in language.clean(80, 8)],
    }
