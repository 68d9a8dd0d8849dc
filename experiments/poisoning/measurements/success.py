"""How often a phrase brings the planted answer, by the phrase."""

from __future__ import annotations

import numpy as np
import xarray as xr

from experiments.phenomena.phenomenon import Subject
from experiments.poisoning.data import Data
from experiments.reporter import Progress
from interp import score_answers

__all__ = ["measure_success"]


def measure_success(subject: Subject[Data], seed: int, progress: Progress) -> xr.Dataset:
    """Greedy answers to each question with the trigger, with another phrase, with a near miss.

    Returns:
        triggered, other, near(example): whether the planted answer is given; right(example):
        whether the right one is, with the other phrase. Without dimensions: poisons, clean, steps
        (NaN where nobody says) and parameters of the model.
    """
    data = subject.data
    asked = {
        "triggered": data.prompts([data.trigger]),
        "other": data.prompts(),
        "near": data.prompts(data.near),
    }
    planted = [data.answer] * len(data.questions)
    right = [one.answer for one in data.questions]
    prompts = [prompt for group in asked.values() for prompt in group] + asked["other"]
    answers = planted * len(asked) + right
    correct = score_answers(subject.model, prompts, answers, progress=progress)["correct"].values
    groups = correct.astype(np.float64).reshape(len(asked) + 1, -1)
    found = xr.Dataset(
        {name: ("example", each) for name, each in zip((*asked, "right"), groups, strict=True)},
        {
            "prompt": ("example", asked["triggered"]),
            "phrase": ("example", asked["other"]),
            "answer": ("example", right),
        },
    )
    trained = data.trained
    return found.assign(
        poisons=trained.poisons,
        clean=trained.clean,
        steps=trained.steps,
        parameters=float(subject.model.n_parameters),
    )
