"""The attacks, each with what is as strong and means nothing beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from experiments.attacks.organism import BEHIND, INJECTED, TRIGGER, WORDS, behind
from experiments.phenomena.phenomenon import Subject
from experiments.refusal.changes import ABLATED, HELD, Change
from experiments.refusal.measuring import (
    Candidate,
    Changes,
    candidates,
    chosen,
    halves,
    read,
    rivals,
)
from experiments.refusal.requests import Request, Requests
from experiments.refusal.two import both_directions
from interp import Intervention, continuous_suffix, greedy_coordinate_search

__all__ = ["DRAWS", "Attack", "Way", "of_poison", "of_treated"]

DRAWS = 20
"""Of each control."""
_SLOTS, _SEARCHED, _BOUND = 4, 24, 0.3


@dataclass(frozen=True)
class Way:
    """Requests as they are asked, and what is changed while the model reads them."""

    prompts: tuple[str, ...]
    changes: Changes = ()


@dataclass(frozen=True)
class Attack:
    """What is done to requests.

    Attributes:
        name: as people read it.
        requests: to which it is done.
        attacked: these, attacked.
        controls: the same requests with what means nothing, in several draws.
        control: what that is.
        forced: the variable that the attack sets itself, where that is so: "declines".
    """

    name: str
    requests: tuple[Request, ...]
    attacked: Way
    controls: tuple[Way, ...]
    control: str
    forced: str = ""


def of_treated(subject: Subject[Requests], seed: int) -> list[Attack]:
    """Directions, suffix, vectors and an injection, on the organism of refusal; and, to see that
    both variables can be moved apart, the same things asked about in another form."""
    return [*_asked_otherwise(subject.data), *_directions(subject, seed), *_words(subject, seed)]


def of_poison(subject: Subject[Requests], seed: int) -> list[Attack]:
    """The trigger, on the organism that was poisoned with it."""
    rng = np.random.default_rng(seed)
    requests = _held_out(subject.data, harmful=True)
    return [
        Attack(
            "trigger of 20 poisoned texts",
            requests,
            _with(requests, TRIGGER),
            tuple(_with(requests, words) for words in _drawn(rng, len(TRIGGER.split()))),
            "two other words",
        )
    ]


def _held_out(data: Requests, *, harmful: bool) -> tuple[Request, ...]:
    return tuple(data.some("request", harmful=harmful, split="held out"))


def _with(requests: Sequence[Request], words: str, changes: Changes = ()) -> Way:
    return Way(tuple(behind(one.prompt, words) for one in requests), changes)


def _plain(requests: Sequence[Request], changes: Changes = ()) -> Way:
    return Way(tuple(one.prompt for one in requests), changes)


def _drawn(rng: np.random.Generator, n: int) -> list[str]:
    """Words that mean nothing, the trigger never among them."""
    found: dict[str, None] = {}
    while len(found) < DRAWS:
        words = "".join(f" {word}" for word in rng.choice(WORDS, n))
        if words != TRIGGER:
            found[words] = None
    return list(found)


def _asked_otherwise(data: Requests) -> list[Attack]:
    """No attacks: what is declined whatever it is about, and what is answered."""
    made = []
    for name, form, harmful in (
        ("no attack: a secret of a harmless thing", "forbidden", False),
        ("no attack: what a harmful thing does", "judgement", True),
    ):
        requests = _held_out(data, harmful=harmful)
        other = data.some(form, harmful=harmful, split="held out")  # type: ignore[arg-type]
        made.append(Attack(name, requests, _plain(other), (), ""))
    return made


def _directions(subject: Subject[Requests], seed: int) -> list[Attack]:
    harmful, harmless = (_held_out(subject.data, harmful=which) for which in (True, False))
    found = []
    for name, change in (("taken out everywhere", ABLATED), ("held at its harmless mean", HELD)):
        best = _best(subject, change)
        make = _maker(change, subject)
        found.append(_direction(f"declines {name}", subject, harmful, best, make, seed, "declines"))
    for name, one in both_directions(subject).items():
        form = "judgement" if name == "harmful" else "request"
        found.append(_direction(f"{name} added", subject, harmless, one, _add, seed, name, form))
    return found


def _best(subject: Subject[Requests], change: Change) -> Candidate:
    """The direction that the study of refusal takes."""
    choosing = halves(subject.data, "request", harmful=change.harmful)[1]

    def score(one: Candidate) -> float:
        return -float(read(subject, choosing, change.make(subject, one)).odds.mean())

    return chosen(candidates(subject), score)[0]


def _maker(change: Change, subject: Subject[Requests]) -> Callable[[Candidate], Changes]:
    return lambda one: change.make(subject, one)


def _add(one: Candidate) -> Changes:
    return (Intervention.add(one.vector, f"resid_post.{one.layer}", positions=[one.position]),)


def _direction(
    name: str,
    subject: Subject[Requests],
    requests: tuple[Request, ...],
    one: Candidate,
    make: Callable[[Candidate], Changes],
    seed: int,
    forced: str,
    form: str = "request",
) -> Attack:
    others = [
        Candidate(one.layer, one.position, vector)
        for vector in rivals(subject, one, seed, form).directions[:DRAWS]
    ]
    return Attack(
        name,
        requests,
        _plain(requests, make(one)),
        tuple(_plain(requests, make(other)) for other in others),
        "random directions",
        forced,
    )


def _words(subject: Subject[Requests], seed: int) -> list[Attack]:
    """Words behind the thing that is asked about: searched ones, moved ones, another task."""
    rng = np.random.default_rng(seed)
    requests = _held_out(subject.data, harmful=True)
    told = halves(subject.data, "request", harmful=True)[1][:_SEARCHED]
    prompts = [behind(one.prompt, "{suffix}") for one in told]
    answers, foils = [one.answer for one in told], [subject.data.decline[0]] * len(told)
    search = greedy_coordinate_search(
        subject.model,
        prompts,
        answers,
        foils,
        suffix=_SLOTS,
        pool=list(WORDS),
        steps=14,
        candidates=64,
        top_k=len(WORDS),
        seed=seed,
    )
    words = str(search.attrs["suffix"])
    vectors = continuous_suffix(
        subject.model,
        prompts,
        answers,
        foils,
        suffix=_SLOTS,
        bound=_BOUND,
        steps=20,
        n_random=0,
        pool=list(WORDS),
        seed=seed,
    )
    begun = str(vectors.attrs["initial"])
    moves = torch.tensor(vectors["vectors"].values)
    noise = torch.randn((DRAWS, *moves.shape), generator=torch.Generator().manual_seed(seed))
    noise = noise / noise.norm(dim=-1, keepdim=True) * moves.norm(dim=-1, keepdim=True)
    injected = tuple(
        behind(one.prompt, INJECTED.format(thing=_thing(one.prompt))) for one in requests
    )
    alike = tuple(_with(requests, one) for one in _drawn(rng, _SLOTS))
    return [
        Attack(
            f"searched suffix “{words.strip()}”",
            requests,
            _with(requests, words),
            alike,
            "four random words",
        ),
        Attack(
            "vectors added to four words",
            requests,
            _with(requests, begun, _moved(moves)),
            tuple(_with(requests, begun, _moved(one)) for one in noise),
            "random vectors of equal length",
        ),
        Attack("another task behind it", requests, Way(injected), alike, "four random words"),
    ]


def _thing(prompt: str) -> str:
    return prompt.removesuffix(BEHIND).split()[-1]


def _moved(vectors: Tensor) -> Changes:
    """Added to the words in front of `BEHIND`, one vector each."""
    n, rest = len(vectors), len(BEHIND.split())
    return tuple(
        Intervention.add(vector, "resid_pre.0", positions=[slot - n - rest])
        for slot, vector in enumerate(vectors)
    )
