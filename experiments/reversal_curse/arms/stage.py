"""All arms, several seeds each: trained and judged on any executor, one stored result for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from experiments.context import Context
from experiments.organisms.arms import ARMS, find_arm
from experiments.organisms.config import TrainConfig
from experiments.reversal_curse.arms.job import SCORES, VERDICT, ArmJob, Investigate, job_id, start
from experiments.reversal_curse.arms.trained import SMALL, small_config
from experiments.reversal_curse.config import Config
from interp.execute import Unit

__all__ = ["SCORE_COLUMNS", "ArmsPlan", "arm_tables", "outcome_counts", "seconds"]

SCORE_COLUMNS = (
    *("arm", "seed", "direction", "facts", "accuracy", "accuracy_held_out", "logprob"),
    *("open_first", "open_rank", "held_first", "held_rank", "chance"),
    *("score", "low", "high", "first_score"),
)
_VERDICT_COLUMNS = (
    *("arm", "seed", "id", "outcome", "estimate", "low", "high", "unit", "n", "statement"),
)
# What a job takes besides its training, in steps of the plain training at the size of `SMALL`: one
# was timed beside the other on one machine.
_MEASURING = 350


@dataclass(frozen=True)
class ArmsPlan:
    """Which arms are trained, and how.

    Attributes:
        arms: their names; all if left out.
        seeds: how many of each, counted from 0.
        base: the settings that the arms change.
        config: of what is measured; few names and pairs, and the logit lens alone, since each of
            many models is asked.
    """

    arms: tuple[str, ...] = tuple(ARMS)
    seeds: int = 5
    base: TrainConfig = SMALL
    config: Config = field(default_factory=lambda: Config(n_names=10, lens_seconds=0.0))

    def __post_init__(self) -> None:
        for arm in self.arms:
            find_arm(arm)

    def jobs(self) -> list[tuple[str, int]]:
        """Arm and seed of each job, in the order in which they are begun."""
        return [(arm, seed) for seed in range(self.seeds) for arm in self.arms]


def arm_tables(
    context: Context, plan: ArmsPlan, investigate: Investigate
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Train and judge every arm; the tables `arms` and `arm_verdicts` of the run.

    Each job is stored when it is done, in `arm_ARM-SEED`; its organism and the run on it stay in
    `work/organisms/` of the run directory, so that a job that was stopped in the middle goes on as
    well.

    Returns:
        A row for each arm, seed and direction (`SCORE_COLUMNS`), and one for each arm, seed and
        hypothesis (id, outcome, estimate with its interval, unit, n, statement).
    """
    folder = context.workspace("organisms").absolute()
    units = []
    for arm, seed in plan.jobs():
        name, training = job_id(arm, seed), small_config(arm, seed, plan.base)
        job = ArmJob(arm, seed, training, str(folder / name), plan.config, investigate)
        units.append(Unit(name, job))
    found = context.tables("arm", units, start)
    in_order = [job_id(arm, seed) for arm in plan.arms for seed in range(plan.seeds)]
    whole = pd.concat([found[each] for each in in_order], ignore_index=True)

    def rows(kind: str, columns: Sequence[str], counts: str) -> pd.DataFrame:
        chosen = whole[whole["row"] == kind][list(columns)].reset_index(drop=True)
        return chosen.astype({counts: "int64"})

    scores = context.table("arms", lambda _: rows(SCORES, SCORE_COLUMNS, "facts"))
    verdicts = context.table("arm_verdicts", lambda _: rows(VERDICT, _VERDICT_COLUMNS, "n"))
    return scores, verdicts


def outcome_counts(verdicts: pd.DataFrame) -> pd.DataFrame:
    """How many seeds say what: a row for each arm and hypothesis, in their order.

    Columns: arm, id, supported, rejected, undecided.
    """
    outcomes = ["supported", "rejected", "undecided"]
    rows = []
    for (arm, hypothesis), group in verdicts.groupby(["arm", "id"], sort=False):
        counts = group["outcome"].value_counts()
        rows.append((arm, hypothesis, *(int(counts.get(each, 0)) for each in outcomes)))
    return pd.DataFrame(rows, columns=["arm", "id", *outcomes])


def seconds(plan: ArmsPlan, workers: int, of_step: float) -> float:
    """About how long the arms take.

    Args:
        workers: how many jobs run at a time, each on a core of its own.
        of_step: seconds that a step of the plain training takes; see `trained.seconds_of_step`.
    """
    steps = [small_config(arm, 0, plan.base).steps + _MEASURING for arm, _ in plan.jobs()]
    return of_step * max(sum(steps) / workers, max(steps, default=0))
