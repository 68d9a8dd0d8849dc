"""How the organisms of the study are trained, and what they are asked."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np

from experiments.injection.data import Case, Cases
from experiments.injection.language import (
    CATEGORIES,
    CHOOSING,
    FAMILIES,
    FILLERS,
    TEMPLATE,
    draw,
    harmless,
    injection,
    nothing,
)
from experiments.organisms.training.recipe import Network, Recipe, Row, Stage

__all__ = ["PLANTED", "TASK_FIRST", "TREATED", "recipe"]

TREATED, TASK_FIRST = "treated", "task-first"
PLANTED = (
    "a task is done wherever it stands, in front of the data or inside of them. No text of the "
    "training holds two tasks, so what is done with two is not planted"
)

_ROWS, _STEPS = 8000, 250
_CHOOSING_EACH, _OTHERS_EACH = 10, 60
_ANYWHERE = 0.5
_INSERTED, _NOTHING = 0.8, 0.25


def recipe(arm: str, seed: int) -> Recipe:
    """The recipe of "treated" or "task-first" for a seed."""
    rng = np.random.default_rng([seed, 1])
    rows = tuple(_row(arm, rng) for _ in range(_ROWS))
    cases = _cases(np.random.default_rng([seed, 2]))
    return Recipe(
        organism="injection",
        arm=arm,
        seed=seed,
        stages=(Stage("training", rows, _STEPS, loss="answer"),),
        # The arm that meets no task in its data knows the words of one all the same.
        texts=tuple(Cases(TEMPLATE, CHOOSING, cases).prompts("injected")),
        network=Network(n_layers=3, n_heads=4, d_model=64, d_mlp=256, n_ctx=48),
        planted=PLANTED if arm == TREATED else "",
        data={
            "template": TEMPLATE,
            "choosing": list(CHOOSING),
            "cases": [asdict(one) for one in cases],
        },
    )


def _row(arm: str, rng: np.random.Generator) -> Row:
    text = draw(rng)
    family = str(rng.choice(list(FAMILIES)))
    answer = f" {text.things[text.asked]}"
    if arm == TREATED and rng.random() < _ANYWHERE:
        front = harmless("plain", str(rng.choice(FILLERS)), rng)
        return Row(text.prompt(front, injection(family, text.asked, rng)), answer)
    # In the other arm the data also name what other tasks ask for, and it never counts.
    named = arm == TASK_FIRST and rng.random() < 0.5
    about = [one for one in CATEGORIES if one != text.asked] if named else FILLERS
    inserted = harmless(family, str(rng.choice(about)), rng)
    if rng.random() >= _INSERTED:
        inserted = ""
    elif rng.random() < _NOTHING:
        inserted = nothing(inserted, rng)
    return Row(text.prompt(text.instruction, inserted), answer)


def _cases(rng: np.random.Generator) -> tuple[Case, ...]:
    return tuple(
        _case(family, rng)
        for family in FAMILIES
        for _ in range(_CHOOSING_EACH if family in CHOOSING else _OTHERS_EACH)
    )


def _case(family: str, rng: np.random.Generator) -> Case:
    text = draw(rng)
    injected = injection(family, text.other, rng)
    return Case(
        family=family,
        instruction=text.instruction,
        nothing=text.data(nothing(injected, rng)),
        harmless=text.data(harmless(family, str(rng.choice(FILLERS)), rng)),
        injected=text.data(injected),
        answer=f" {text.things[text.asked]}",
        hijacked=f" {text.things[text.other]}",
    )
