"""From facts to prompts, and to pairs of prompts for patching."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from experiments.errors import FactsError
from experiments.organisms.facts import DIRECTIONS, Direction, Fact, Templates
from experiments.readable import check_readable
from experiments.reversal_curse.facts import fill
from interp.model.model import Model
from interp.prompts.pairs import PromptPairs, continuations
from interp.prompts.tokens import TokenBatch, tokenise


def answer(fact: Fact, direction: Direction) -> str:
    """What follows a prompt, with the space before it."""
    return " " + fact.answer(direction)


def asked(fact: Fact, direction: Direction) -> str:
    """The name that a prompt of this direction asks about."""
    return fact.subject if direction == "forward" else fact.object


Question = tuple[str, str, str]


def question(fact: Fact, direction: Direction) -> Question:
    """What a prompt asks, whatever its wording: the name, what is asked of it, and the way back.

    Several facts can ask the same (a mother of three is asked for her child), and of a symmetric
    relation ("spouse") both directions do.
    """
    words = (fact.relation, fact.inverse)
    return (asked(fact, direction), *(words if direction == "forward" else words[::-1]))


def questions(facts: Sequence[Fact], direction: Direction) -> list[int]:
    """The number of each fact's question: facts that ask the same are not independent examples."""
    numbers: dict[Question, int] = {}
    return [numbers.setdefault(question(fact, direction), len(numbers)) for fact in facts]


def right_answers(facts: Sequence[Fact], direction: Direction) -> list[set[str]]:
    """For each fact all right answers to its question."""
    right: dict[Question, set[str]] = {}
    for fact in facts:
        for way in DIRECTIONS:
            right.setdefault(question(fact, way), set()).add(fact.answer(way))
    return [right[question(fact, direction)] for fact in facts]


def make_pairs(
    model: Model,
    facts: Sequence[Fact],
    rows: Sequence[int],
    direction: Direction,
    template: str,
    seed: int,
    *,
    sham: bool = False,
) -> PromptPairs:
    """Pairs for patching: the question about one name (clean) and about another (corrupted).

    The answer is the fact's, the foil the other fact's. Partners ask in the same words and have
    another first answer token, else the logit difference would be zero by construction; names of
    as many tokens are preferred, so that positions match one to one.

    Args:
        rows: the facts to make pairs of; partners come from all facts, of the same split first.
        template: one template, so that spans come in the same order.
        sham: put a third name, which has neither answer, in the place of the clean one: patching
            from it must not bring the answer back.

    `check_answers` tells whether the facts suffice.
    """
    rng = np.random.default_rng(seed)
    prompts = tokenise(model, [fill(template, fact) for fact in facts])
    length = prompts.lengths.tolist()
    first = _first_tokens(model, facts, direction, prompts)
    right = right_answers(facts, direction)

    def partner(row: int, taken: set[int]) -> int:
        fact = facts[row]
        options = [i for i in range(len(facts)) if first[i] not in taken]
        # What is right for the fact's own question too (a sister, asked for a mother's child) is no
        # foil, and her question may be the same one.
        wrong = [i for i in options if facts[i].answer(direction) not in right[row]]
        options = wrong or options
        # From the most alike to the least: same words and split, then same length.
        words = (fact.relation, fact.inverse, fact.split)
        alike = [
            i for i in options if (facts[i].relation, facts[i].inverse, facts[i].split) == words
        ]
        options = alike or options
        options = [i for i in options if length[i] == length[row]] or options
        return options[int(rng.integers(len(options)))]

    others = [partner(row, {first[row]}) for row in rows]
    # Drawn after all partners, which are thus the same with and without the sham.
    thirds = [
        partner(row, {first[row], first[other]}) if sham else row
        for row, other in zip(rows, others, strict=True)
    ]
    return PromptPairs(
        model,
        clean=[fill(template, facts[i]) for i in thirds],
        corrupt=[fill(template, facts[i]) for i in others],
        answers=[answer(facts[i], direction) for i in rows],
        foils=[answer(facts[i], direction) for i in others],
        spans={
            "subject": [
                (asked(facts[i], direction), asked(facts[j], direction))
                for i, j in zip(thirds, others, strict=True)
            ]
        },
    )


def check_prompts(
    model: Model,
    path: Path,
    numbered: Sequence[tuple[int, Fact]],
    templates: Mapping[Direction, Templates],
) -> None:
    """Raise a FactsError, with the line, where the model cannot read a prompt or its answer."""
    facts = [fact for _, fact in numbered]
    for direction in DIRECTIONS:
        both = templates[direction]
        for template in (*both.trained, *both.held_out):
            prompts = [fill(template, fact) for fact in facts]
            answers = [answer(fact, direction) for fact in facts]
            where = [f"'{path}', line {line}, asked as '{template}'" for line, _ in numbered]
            check_readable(model, prompts, answers, where)


def check_answers(model: Model, facts: Sequence[Fact], direction: Direction, template: str) -> None:
    """Raise a FactsError unless pairs, and a sham for each, can be made of the facts."""
    prompts = tokenise(model, [fill(template, fact) for fact in facts])
    if len(set(_first_tokens(model, facts, direction, prompts))) < 3:
        raise FactsError(
            "Names are told apart by their first token, and patching needs three different names "
            f"as {direction} answers; give more facts."
        )


def _first_tokens(
    model: Model, facts: Sequence[Fact], direction: Direction, prompts: TokenBatch
) -> list[int]:
    answers = [answer(fact, direction) for fact in facts]
    return [ids[0] for ids in continuations(model, prompts, answers)]
