"""The suffix that is found in a model, and those that it is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from experiments.phenomena.phenomenon import Subject
from experiments.suffix.data import Request, Requests
from interp import greedy_coordinate_search, random_suffixes, score_answers
from interp.model.model import Model
from interp.search.layout import MARKER

__all__ = [
    "N_RANDOM",
    "Place",
    "Suffixes",
    "answers",
    "declines",
    "found_in",
    "places",
    "with_suffix",
]

N_RANDOM, _N_LIKELY = 24, 8
_STEPS, _CANDIDATES, _TOP_K, _ROUNDS, _TOLERANCE = 14, 64, 16, 60, 1.0


@dataclass(frozen=True)
class Suffixes:
    """Texts.

    Attributes:
        found: by greedy coordinate search.
        loss: of the search, where it began and where it ended, in nats.
        runs: suffixes that the search has run.
        random: of equal length.
        likely: of equal length and, as far as random swaps lead there, likelihood.
        matched: the share of `likely` within a nat of the found one's log-probability.
    """

    found: str
    loss: tuple[float, float]
    runs: int
    random: tuple[str, ...]
    likely: tuple[str, ...]
    matched: float


def found_in(subject: Subject[Requests]) -> Suffixes:
    """Searched once for each model; every measurement of it takes the same."""
    seed = subject.seed
    return subject.model.once(("suffixes", seed), lambda: _found(subject.model, subject.data, seed))


def _found(model: Model, data: Requests, seed: int) -> Suffixes:
    prompts = [one.prompt for one in data.searched]
    search = greedy_coordinate_search(
        model,
        prompts,
        [one.answer for one in data.searched],
        [data.decline] * len(prompts),
        suffix=data.tokens,
        pool=list(data.pool),
        steps=_STEPS,
        candidates=_CANDIDATES,
        top_k=_TOP_K,
        seed=seed,
    )
    text, pool = str(search.attrs["suffix"]), list(data.pool)
    plain = random_suffixes(model, prompts, N_RANDOM, length=data.tokens, pool=pool, seed=seed)
    likely = random_suffixes(
        model,
        prompts,
        _N_LIKELY,
        like=text,
        pool=pool,
        tolerance=_TOLERANCE,
        rounds=_ROUNDS,
        seed=seed,
    )
    return Suffixes(
        text,
        (float(search["loss"][0]), float(search["loss"][-1])),
        int(search["tried"].sum()),
        tuple(map(str, plain["suffix"].values)),
        tuple(map(str, likely["suffix"].values)),
        float(likely["matched"].mean()),
    )


def with_suffix(requests: Sequence[Request], suffix: str) -> list[str]:
    """The prompts with it."""
    return [one.prompt.replace(MARKER, suffix) for one in requests]


@dataclass(frozen=True)
class Place:
    """Where a suffix stands among the tokens of a prompt.

    Attributes:
        start: its first token.
        length: how many it has.
        last: the prompt's last token.
    """

    start: int
    length: int
    last: int


def places(model: Model, requests: Sequence[Request], suffix: str) -> dict[Place, list[int]]:
    """Which requests have the suffix in the same place, so that they can be run at once."""
    found: dict[Place, list[int]] = {}
    texts = [
        *(one.prompt.split(MARKER)[0] for one in requests),
        *with_suffix(requests, suffix),
        *(one.plain() for one in requests),
    ]
    sizes = np.array([len(ids) for ids, _ in model.encode(texts)]).reshape(3, -1)
    for number, (start, whole, plain) in enumerate(sizes.T.tolist()):
        found.setdefault(Place(start, whole - plain, whole - 1), []).append(number)
    return found


def declines(
    model: Model, data: Requests, requests: Sequence[Request], suffixes: Sequence[str]
) -> npt.NDArray[np.float64]:
    """1 where greedy decoding declines [suffix, example]."""
    prompts = [prompt for one in suffixes for prompt in with_suffix(requests, one)]
    found = score_answers(model, prompts, [data.decline] * len(prompts))
    said = np.asarray(found["correct"].values, np.float64)
    return said.reshape(len(suffixes), len(requests))


def answers(model: Model, requests: Sequence[Request], suffix: str) -> npt.NDArray[np.float64]:
    """1 where greedy decoding gives the whole answer [example]."""
    found = score_answers(model, with_suffix(requests, suffix), [one.answer for one in requests])
    return np.asarray(found["correct"].values, np.float64)
