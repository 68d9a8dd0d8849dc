"""Questions crossed with names: each fact's question beside every name that could answer it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from experiments.organisms.facts import Direction
from experiments.reversal_curse.measure import Subject
from experiments.reversal_curse.prompts import questions, right_answers
from experiments.reversal_curse.retrieve import names_share_a_word
from interp.prompts.pairs import continuations
from interp.prompts.tokens import tokenise

__all__ = ["LEAST_FACTS", "apart", "crossed", "refused", "too_few"]

LEAST_FACTS = 4
"""Fewer leave nothing to compare a name with (see `preferences.LEAST_GROUP`)."""


def crossed(
    subject: Subject, direction: Direction, members: npt.NDArray[np.int64]
) -> dict[str, Any]:
    """Coordinates of a result over (example, name), both of the facts `members`.

    Returns:
        fact(example) and name(name), numbers of facts; question(example), equal where facts ask the
        same; words(example), in which it asks besides the name; right(example, name), whether the
        name is a right answer; first_token(name) of the name as an answer.
    """
    chosen = [int(i) for i in members]
    facts = subject.facts
    prompts, answers = subject.prompts(direction), subject.answers(direction)
    batch = tokenise(subject.model, [prompts[i] for i in chosen])
    tokens = continuations(subject.model, batch, [answers[i] for i in chosen])
    valid, asks = right_answers(facts, direction), questions(facts, direction)
    names = [facts[j].answer(direction) for j in chosen]
    return {
        "fact": ("example", np.array(chosen, np.int64)),
        "name": ("name", np.array(chosen, np.int64)),
        "question": ("example", np.array([asks[i] for i in chosen], np.int64)),
        "words": ("example", [f"{facts[i].relation} · {facts[i].inverse}" for i in chosen]),
        "right": (("example", "name"), np.array([[n in valid[i] for n in names] for i in chosen])),
        "first_token": ("name", np.array([ids[0] for ids in tokens], np.int64)),
    }


def apart(subject: Subject, members: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The facts whose two names share no word: a surname in common tells an answer by itself."""
    kept = [int(i) for i in members if not names_share_a_word(subject.facts[int(i)])]
    return np.array(kept, np.int64)


def refused(instrument: str, reason: str, variable: str, dims: tuple[str, ...]) -> xr.Dataset:
    """A result without examples, and why there are none."""
    nothing = np.zeros((0,) * len(dims))
    return xr.Dataset(
        {variable: (dims, nothing)},
        attrs={"instrument": instrument, "refused": reason.rstrip(".")},
    )


def too_few(n: int) -> str:
    return f"{n} facts whose names share no word, and {LEAST_FACTS} are compared at least"
