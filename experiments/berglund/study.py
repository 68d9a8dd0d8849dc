"""The experiments of Berglund et al. 2023, "The Reversal Curse" (2309.12288), on any model.

Their published results are summed up again with intervals; experiment 1 (invented people, told one
way or both) is asked of a model that was trained on them, here or elsewhere; experiment 2
(celebrities and their parents) of any model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from experiments.berglund.config import Config
from experiments.berglund.results import RESULTS
from experiments.study import Study, Verdict

if TYPE_CHECKING:
    from experiments.context import Context
    from experiments.explorer import Page

__all__ = ["STUDY", "Config"]


def _run(config: Config, context: Context) -> Sequence[Verdict]:
    from experiments.berglund.run import run

    return run(config, context)


def _explorer() -> Page:
    from experiments.berglund import figures
    from experiments.explorer import Page

    shown = (figures.RIGHT, figures.PREFERENCES, figures.WON, figures.PAIRS, figures.PUBLISHED)
    return Page(figures=(*shown, figures.LOSS))


STUDY = Study(
    "berglund",
    "Berglund's experiments",
    "The experiments of the paper on the reversal curse, evaluated or trained on any model.",
    Config,
    _run,
    RESULTS,
    _explorer,
)
