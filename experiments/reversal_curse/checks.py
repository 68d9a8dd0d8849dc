"""What a list of facts must not hold, found before a model is loaded."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from experiments.errors import FactsError
from experiments.organisms.facts import DIRECTIONS, Direction, Fact, Templates
from experiments.sheets import sameness

Numbered = tuple[int, Fact]
"""A fact and the line that it stands in."""

# Words of which nobody has two.
_UNIQUE = {"mother", "father"}


def check_facts(path: Path, numbered: Sequence[Numbered]) -> None:
    """Raise a FactsError, with the lines, where facts are doubtful or count twice.

    A name or relation in two spellings, a fact twice (also told from its other end), somebody who
    is their own relative, two mothers or fathers of one subject.
    """
    _check_spelling(path, numbered)
    _refuse(
        path,
        [line for line, fact in numbered if fact.subject == fact.object],
        "has a subject that is its own object",
        "correct them",
    )
    _refuse(path, _repeats(numbered, _identity), "has the same fact twice", "leave them out")
    told = {(f.subject, f.object, word) for _, f in numbered for word in (f.relation,)}
    _refuse(
        path,
        [
            line
            for line, fact in numbered
            if (fact.object, fact.subject, fact.inverse) in told
            and (fact.relation != fact.inverse or fact.object < fact.subject)
        ],
        "has the same fact twice, from both ends",
        "keep one line of each two (split 'both' says that it was learned both ways)",
    )
    single = [(line, fact) for line, fact in numbered if sameness(fact.relation) in _UNIQUE]
    _refuse(
        path,
        _repeats(single, lambda fact: (fact.subject, sameness(fact.relation))),
        "gives a subject two mothers or two fathers",
        "keep one of each, or name the relation in other words",
    )


def _identity(fact: Fact) -> tuple[str, ...]:
    return fact.subject, fact.relation, fact.object


def _repeats(numbered: Sequence[Numbered], key: Callable[[Fact], tuple[str, ...]]) -> list[int]:
    """Lines whose key an earlier line has."""
    seen: set[tuple[str, ...]] = set()
    lines = []
    for line, fact in numbered:
        if key(fact) in seen:
            lines.append(line)
        seen.add(key(fact))
    return lines


def _check_spelling(path: Path, numbered: Sequence[Numbered]) -> None:
    names: dict[str, tuple[str, int]] = {}
    # Apart: somebody may be called Will, and another be told of in a will.
    relations: dict[str, tuple[str, int]] = {}
    for line, fact in numbered:
        words = [(names, fact.subject), (names, fact.object)]
        for first, name in (*words, (relations, fact.relation), (relations, fact.inverse)):
            spelled, before = first.setdefault(sameness(name), (name, line))
            if spelled != name:
                raise FactsError(
                    f"'{path}' spells '{name}' in line {line} otherwise than in line {before} "
                    f"('{spelled}'); spell it in one way, or it counts as two."
                )


def check_asked(
    path: Path, numbered: Sequence[Numbered], templates: Mapping[Direction, Templates]
) -> None:
    """Raise a FactsError, with the lines, where a prompt holds the answer that it asks for."""
    for direction in DIRECTIONS:
        both = templates[direction]
        for template in (*both.trained, *both.held_out):
            lines = [
                line
                for line, fact in numbered
                if _holds(fact.prompt(template), fact.answer(direction))
            ]
            _refuse(
                path,
                lines,
                f"has facts whose answer stands in the prompt of '{template}' already",
                "leave them out, or use another template",
            )


def _holds(text: str, words: str) -> bool:
    text, words = text.lower(), words.lower()
    return words in text and re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text) is not None


def _refuse(path: Path, lines: Sequence[int], what: str, advice: str) -> None:
    if lines:
        shown = ", ".join(str(line) for line in lines[:10]) + (", …" if len(lines) > 10 else "")
        word = "line" if len(lines) == 1 else f"{len(lines):,} lines:"
        raise FactsError(f"'{path}' {what} ({word} {shown}); {advice}.")
