"""When does a model learn to answer, and when the other way round? Models along a training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from experiments.context import Context
from experiments.organisms.arms import CURED, PLAIN
from experiments.organisms.config import TrainConfig
from experiments.organisms.facts import DIRECTIONS, Direction
from experiments.organisms.train import kept_steps
from experiments.reversal_curse.arms.trained import (
    SMALL,
    curse_scores,
    small_config,
    subject_in,
    trained,
)
from experiments.reversal_curse.hypotheses.association import read
from experiments.reversal_curse.measure import Subject
from experiments.reversal_curse.measurements.association import WHOLE, associated
from interp.execute import Unit
from interp.lens.logit import logit_lens
from interp.stats import mean_interval

__all__ = ["TimeJob", "TimePlan", "time_seconds", "time_table"]

# As in `stage`: what asking one model takes, in steps of the training of `SMALL`.
_ASKING = 80


@dataclass(frozen=True)
class TimeJob:
    """One training of which models are kept."""

    arm: str
    seed: int
    steps: tuple[int, ...]
    config: TrainConfig
    folder: str


@dataclass(frozen=True)
class TimePlan:
    """Which trainings are followed, and where.

    Attributes:
        arms: their names.
        seeds: how many of each, counted from 0.
        points: at how many steps the model is kept, the first (untrained) and last included.
        base: the settings that the arms change.
    """

    arms: tuple[str, ...] = (PLAIN, CURED)
    seeds: int = 1
    points: int = 11
    base: TrainConfig = SMALL

    def jobs(self, folder: Path) -> list[TimeJob]:
        jobs = []
        for arm in self.arms:
            for seed in range(self.seeds):
                config = small_config(arm, seed, self.base)
                steps = np.linspace(0, config.steps, self.points).round().astype(int)
                place = str(folder / f"time-{arm}-{seed}")
                jobs.append(TimeJob(arm, seed, tuple(int(s) for s in steps), config, place))
        return jobs


def time_table(context: Context, plan: TimePlan) -> pd.DataFrame:
    """Train, keep, and ask each model that was kept; the table `training_time` of the run.

    Returns:
        A row for each arm, seed, step and direction: the columns of `curse_scores`;
        association with its 95% interval over pairs, how far the weights alone lead from the name
        that is asked about to the right one, all paths, in standard deviations of wrong pairs (see
        `hypotheses.association`); and rank_0, rank_1, …: the median rank of the answer's first
        token among all tokens under the logit lens at the question's end, before the first block
        and after each. All of forward-only pairs.
    """
    jobs = plan.jobs(context.workspace("organisms").absolute())
    units = [Unit(f"{job.arm}-{job.seed}", job) for job in jobs]
    found = context.tables("time", units, start)
    return context.table(
        "training_time", lambda _: pd.concat([found[one.id] for one in units], ignore_index=True)
    )


def start() -> Callable[[TimeJob], pd.DataFrame]:
    """What each worker starts with; see `interp.execute`."""
    return work


def work(job: TimeJob) -> pd.DataFrame:
    """Train one, and ask the models along its way."""
    folder = trained(job.config, Path(job.folder), keep=job.steps)
    kept = kept_steps(folder)
    parts = []
    for step in dict.fromkeys(job.steps):
        subject = subject_in(kept[step])
        scores = curse_scores(subject)
        found = [
            {**_association(subject, direction), **_lens_ranks(subject, direction)}
            for direction in DIRECTIONS
        ]
        table = pd.concat([scores, pd.DataFrame(found)], axis=1)
        table.insert(0, "arm", job.arm)
        table.insert(1, "seed", job.seed)
        table.insert(2, "step", step)
        parts.append(table)
    return pd.concat(parts, ignore_index=True)


def _told(subject: Subject) -> list[int]:
    return [i for i, fact in enumerate(subject.facts) if fact.split == "forward"]


def _association(subject: Subject, direction: Direction) -> dict[str, float]:
    members = np.array(_told(subject), np.int64)
    found = read([associated(subject, direction, members, lambda *_: None)])
    if found is None or WHOLE not in found.paths:
        values = np.array([])
    else:
        values = found.scores[found.paths.index(WHOLE)]
    low, high = mean_interval(values)
    mean = float(values.mean()) if values.size else np.nan
    return {"association": mean, "association_low": low, "association_high": high}


def _lens_ranks(subject: Subject, direction: Direction) -> dict[str, float]:
    told = _told(subject)
    prompts, answers = subject.prompts(direction), subject.answers(direction)
    lens = logit_lens(
        subject.model,
        [prompts[i] for i in told],
        [answers[i] for i in told],
        k=1,
        positions="last",
    )
    ranks = lens["answer_rank"].isel(position=0).median("example").values
    return {f"rank_{layer}": float(rank) for layer, rank in enumerate(ranks)}


def time_seconds(plan: TimePlan, workers: int, of_step: float) -> float:
    """About how long it takes; see `stage.seconds`."""
    steps = [job.config.steps + _ASKING * plan.points for job in plan.jobs(Path())]
    return of_step * max(sum(steps) / workers, max(steps, default=0))
