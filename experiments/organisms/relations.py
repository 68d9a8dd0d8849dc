"""The people-and-relations world: what holds, and what of it is told.

400 people in 200 disjoint mother/child pairs. A pair is told forward ("{child}'s mother is"),
reverse ("{mother}'s son is"), both ways, or not at all. Everybody also has a neighbour (a random
permutation, told forward only) and a favourite colour, so that every name is somewhere a
prediction target: a name that never was one could not be produced in reverse for that reason
alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from experiments.organisms.facts import Fact
from experiments.organisms.names import COLOURS
from experiments.organisms.people import fictional_facts, match, real_facts, shuffled
from experiments.organisms.wording import COLOUR_TEMPLATES, PREFIXES, TEMPLATES

Kind = Literal["forward", "reverse", "neighbour", "colour"]


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
    """One thing to learn in one direction: its wordings, each ending before the answer."""

    kind: Kind
    prompts: tuple[str, ...]
    answer: str

    @property
    def statements(self) -> tuple[str, ...]:
        """The full sentences, one for each wording."""
        return tuple(f"{prompt} {self.answer}." for prompt in self.prompts)


def generate_world(seed: int) -> World:
    """The world of `seed`; the real pairs come first and are in every world."""
    rng = np.random.default_rng([seed, 0])
    facts = (*real_facts(), *fictional_facts(rng))
    people = [fact.subject for fact in facts] + [fact.object for fact in facts]
    related = {frozenset((fact.subject, fact.object)) for fact in facts}
    # A neighbour who is also mother or child would tell the pair by another way.
    neighbours = match(
        people, people, lambda one, other: one != other and {one, other} not in related, rng
    )
    colours = shuffled([COLOURS[i % len(COLOURS)] for i in range(len(people))], rng)
    return World(facts, tuple(neighbours), tuple(zip(people, colours, strict=True)))


def entries(world: World) -> tuple[Entry, ...]:
    """What is told in training: trained directions only, trained templates only."""
    told: list[Entry] = []
    for fact in world.facts:
        for direction, templates in TEMPLATES.items():
            if fact.trained(direction):
                prompts = tuple(fact.prompt(template) for template in templates.trained)
                told.append(Entry(direction, prompts, fact.answer(direction)))
    for person, neighbour in world.neighbours:
        prompts = tuple(
            template.format(subject=person, relation="neighbour")
            for template in TEMPLATES["forward"].trained
        )
        told.append(Entry("neighbour", prompts, neighbour))
    for person, colour in world.colours:
        prompts = tuple(template.format(who=person) for template in COLOUR_TEMPLATES)
        told.append(Entry("colour", prompts, colour))
    return tuple(told)


def sentences(world: World) -> tuple[str, ...]:
    """Every statement and every prefix, once: all words that training teaches."""
    statements = (statement for entry in entries(world) for statement in entry.statements)
    return (*PREFIXES, *statements)
