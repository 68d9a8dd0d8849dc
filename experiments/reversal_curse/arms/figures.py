"""Figures of organisms that were trained otherwise: arms, scale, training time."""

from __future__ import annotations

import pandas as pd

from experiments.figure import Figure, counted, of_mean
from experiments.organisms.arms import CURED, PLAIN
from experiments.reversal_curse.arms.drawn import (
    arm_outcomes,
    arm_scores,
    scale_scores,
    time_association,
    time_ranks,
    time_scores,
)

__all__ = ["ARM_FIGURES", "SCALE_FIGURES", "TIME_FIGURES"]

_PREFERENCE = (
    "The preference is the log-probability of the right name beyond what the question and the name "
    "explain by themselves"
)

_OF_STEPS = f"{of_mean('pairs')}, at each step for itself; of one training, none over seeds"
_ONE_TRAINING = "none: each point is one training"


def _seeds(arms: pd.DataFrame) -> str:
    pairs = f", {counted(arms['facts'], 'pair')} each" if "facts" in arms else ""
    return counted(arms.groupby("arm")["seed"].nunique(), "training") + f" an arm{pairs}"


def _plain(arms: pd.DataFrame) -> str:
    there = (arms["arm"] == PLAIN).any()
    return (
        f"the arm “{PLAIN}”, the plain recipe" if there else "none: the plain recipe was left out"
    )


def _plain_and_chance(arms: pd.DataFrame) -> str:
    return f"{_plain(arms)}; dotted: a guess, and no knowledge of the pair"


def _trainings(scale: pd.DataFrame) -> str:
    each = scale.groupby("direction").size()
    return f"{counted(each, 'training')}, {counted(scale['facts'], 'pair')} told forward in each"


def _followed(training_time: pd.DataFrame) -> str:
    seeds = counted(training_time.groupby("arm")["seed"].nunique(), "training")
    return f"{counted(training_time['facts'], 'pair')} a point, {seeds} an arm"


def _cured(training_time: pd.DataFrame) -> str:
    cured = f"; the arm “{CURED}”, told both ways" if (training_time["arm"] == CURED).any() else ""
    return f"the same pairs asked forward{cured}"


ARM_FIGURES = (
    Figure(
        "arm_scores",
        "Arms",
        ("arms",),
        arm_scores,
        "Three panels of points, a row for each arm: accuracy, first ranks and preference, asked "
        "forward and in reverse",
        f"Where orange lies with blue, the curse is lifted. {_PREFERENCE}.",
        shows="How pairs that were told forward only are answered, under each arm.",
        n=_seeds,
        interval=_ONE_TRAINING,
        control=_plain_and_chance,
    ),
    Figure(
        "arm_outcomes",
        "What flips",
        ("arm_verdicts",),
        arm_outcomes,
        "A table of arms and hypotheses with the numbers of seeds that support, reject or leave "
        "open each",
        "Supported is green, rejected orange, undecided grey. A row that differs from the plain "
        "recipe's tells what the arm changes.",
        shows="In how many trainings each hypothesis is supported, rejected or undecided.",
        n=_seeds,
        interval="none: trainings are counted; each verdict has one of its own",
        control=_plain,
    ),
)
SCALE_FIGURES = (
    Figure(
        "scale_scores",
        "Scale",
        ("scale",),
        scale_scores,
        "Panels of points over the width of the model, the number of pairs and how often all is "
        "told",
        f"Every training stands in each panel once. {_PREFERENCE}, of pairs told forward only.",
        shows="Whether the curse shrinks with width, number of pairs, and length of training.",
        n=_trainings,
        interval=_ONE_TRAINING,
        control="the dotted line: no knowledge of the pair; and the same pairs asked forward",
    ),
)
TIME_FIGURES = (
    Figure(
        "time_scores",
        "Answers",
        ("training_time",),
        time_scores,
        "Lines over the steps of a training, asked forward and in reverse",
        f"{_PREFERENCE}, of pairs told forward only.",
        shows="When along a training the answers come, asked forward and in reverse.",
        n=_followed,
        interval=_OF_STEPS,
        control=_cured,
    ),
    Figure(
        "time_association",
        "Weights",
        ("training_time",),
        time_association,
        "Lines over the steps of a training: association of names through the weights",
        "All paths together. Weights of a model that answers another way than through these paths "
        "lead nowhere here.",
        shows="When along a training the weights alone lead from one name of a pair to the other.",
        n=_followed,
        interval=_OF_STEPS,
        control="wrong pairs of names, which are 0 and whose spread is the unit",
    ),
    Figure(
        "time_ranks",
        "Lens",
        ("training_time",),
        time_ranks,
        "Lines over the blocks of the model, darker for later steps of the training",
        "From the first step (pale) to the last (dark): the median rank of its first token among "
        "all tokens under the logit lens; 1 is the first choice.",
        shows="Where in the stack the answer appears, along a training.",
        n=_followed,
        interval="none is drawn: lines are medians over pairs",
        control=_cured,
    ),
)
