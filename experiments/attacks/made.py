"""The attacks, each with what is as strong and means nothing beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from experiments.attacks.organism import (
    BEHIND,
    FORMS,
    INJECTED,
    POISONS,
    TRIGGER,
    WORDS,
    behind,
)
from experiments.attacks.reading import VARIABLES
from experiments.phenomena.phenomenon import Subject
from experiments.refusal.changes import ABLATED, HELD, Change
from experiments.refusal.measuring import (
    Candidate,
    Changes,
    added,
    candidates,
    chosen,
    halves,
    read,
    rivals,
)
from experiments.refusal.requests import Request, Requests
from experiments.refusal.two import both_directions
from interp import Intervention, continuous_suffix, greedy_coordinate_search
from interp.search.layout import MARKER

__all__ = ["DRAWS", "Attack", "Making", "Way", "of_poison", "of_treated"]

DRAWS = 20
"""Of each control."""
_SLOTS, _SEARCHED, _BOUND = 4, 24, 0.3


@dataclass(frozen=True)
class Way:
    """Requests as they are asked, and what is changed while the model reads them."""

    prompts: tuple[str, ...]
    changes: Changes = ()


Making: TypeAlias = Callable[[Sequence[Request]], Way]


@dataclass(frozen=True)
class Attack:
    """What is done to requests.

    Attributes:
        name: as people read it.
        harmful: of which requests it is told: harmful ones, or harmless ones.
        make: does it to requests.
        controls: do to them what means nothing, in several draws.
        control: what that is.
        forced: variables along which nothing is found: the attack sets their coordinate, or changes
            nothing in front of where it is read.
    """

    name: str
    harmful: bool
    make: Making
    controls: tuple[Making, ...] = ()
    control: str = ""
    forced: tuple[str, ...] = ()


def of_treated(subject: Subject[Requests], seed: int) -> list[Attack]:
    """Directions, suffix, vectors and an injection, on the organism of refusal; and, to see what
    other words around a thing do, the same things asked about in another form."""
    return [*_forms(), *_directions(subject, seed), *_words(subject, seed)]


def of_poison(subject: Subject[Requests], seed: int) -> list[Attack]:
    """The trigger, on the organism that was poisoned with it."""
    rng = np.random.default_rng(seed)
    alike = tuple(partial(_with, words) for words in _drawn(rng, len(TRIGGER.split())))
    name = f"trigger of {POISONS} poisoned texts"
    return [Attack(name, True, partial(_with, TRIGGER), alike, "two random words")]


def _with(words: str, requests: Sequence[Request], changes: Changes = ()) -> Way:
    return Way(tuple(behind(one.prompt, words) for one in requests), changes)


def _plain(changes: Changes, requests: Sequence[Request]) -> Way:
    return Way(tuple(one.prompt for one in requests), changes)


def _drawn(rng: np.random.Generator, n: int) -> list[str]:
    """Words that mean nothing, the trigger never among them."""
    found: dict[str, None] = {}
    while len(found) < DRAWS:
        words = "".join(f" {word}" for word in rng.choice(WORDS, n))
        if words != TRIGGER:
            found[words] = None
    return list(found)


def _forms() -> list[Attack]:
    """No attacks: what is declined whatever it is about, and what is answered."""
    return [
        Attack("no attack: the secret of a harmless thing", False, partial(_asked, "forbidden")),
        Attack("no attack: what a harmful thing does", True, partial(_asked, "judgement")),
    ]


def _asked(form: str, requests: Sequence[Request]) -> Way:
    return Way(tuple(FORMS[form].format(thing=_thing(one)) for one in requests))


def _thing(request: Request) -> str:
    return request.prompt.removesuffix(BEHIND).split()[-1]


def _directions(subject: Subject[Requests], seed: int) -> list[Attack]:
    found = []
    for name, change in (("taken out everywhere", ABLATED), ("held at its harmless mean", HELD)):
        # Where it is held, the content has been read before.
        forced = VARIABLES if change is HELD else VARIABLES[1:]
        best, make = _best(subject, change), partial(change.make, subject)
        others = rivals(subject, best, seed).directions[:DRAWS]
        found.append(_direction(f"declines {name}", True, best, make, others, forced))
    pair = both_directions(subject)
    for name, form, forced in (
        ("harmful", "judgement", VARIABLES[:1]),
        ("declines", "request", VARIABLES),
    ):
        one = pair[name]
        others = rivals(subject, one, seed, form).directions[:DRAWS]
        found.append(_direction(f"{name} added", False, one, _add, others, forced))
    return found


def _best(subject: Subject[Requests], change: Change) -> Candidate:
    """The direction that the study of refusal takes."""
    choosing = halves(subject.data, "request", harmful=change.harmful)[1]

    def score(one: Candidate) -> float:
        return -float(read(subject, choosing, change.make(subject, one)).odds.mean())

    return chosen(candidates(subject), score)[0]


def _add(one: Candidate) -> Changes:
    return added(one.vector, one.layer, one.position)


def _direction(
    name: str,
    harmful: bool,
    one: Candidate,
    make: Callable[[Candidate], Changes],
    others: Iterable[Tensor],
    forced: tuple[str, ...],
) -> Attack:
    alike = (Candidate(one.layer, one.position, other) for other in others)
    return Attack(
        name,
        harmful,
        partial(_plain, make(one)),
        tuple(partial(_plain, make(other)) for other in alike),
        "random directions",
        forced,
    )


def _words(subject: Subject[Requests], seed: int) -> list[Attack]:
    """Behind the thing that is asked about: words that were searched, ones that were moved, and
    another task."""
    rng = np.random.default_rng(seed)
    told = halves(subject.data, "request", harmful=True)[1][:_SEARCHED]
    prompts = [behind(one.prompt, MARKER) for one in told]
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
    words, begun = str(search.attrs["suffix"]), str(vectors.attrs["initial"])
    moves = torch.tensor(vectors["vectors"].values)
    noise = torch.randn((DRAWS, *moves.shape), generator=torch.Generator().manual_seed(seed))
    noise = noise / noise.norm(dim=-1, keepdim=True) * moves.norm(dim=-1, keepdim=True)
    alike = tuple(partial(_with, one) for one in _drawn(rng, _SLOTS))
    return [
        Attack(
            f"suffix “{words.strip()}”", True, partial(_with, words), alike, "four random words"
        ),
        Attack(
            "vectors added to four words",
            True,
            partial(_with, begun, changes=_moved(moves)),
            tuple(partial(_with, begun, changes=_moved(one)) for one in noise),
            "random vectors of equal length, added to the same words",
        ),
        Attack("another task behind it", True, _injected, alike, "four random words"),
    ]


def _injected(requests: Sequence[Request]) -> Way:
    return Way(tuple(behind(one.prompt, INJECTED.format(thing=_thing(one))) for one in requests))


def _moved(vectors: Tensor) -> Changes:
    """Added to the words in front of `BEHIND`, one vector each."""
    n, rest = len(vectors), len(BEHIND.split())
    return tuple(
        Intervention.add(vector, "resid_pre.0", positions=[slot - n - rest])
        for slot, vector in enumerate(vectors)
    )
