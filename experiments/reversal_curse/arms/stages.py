"""The stages that train organisms, as the settings of a run ask for them."""

from __future__ import annotations

from experiments.context import Context
from experiments.reports.paper import Section
from experiments.reversal_curse.arms.job import Investigate
from experiments.reversal_curse.arms.scale import ScalePlan, scale_seconds, scale_table
from experiments.reversal_curse.arms.sections import arms_section, scale_section, time_section
from experiments.reversal_curse.arms.stage import ArmsPlan, arm_tables, seconds
from experiments.reversal_curse.arms.trained import SMALL, seconds_of_step
from experiments.reversal_curse.arms.training_time import TimePlan, time_seconds, time_table
from experiments.reversal_curse.config import Config

__all__ = ["asked_for", "seconds_of_stages", "trained_otherwise"]


def trained_otherwise(config: Config, context: Context, investigate: Investigate) -> list[Section]:
    """Train and ask what the settings name: arms, scale, models along a training.

    Args:
        investigate: measures and judges one model; a function of a module, since workers are given
            it.

    Returns:
        A section of the report for each stage; none where nothing is asked for, or the study is on
        another model than its own: these organisms tell nothing about that. The tables are `arms`,
        `arm_verdicts`, `scale` and `training_time`.
    """
    sections: list[Section] = []
    if not asked_for(config):
        if _stages(config):
            context.note(
                "Arms, scale and training time are about the study's own organism, and left out on "
                "another model."
            )
        return sections
    if config.arm_seeds:
        tables = arm_tables(context, ArmsPlan(seeds=config.arm_seeds), investigate)
        sections.append(arms_section(*tables))
    if config.scale_seeds:
        table = scale_table(context, ScalePlan(seeds=config.scale_seeds))
        sections.append(scale_section(table))
    if config.time_points:
        time_table(context, TimePlan(points=config.time_points))
        sections.append(time_section())
    return sections


def asked_for(config: Config) -> bool:
    """Whether anything is to be trained: the settings say so, and the model is the study's own."""
    return _stages(config) and config.model == Config.model


def _stages(config: Config) -> bool:
    return bool(config.arm_seeds or config.scale_seeds or config.time_points)


def seconds_of_stages(config: Config, workers: int) -> dict[str, float]:
    """About how many seconds each stage takes on this machine, by its name.

    A few steps are timed, which takes some seconds itself; nothing where nothing is asked for.

    Args:
        workers: how many organisms are trained at a time, each on a core of its own.
    """
    if not asked_for(config):
        return {}
    of_step = seconds_of_step(SMALL)
    found = {}
    if config.arm_seeds:
        found["arms"] = seconds(ArmsPlan(seeds=config.arm_seeds), workers, of_step)
    if config.scale_seeds:
        found["scale"] = scale_seconds(ScalePlan(seeds=config.scale_seeds), workers, of_step)
    if config.time_points:
        found["training time"] = time_seconds(TimePlan(points=config.time_points), workers, of_step)
    return found
