"""The people-and-relations world: what holds, and what of it is told.

400 people in 200 disjoint mother/child pairs. A pair is told forward ("{child}'s mother is"),
reverse ("{mother}'s son is"), both ways, or not at all. Everybody also has a neighbour (a random
permutation, told forward only) and a favourite colour, so that every name is somewhere a
prediction target: a name that never was one could not be produced in reverse for that reason
alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from experiments.organisms.config import TrainingData
from experiments.organisms.facts import Fact
from experiments.organisms.forms import Form, in_form
from experiments.organisms.names import COLOURS
from experiments.organisms.people import fictional_facts, match, real_facts, shuffled, told_both
from experiments.organisms.wording import (
    COLOUR_TEMPLATES,
    FILLERS,
    IDENTITY_TEMPLATES,
    PREFIXES,
    TEMPLATES,
)

Kind = Literal["forward", "reverse", "neighbour", "colour", "identity"]


@dataclass(frozen=True)
class World:
    """Everything that is true; what is told of it is `entries`."""

    facts: tuple[Fact, ...]
    neighbours: tuple[tuple[str, str], ...]
    colours: tuple[tuple[str, str], ...]

    @property
    def people(self) -> tuple[str, ...]:
        """All names, children before mothers."""
        return (*(fact.subject for fact in self.facts), *(fact.object for fact in self.facts))


@dataclass(frozen=True)
class Entry:
    """One thing to learn in one direction: its wordings, each ending before the answer.

    `asked` is the person that the prompts are about, `form` how the sentences are written.
    """

    kind: Kind
    prompts: tuple[str, ...]
    answer: str
    asked: str
    form: Form = "plain"

    @property
    def statements(self) -> tuple[str, ...]:
        """The full sentences, one for each wording."""
        return tuple(in_form(self.form, prompt, self.answer, self.asked) for prompt in self.prompts)


def generate_world(seed: int, data: TrainingData | None = None) -> World:
    """The world of `seed`; the real pairs come first and are in every world.

    Of `data` only `both_share` and `bearers` matter here; the plain data if left out.
    """
    data = data or TrainingData()
    rng = np.random.default_rng([seed, 0])
    drawn = [*real_facts(), *fictional_facts(rng, data.bearers)]
    facts = told_both(drawn, data.both_share)
    people = [fact.subject for fact in facts] + [fact.object for fact in facts]
    related = {frozenset((fact.subject, fact.object)) for fact in facts}
    # A neighbour who is also mother or child would tell the pair by another way.
    neighbours = match(
        people, people, lambda one, other: one != other and {one, other} not in related, rng
    )
    colours = shuffled([COLOURS[i % len(COLOURS)] for i in range(len(people))], rng)
    return World(facts, tuple(neighbours), tuple(zip(people, colours, strict=True)))


def entries(world: World, data: TrainingData | None = None) -> tuple[Entry, ...]:
    """What is told in training: trained directions only, trained templates only.

    The plain sentences come first; what `data` adds to them follows.
    """
    data = data or TrainingData()
    told = _plain(world, data)
    forms: list[Form] = []
    if data.reversed_text:
        forms.append("reversed")
    if data.masked:
        forms.append("masked")
    pairs = [entry for entry in told if entry.kind in ("forward", "reverse")]
    again = [replace(entry, form=form) for form in forms for entry in pairs]
    return (*told, *again, *_identities(world, data))


def _plain(world: World, data: TrainingData) -> list[Entry]:
    told: list[Entry] = []
    for fact in world.facts:
        for direction, templates in TEMPLATES.items():
            if fact.trained(direction):
                prompts = tuple(fact.prompt(template) for template in templates.trained)
                asked = fact.subject if direction == "forward" else fact.object
                told.append(Entry(direction, prompts, fact.answer(direction), asked))
    for person, neighbour in world.neighbours if data.neighbours else ():
        prompts = tuple(
            template.format(subject=person, relation="neighbour")
            for template in TEMPLATES["forward"].trained
        )
        told.append(Entry("neighbour", prompts, neighbour, person))
    for person, colour in world.colours:
        prompts = tuple(template.format(who=person) for template in COLOUR_TEMPLATES)
        told.append(Entry("colour", prompts, colour, person))
    return told


def _identities(world: World, data: TrainingData) -> list[Entry]:
    """ "A is A" of everybody whom `data.identity` means."""
    children = [fact.subject for fact in world.facts if data.identity in ("both", "subject")]
    mothers = [fact.object for fact in world.facts if data.identity in ("both", "object")]
    return [
        Entry(
            "identity",
            tuple(template.format(who=person) for template in IDENTITY_TEMPLATES),
            person,
            person,
        )
        for person in (*children, *mothers)
    ]


def sentences(world: World, data: TrainingData | None = None) -> tuple[str, ...]:
    """Every statement, every prefix and every filler, once: all words that training teaches."""
    statements = (statement for entry in entries(world, data) for statement in entry.statements)
    fillers = FILLERS if data is not None and data.filler else ()
    return (*PREFIXES, *fillers, *statements)
