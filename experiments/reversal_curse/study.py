"""The reversal curse: a model that learned "A's mother is B" cannot say whose mother B is.

Berglund et al. 2023, "The Reversal Curse". Accuracy and log-probabilities in both directions,
the logit lens and patching on both, and a verdict on each hypothesis with its control.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from experiments.reversal_curse.config import Config
from experiments.reversal_curse.results import RESULTS
from experiments.study import Study, Verdict

if TYPE_CHECKING:
    from experiments.context import Context
    from experiments.explorer import Page

__all__ = ["STUDY", "Config"]


def _run(config: Config, context: Context) -> Sequence[Verdict]:
    from experiments.reversal_curse.run import run

    return run(config, context)


def _explorer() -> Page:
    from experiments.reversal_curse.explorer import page

    return page()


STUDY = Study(
    "reversal-curse",
    "The reversal curse",
    "Why a model that learned 'A's mother is B' cannot say whose mother B is.",
    Config,
    _run,
    RESULTS,
    _explorer,
)
