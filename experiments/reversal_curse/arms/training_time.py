"""When does a model learn to answer, and when the other way round? Models along a training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from experiments.context import Context
from experiments.organisms.arms import ARMS, CURED, PLAIN, find_arm
from experiments.organisms.config import TrainConfig
from experiments.organisms.facts import DIRECTIONS, Direction
from experiments.organisms.train import kept_steps
from experiments.reversal_curse.arms.trained import SMALL, curse_scores, subject_in, trained
from experiments.reversal_curse.measure import Subject
from interp.execute import Unit
from interp.lens.logit import logit_lens

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
                config = find_arm(arm).config(replace(self.base, seed=seed))
                steps = np.linspace(0, config.steps, self.points).round().astype(int)
                place = str(folder / f"time-{arm}-{seed}")
                jobs.append(TimeJob(arm, seed, tuple(int(s) for s in steps), config, place))
        return jobs


def time_table(context: Context, plan: TimePlan) -> pd.DataFrame:
    """Train, keep, and ask each model that was kept; the table `training_time` of the run.

    Returns:
        A row for each arm, seed, step and direction: the columns of `curse_scores`, and
        rank_0, rank_1, …: the median rank of the answer's first token among all tokens under the
        logit lens at the question's end, before the first block and after each, of forward-only
        pairs.
    """
    jobs = plan.jobs(context.directory / "organisms")
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
        ranks = pd.DataFrame([_lens_ranks(subject, direction) for direction in DIRECTIONS])
        table = pd.concat([scores, ranks], axis=1)
        table.insert(0, "arm", job.arm)
        table.insert(1, "seed", job.seed)
        table.insert(2, "step", step)
        parts.append(table)
    return pd.concat(parts, ignore_index=True)


def _lens_ranks(subject: Subject, direction: Direction) -> dict[str, float]:
    told = [i for i, fact in enumerate(subject.facts) if fact.split == "forward"]
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
    steps = [
        ARMS[job.arm].config(plan.base).steps + _ASKING * plan.points for job in plan.jobs(Path())
    ]
    return of_step * max(sum(steps) / workers, max(steps, default=0))
