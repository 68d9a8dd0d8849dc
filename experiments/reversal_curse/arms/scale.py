"""Does the curse shrink with size? Organisms over width, number of facts and length of training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats as scipy_stats

from experiments.context import Context
from experiments.organisms.config import TrainConfig
from experiments.reversal_curse.arms.trained import SMALL, curse_scores, subject_in, trained
from interp.execute import Unit

__all__ = ["ScaleJob", "ScalePlan", "scale_seconds", "scale_table", "trends"]

FACTORS = ("width", "pairs", "passes")
_PAIRS_OF_A_BEARER = 50
# As in `stage`: what asking takes, in steps of the training of `SMALL`, for so many pairs.
_ASKING, _ASKED_PAIRS = 60, 100


@dataclass(frozen=True)
class ScaleJob:
    """One training: how wide, of how many people with one name, how often told, which seed."""

    width: int
    bearers: int
    passes: float
    seed: int
    folder: str

    @property
    def id(self) -> str:
        return f"{self.width}-{self.bearers}-{round(100 * self.passes)}-{self.seed}"

    def config(self, base: TrainConfig) -> TrainConfig:
        """Each fact is told equally often, whatever their number."""
        steps = base.steps * self.passes * self.bearers / base.data.bearers
        return replace(
            base,
            seed=self.seed,
            d_model=self.width,
            d_mlp=4 * self.width,
            steps=round(steps),
            data=replace(base.data, bearers=self.bearers),
        )


@dataclass(frozen=True)
class ScalePlan:
    """Every combination of these is trained.

    Attributes:
        widths: of the residual stream; the MLPs are four times as wide.
        bearers: 50 pairs for each (see `TrainingData`).
        passes: how often everything is told, in multiples of the plain recipe.
        seeds: how many of each, counted from 0.
        base: all other settings.
    """

    widths: tuple[int, ...] = (64, 88, 112)
    bearers: tuple[int, ...] = (2, 4)
    passes: tuple[float, ...] = (1.0, 2.0)
    seeds: int = 2
    base: TrainConfig = SMALL

    def jobs(self, folder: Path) -> list[ScaleJob]:
        grid = product(range(self.seeds), self.widths, self.bearers, self.passes)
        jobs = [ScaleJob(width, many, often, seed, "") for seed, width, many, often in grid]
        return [replace(job, folder=str(folder / f"scale-{job.id}")) for job in jobs]


@dataclass(frozen=True)
class ScaleStart:
    """What a worker starts with; see `interp.execute`."""

    base: TrainConfig

    def __call__(self) -> Callable[[ScaleJob], pd.DataFrame]:
        return self._work

    def _work(self, job: ScaleJob) -> pd.DataFrame:
        subject = subject_in(trained(job.config(self.base), Path(job.folder)))
        table = curse_scores(subject)
        weights = sum(one.numel() for one in subject.model.bridge.original_model.parameters())
        told = {
            "width": job.width,
            "pairs": len(subject.facts),
            "passes": float(job.passes),
            "seed": job.seed,
            "parameters": int(weights),
        }
        for place, (name, value) in enumerate(told.items()):
            table.insert(place, name, value)
        return table


def scale_table(context: Context, plan: ScalePlan) -> pd.DataFrame:
    """Train and ask all; the table `scale` of the run. A job that is done is kept.

    Returns:
        A row for each training and direction: width, pairs, passes, seed, parameters, and the
        columns of `curse_scores`.
    """
    jobs = plan.jobs(context.workspace("organisms").absolute())
    found = context.tables("scale", [Unit(job.id, job) for job in jobs], ScaleStart(plan.base))
    return context.table(
        "scale", lambda _: pd.concat([found[job.id] for job in jobs], ignore_index=True)
    )


def trends(table: pd.DataFrame, direction: str, column: str = "score") -> pd.DataFrame:
    """What doubling each factor changes, all others held: least squares over trainings.

    Args:
        table: as `scale_table` gives it.
        column: what is explained.

    Returns:
        A row for each factor that varies: factor, slope (of `column` for each doubling) and its
        95% interval low, high; trainings behind it, n. The intervals take trainings as independent
        and the factors' effects as additive in their logarithms.
    """
    rows = table[table["direction"] == direction]
    varied = [name for name in FACTORS if rows[name].nunique() > 1]
    doublings = np.log2(rows[varied].to_numpy(dtype=np.float64))
    design = np.column_stack([np.ones(len(rows)), doublings])
    values = rows[column].to_numpy(dtype=np.float64)
    free = len(rows) - design.shape[1]
    out = []
    if free > 0:
        slopes, *_ = np.linalg.lstsq(design, values, rcond=None)
        left = values - design @ slopes
        spread = np.linalg.inv(design.T @ design) * float(left @ left) / free
        half = float(scipy_stats.t.ppf(0.975, free)) * np.sqrt(np.diagonal(spread))
        out = [
            (name, slopes[i], slopes[i] - half[i], slopes[i] + half[i], len(rows))
            for i, name in enumerate(varied, 1)
        ]
    return pd.DataFrame(out, columns=["factor", "slope", "low", "high", "n"])


def scale_seconds(plan: ScalePlan, workers: int, of_step: float) -> float:
    """About how long it takes; see `stage.seconds`. A step's time goes with the width here."""
    times = []
    for job in plan.jobs(Path()):
        wide = (1 + job.width / SMALL.d_model) / 2
        asked = _ASKING * (job.bearers * _PAIRS_OF_A_BEARER / _ASKED_PAIRS) ** 2
        times.append(wide * (job.config(plan.base).steps + asked))
    return of_step * max(sum(times) / workers, max(times, default=0))
