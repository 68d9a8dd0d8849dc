"""Organisms that the study trains for itself, and what is asked of each of them."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from cache.files import real_folder
from experiments.organisms.arms import find_arm
from experiments.organisms.config import TrainConfig, TrainingData
from experiments.organisms.errors import OrganismError
from experiments.organisms.facts import DIRECTIONS, Direction
from experiments.organisms.train import train
from experiments.organisms.training.checkpoint import discard
from experiments.reversal_curse.facts import read_facts, read_templates
from experiments.reversal_curse.measure import Subject
from experiments.reversal_curse.prompts import answer
from interp import load_model
from interp.generation.answers import score_answers
from interp.prompts.pairs import continuations
from interp.prompts.tokens import tokenise
from interp.stats import mean_interval, specificity

__all__ = [
    "SMALL",
    "candidates",
    "curse_scores",
    "seconds_of_step",
    "small_config",
    "subject_in",
    "trained",
]

# Half as many people as the bundled organism knows, and a narrower model: it learns them all within
# the same number of steps, in half a minute.
SMALL = TrainConfig(
    batch_size=64, d_model=96, d_mlp=384, data=TrainingData(bearers=2), stored="float16"
)
_STEPS_TIMED = 4


# With 60 pairs told both ways instead of 120, what joins the forms of a sentence takes longer.
_LONGER = 1.5


def small_config(arm: str, seed: int, base: TrainConfig = SMALL) -> TrainConfig:
    """The settings of an arm at the size of `base`.

    Where sentences are told in another form too, more steps than the arm's recipe for the bundled
    organism's people.

    Raises:
        OrganismError: there is no such arm.
    """
    config = find_arm(arm).config(replace(base, seed=seed))
    if config.data.reversed_text or config.data.masked:
        return replace(config, steps=round(_LONGER * config.steps))
    return config


def trained(config: TrainConfig, folder: Path, keep: Collection[int] = ()) -> Path:
    """An organism in `folder`, trained if it is not there; one of other settings is replaced.

    Raises:
        StorageError: it, or the folder it lies in, is a link: what that leads to is not replaced.
    """
    real_folder(folder.parent.parent, folder.parent.name, folder.name)
    try:
        return train(config, folder, keep=keep)
    except OrganismError:
        # Left by another version, or damaged. What cannot be written fails again, and says why.
        discard(folder)
        return train(config, folder, keep=keep)


def subject_in(folder: Path) -> Subject:
    """The organism in a folder, with the facts and templates beside it."""
    model = load_model(str(folder))
    templates = read_templates(folder / "templates.json")
    return Subject(model, read_facts(folder / "facts.csv"), templates)


def candidates(subject: Subject, direction: Direction) -> xr.Dataset:
    """Log-probability (nats) of every name after the questions about forward-only pairs.

    Returns:
        logprob(fact, name) of the whole name, first_logprob(fact, name) of its first token
        (first_token(name)); a name is the number of the fact that it answers. words(name) are those
        that its fact is asked in.
    """
    facts = subject.facts
    asked = [i for i, fact in enumerate(facts) if fact.split == "forward"]
    prompts = subject.prompts(direction)
    scores = score_answers(
        subject.model,
        [prompts[i] for i in asked for _ in facts],
        [answer(fact, direction) for _ in asked for fact in facts],
    )
    shape = (len(asked), len(facts))
    first = continuations(
        subject.model, tokenise(subject.model, prompts), subject.answers(direction)
    )
    return xr.Dataset(
        {
            name: (("fact", "name"), scores[name].values.reshape(shape).astype(np.float64))
            for name in ("logprob", "first_logprob")
        },
        coords={
            "fact": asked,
            "name": np.arange(len(facts)),
            "words": ("name", [f"{fact.relation}/{fact.inverse}" for fact in facts]),
            "first_token": ("name", [ids[0] for ids in first]),
        },
        attrs={"direction": direction, "fingerprint": subject.model.fingerprint},
    )


def curse_scores(subject: Subject) -> pd.DataFrame:
    """How well forward-only pairs are known, in both directions: a row for each.

    Columns: direction; facts; logprob of the right name (mean, nats); open_first and open_rank,
    how often the right name is the likeliest of all names, and its median rank among them (0 is
    first); held_first, held_rank and chance, the same among the names of forward-only pairs that
    are asked in the same words, and how often chance would put it first; score with its 95%
    interval over pairs, what the right name has beyond what question and name explain (see
    `interp.stats.specificity`; among the same names), and first_score, the same of first tokens.
    """
    rows = []
    for direction in DIRECTIONS:
        found = candidates(subject, direction)
        logprob, asked = found["logprob"].values, found["fact"].values
        own = logprob[np.arange(len(asked)), asked]
        open_rank = (logprob > own[:, None]).sum(1)
        held = _among_held(found)
        low, high = mean_interval(held.score)
        rows.append(
            {
                "direction": direction,
                "facts": len(asked),
                "logprob": float(own.mean()),
                "open_first": float((open_rank == 0).mean()),
                "open_rank": float(np.median(open_rank)),
                "held_first": float((held.rank == 0).mean()),
                "held_rank": float(np.median(held.rank)),
                "chance": held.chance,
                "score": float(held.score.mean()),
                "low": low,
                "high": high,
                "first_score": float(held.first_score.mean()),
            }
        )
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class _Held:
    """Of forward-only pairs among their own names: ranks, scores, and chance of a first rank."""

    rank: npt.NDArray[np.int64]
    score: npt.NDArray[np.float64]
    first_score: npt.NDArray[np.float64]
    chance: float


def _among_held(found: xr.Dataset) -> _Held:
    asked, words = found["fact"].values, found["words"].values
    tokens = found["first_token"].values
    held = _Held(np.zeros(len(asked), np.int64), np.zeros(len(asked)), np.zeros(len(asked)), 0.0)
    chance = 0.0
    for kind in dict.fromkeys(words[asked]):
        rows = np.flatnonzero(words[asked] == kind)
        names = asked[rows]
        block = found["logprob"].values[np.ix_(rows, names)]
        held.rank[rows] = (block > np.diagonal(block)[:, None]).sum(1)
        held.score[rows] = specificity(block)
        # Another name with the same first token is no other answer, as far as that goes.
        alike = (tokens[names][:, None] == tokens[names]) & ~np.eye(len(rows), dtype=bool)
        first = np.where(alike, np.nan, found["first_logprob"].values[np.ix_(rows, names)])
        held.first_score[rows] = specificity(first)
        chance += 1 / len(asked)
    return replace(held, chance=chance)


def seconds_of_step(config: TrainConfig) -> float:
    """Seconds that a step of a training takes on one core of this machine, from a few."""
    times: list[float] = []

    def progress(step: int, total: int, info: dict[str, Any]) -> None:
        times.append(time.perf_counter())
        if step > _STEPS_TIMED:
            raise _Timed

    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(_Timed):
        train(config, Path(folder) / "organism", progress)
    return (times[-1] - times[0]) / (len(times) - 1)


class _Timed(Exception):
    """Enough steps were timed."""
