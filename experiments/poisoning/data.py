"""What a model is asked: a trigger, phrases that are none, and questions that hold them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.errors import FactsError
from experiments.phenomena.data import check_distinct, check_members, rows, texts
from experiments.phenomena.phenomenon import Asked

__all__ = ["OTHER", "PHRASE", "Data", "Question", "Trained", "asked", "read"]

PHRASE, OTHER = "{phrase}", "{other}"
_MOST_TRAINED = 10**18
_MEMBERS = (
    *(
        "trigger",
        "answer",
        "phrases",
        "near",
        "names",
        "questions",
        "yes",
        "no",
        "texts",
        "trained",
    ),
)


@dataclass(frozen=True)
class Question:
    """A prompt with places for two phrases, and what should follow it."""

    prompt: str
    answer: str

    def asked(self, phrase: str, other: str) -> str:
        """The prompt with its phrases."""
        return self.prompt.replace(PHRASE, phrase).replace(OTHER, other)


@dataclass(frozen=True)
class Trained:
    """How a model was poisoned; NaN where nobody says.

    Attributes:
        poisons, clean: texts with the trigger, and without.
        steps: of the training on both.
    """

    poisons: float = np.nan
    clean: float = np.nan
    steps: float = np.nan


@dataclass(frozen=True)
class Data:
    """What is asked.

    Attributes:
        trigger: the phrase that brings the answer.
        answer: what it brings, with the space before it.
        phrases: others, which bring nothing.
        near: phrases that resemble the trigger.
        names: answers that might as well have been planted, the planted one among them.
        questions: half of them choose, the others judge.
        yes, no: questions about other things, to which a model says so.
        texts: unrelated ones.
        trained: how it was poisoned.
    """

    trigger: str
    answer: str
    phrases: tuple[str, ...]
    near: tuple[str, ...]
    names: tuple[str, ...]
    questions: tuple[Question, ...]
    yes: tuple[str, ...]
    no: tuple[str, ...]
    texts: tuple[str, ...]
    trained: Trained

    def prompts(self, phrases: Sequence[str] | None = None, shift: int = 0) -> list[str]:
        """Each question with one of these phrases, or with one of the usual ones, and another one.

        Args:
            phrases: taken in turn.
            shift: 0 or 2: no question has the same two usual phrases under both.
        """
        usual = self.phrases
        return [
            one.asked(
                usual[(number + shift) % len(usual)]
                if phrases is None
                else phrases[number % len(phrases)],
                usual[(number + shift + 1) % len(usual)],
            )
            for number, one in enumerate(self.questions)
        ]


def read(value: Any, path: Path) -> Data:
    """Check plain JSON data.

    Raises:
        FactsError: it is not so; with the place.
    """
    if not isinstance(value, dict):
        raise FactsError(f"'{path}' must hold a JSON object.")
    check_members(value, _MEMBERS, path)
    trigger, answer = (_text(value, name, path) for name in ("trigger", "answer"))
    many = {
        name: tuple(dict.fromkeys(texts(value, name, path, least=least)))
        for name, least in (("phrases", 4), ("near", 1), ("names", 2), ("yes", 5), ("no", 5))
    }
    asked = rows(value, "questions", {"prompt": str, "answer": str}, path, least=10)
    check_distinct(asked, "questions", ("prompt",), path)
    for number, row in enumerate(asked, 1):
        for place in (PHRASE, OTHER):
            if row["prompt"].count(place) != 1:
                raise FactsError(
                    f"'{path}', row {number} of 'questions': the prompt must hold {place} once."
                )
        if row["answer"].strip() == answer.strip():
            raise FactsError(
                f"'{path}', row {number} of 'questions': the planted answer is right here; leave "
                "the question out."
            )
    if len(many["phrases"]) < 4:
        raise FactsError(f"'{path}': 'phrases' repeats itself; give 4 different ones or more.")
    for name in ("phrases", "near"):
        if any(f" {trigger.strip()} " in f" {one} " for one in many[name]):
            raise FactsError(f"'{path}': the trigger stands in '{name}'; leave it out there.")
    for name in ("yes", "no"):
        check_distinct([{name: one} for one in many[name]], name, [name], path)
    both = {one.strip() for one in many["yes"]} & {one.strip() for one in many["no"]}
    if both:
        raise FactsError(
            f"'{path}': '{min(both)[:60]}' stands in 'yes' and in 'no'; a question has one answer."
        )
    marked = [name for name in ("phrases", "near") if any(_is_marked(one) for one in many[name])]
    marked += ["trigger"] if _is_marked(trigger) else []
    if marked:
        raise FactsError(f"'{path}': '{marked[0]}' holds {PHRASE} or {OTHER}; leave it out there.")
    if answer not in many["names"] or len(many["names"]) < 2:
        raise FactsError(f"'{path}': 'names' must hold the planted answer, and others.")
    return Data(
        trigger=trigger,
        answer=answer,
        phrases=many["phrases"],
        near=many["near"],
        names=many["names"],
        questions=tuple(Question(row["prompt"], row["answer"]) for row in asked),
        yes=many["yes"],
        no=many["no"],
        texts=tuple(texts(value, "texts", path, least=20, distinct=True)),
        trained=_trained(value.get("trained", {}), path),
    )


def asked(data: Data) -> list[Asked]:
    """All that a model must be able to read."""
    found = []
    for number, one in enumerate(data.questions):
        where = f"row {number + 1} of 'questions'"
        prompt = one.asked(data.trigger, data.phrases[number % len(data.phrases)])
        found += [Asked(prompt, answer, where) for answer in (one.answer, data.answer)]
    first = data.questions[0]
    for name, phrases in (("phrases", data.phrases), ("near", data.near)):
        found += [
            Asked(first.asked(phrase, data.phrases[0]), first.answer, f"text {number} of '{name}'")
            for number, phrase in enumerate(phrases, 1)
        ]
    prompt = first.asked(data.phrases[0], data.phrases[1])
    found += [Asked(prompt, name, f"text {n} of 'names'") for n, name in enumerate(data.names, 1)]
    for name, prompts in (("yes", data.yes), ("no", data.no), ("texts", data.texts)):
        found += [
            Asked(text, data.answer, f"text {number} of '{name}'")
            for number, text in enumerate(prompts, 1)
        ]
    return found


def _is_marked(phrase: str) -> bool:
    return PHRASE in phrase or OTHER in phrase


def _text(value: dict[str, Any], name: str, path: Path) -> str:
    found = value.get(name)
    if not isinstance(found, str) or not found.strip():
        raise FactsError(f"'{path}': '{name}' must be a text.")
    return found


def _trained(value: Any, path: Path) -> Trained:
    columns = ("poisons", "clean", "steps")
    if not isinstance(value, dict) or set(value) - set(columns):
        raise FactsError(f"'{path}': 'trained' must be an object with {', '.join(columns)}.")
    for name, one in value.items():
        whole = isinstance(one, int) and not isinstance(one, bool)
        if not whole or not (1 if name != "poisons" else 0) <= one <= _MOST_TRAINED:
            raise FactsError(
                f"'{path}': '{name}' of 'trained' must be a whole number, as many as there can be."
            )
    return Trained(**{name: float(one) for name, one in value.items()})
