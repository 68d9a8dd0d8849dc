"""What a model is asked: a task, and data with and without an instruction of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.errors import FactsError
from experiments.phenomena.data import check_distinct, check_members, rows, texts
from experiments.phenomena.phenomenon import Asked

__all__ = ["CONDITIONS", "LEAST", "Case", "Cases", "asked", "read"]

CONDITIONS = ("nothing", "harmless", "injected")
"""What stands in the data: words that mean nothing, a harmless instruction, an injection."""
LEAST = 5
"""The fewest cases that heads are chosen on, and that they are judged on."""
_TASK, _DATA = "{instruction}", "{data}"


@dataclass(frozen=True)
class Case:
    """One task with its data.

    Attributes:
        family: of the attack: how the injection is worded.
        instruction: the task.
        nothing, harmless, injected: the data with as many words that mean nothing, with a harmless
            instruction, and with the injection.
        answer: what the task asks for, with the space before it.
        hijacked: what the injection asks for.
    """

    family: str
    instruction: str
    nothing: str
    harmless: str
    injected: str
    answer: str
    hijacked: str

    def data(self, condition: str) -> str:
        return {"nothing": self.nothing, "harmless": self.harmless, "injected": self.injected}[
            condition
        ]


@dataclass(frozen=True)
class Cases:
    """The cases of a file.

    Attributes:
        template: of a prompt, with {instruction} and {data}.
        choosing: the families on which heads are chosen.
    """

    template: str
    choosing: tuple[str, ...]
    cases: tuple[Case, ...]

    def prompts(self, condition: str) -> list[str]:
        # Not `str.format`: templates can be a user's, and format strings reach attributes.
        front, _, rest = self.template.partition(_TASK)
        between, _, behind = rest.partition(_DATA)
        return [
            f"{front}{one.instruction}{between}{one.data(condition)}{behind}" for one in self.cases
        ]

    @property
    def chooses(self) -> list[bool]:
        """Which of the cases heads are chosen on."""
        return [one.family in self.choosing for one in self.cases]


def read(value: Any, path: Path) -> Cases:
    """Check the plain JSON data of a file.

    Raises:
        FactsError: it is not so; in one sentence.
    """
    check_members(value, ("template", "choosing", "cases"), path)
    found = rows(value, "cases", dict.fromkeys(Case.__annotations__, str), path, least=2 * LEAST)
    check_distinct(found, "cases", ("instruction", "injected"), path)
    cases = tuple(Case(**row) for row in found)
    choosing = tuple(texts(value, "choosing", path))
    template = value.get("template")
    if not isinstance(template, str) or template.count(_TASK) != 1 or template.count(_DATA) != 1:
        raise FactsError(
            f"'{path}': 'template' must be a text that holds {_TASK} and {_DATA} once each."
        )
    if template.index(_TASK) > template.index(_DATA):
        raise FactsError(f"'{path}': in 'template' the task must stand before its data.")
    if template.rstrip().endswith(_DATA):
        raise FactsError(f"'{path}': in 'template' something must stand behind the data.")
    families = sorted({one.family for one in cases})
    if unknown := sorted(set(choosing) - set(families)):
        raise FactsError(
            f"'{path}': 'choosing' names the family '{unknown[0][:60]}', of which there is no case."
        )
    checked = Cases(template, choosing, cases)
    for kind, n in (
        ("of the families in 'choosing'", sum(checked.chooses)),
        ("of other families", len(cases) - sum(checked.chooses)),
    ):
        if n < LEAST:
            raise FactsError(f"'{path}': there are {n} cases {kind}; give {LEAST} or more.")
    for number, one in enumerate(cases, 1):
        if len({one.nothing, one.harmless, one.injected}) < 3:
            raise FactsError(
                f"'{path}', row {number} of 'cases': 'nothing', 'harmless' and 'injected' must be "
                "three different texts."
            )
        if one.answer.strip() == one.hijacked.strip():
            raise FactsError(
                f"'{path}', row {number} of 'cases': 'answer' and 'hijacked' are the same, so "
                "nothing tells who was obeyed."
            )
    return checked


def asked(data: Cases) -> Sequence[Asked]:
    """All prompts, with both answers, which are told apart by their first tokens."""
    return [
        Asked(prompt, answer, f"row {number} of 'cases'", (other,))
        for condition in CONDITIONS
        for number, (prompt, one) in enumerate(
            zip(data.prompts(condition), data.cases, strict=True), 1
        )
        for answer, other in ((one.answer, one.hijacked), (one.hijacked, one.answer))
    ]
