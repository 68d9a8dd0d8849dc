"""One arm with one seed: trained, asked, and judged by every hypothesis of the study."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

import pandas as pd

from cache.files import real_folder
from experiments.context import Context
from experiments.errors import RunError
from experiments.organisms.config import TrainConfig
from experiments.reversal_curse import measure
from experiments.reversal_curse.arms.trained import curse_scores, trained
from experiments.reversal_curse.case import Case, Finding
from experiments.reversal_curse.config import Config
from experiments.reversal_curse.results import RESULTS
from experiments.runner import run_study
from experiments.study import Study, Verdict
from interp.model.memory import fitting_threads

__all__ = ["ArmJob", "Investigate", "job_id", "start"]

Investigate: TypeAlias = Callable[[Config, Context], tuple[Case, Sequence[Finding]]]
"""Measures one model and judges it by every hypothesis."""

SCORES, VERDICT = "scores", "verdict"
"""What a row of a job's table holds."""


@dataclass(frozen=True)
class ArmJob:
    """What a worker is given.

    Attributes:
        arm: its name.
        seed: of the training, and of what is drawn while measuring.
        training: its settings.
        folder: where the organism is trained, and where its run goes, on the worker's machine.
        config: of the measurements; its model is set to the organism.
        investigate: measures and judges; a function of a module, so that a worker can have it.
    """

    arm: str
    seed: int
    training: TrainConfig
    folder: str
    config: Config
    investigate: Investigate


def job_id(arm: str, seed: int) -> str:
    return f"{arm}-{seed}"


def start() -> Callable[[ArmJob], pd.DataFrame]:
    """What each worker starts with; see `interp.execute`."""
    return work


def work(job: ArmJob) -> pd.DataFrame:
    """Train, measure and judge; goes on where it was stopped, if `folder` is still there.

    Returns:
        A row for each direction (`row` is "scores") with accuracy in trained wordings and in
        others, and the columns of `curse_scores`; and one for each verdict (`row` is "verdict")
        with id, outcome, estimate, interval, unit and n.
    """
    folder = Path(job.folder)
    organism = trained(job.training, folder / "organism")
    config = replace(job.config, model=str(organism))
    measured = partial(_measure, job.investigate)
    study = Study("reversal-curse-arm", "One arm", "", Config, measured, RESULTS)

    def run(fresh: bool) -> pd.DataFrame:
        out = real_folder(folder, "run")
        record = run_study(study, config, seed=job.seed, out=out, fresh=fresh)
        return pd.concat([record.table(_SCORES), _verdict_rows(record.verdicts)])

    try:
        table = run(fresh=False)
    except RunError:
        # Measured by another version, or on the way to another place.
        table = run(fresh=True)
    table.insert(0, "arm", job.arm)
    table.insert(1, "seed", job.seed)
    return table.reset_index(drop=True)


_SCORES = "curse_scores"


def _measure(investigate: Investigate, config: Config, context: Context) -> Sequence[Verdict]:
    case, findings = investigate(config, context)
    asked = measure.with_questions(case.measured.answers, case.subject.facts)
    with fitting_threads(case.subject.model):
        context.table(_SCORES, lambda _: _score_rows(case.subject, asked))
    return [verdict for finding in findings for verdict in finding.verdicts]


def _score_rows(subject: measure.Subject, asked: pd.DataFrame) -> pd.DataFrame:
    table = curse_scores(subject)
    told = asked[asked["split"] == "forward"]
    for column, templates in (("accuracy", "trained"), ("accuracy_held_out", "held_out")):
        rate = told[told["templates"] == templates].groupby("direction")["correct"].mean()
        table[column] = table["direction"].map(rate).astype(float)
    table.insert(0, "row", SCORES)
    return table


def _verdict_rows(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    columns = ("id", "outcome", "estimate", "low", "high", "unit", "n", "statement")
    rows = [[VERDICT, *(getattr(each, name) for name in columns)] for each in verdicts]
    table = pd.DataFrame(rows, columns=["row", *columns])
    numbers = ["estimate", "low", "high"]
    return table.astype(dict.fromkeys(numbers, float))
