"""From facts to prompts, and to pairs of prompts for patching."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from experiments.errors import FactsError
from experiments.organisms.facts import Direction, Fact
from experiments.reversal_curse.facts import fill
from interp.model import Model
from interp.prompts import PromptPairs, continuations
from interp.tokens import TokenBatch, tokenise


def answer(fact: Fact, direction: Direction) -> str:
    """What follows a prompt, with the space before it."""
    return " " + fact.answer(direction)


def asked(fact: Fact, direction: Direction) -> str:
    """The name that a prompt of this direction asks about."""
    return fact.subject if direction == "forward" else fact.object


def valid_answers(facts: Sequence[Fact], fact: Fact, direction: Direction) -> set[str]:
    """All right answers to the same question: a mother can have several children on the list."""
    same = (asked(fact, direction), fact.relation, fact.inverse)
    return {
        other.answer(direction)
        for other in facts
        if (asked(other, direction), other.relation, other.inverse) == same
    }


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

    def partner(row: int, taken: set[int]) -> int:
        fact = facts[row]
        options = [i for i in range(len(facts)) if first[i] not in taken]
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
