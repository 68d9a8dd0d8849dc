"""What a report is made of; `publish` writes one.

Text is plain: it is escaped wherever it is written, since names and tokens come from strangers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from experiments.figure import Figure
from experiments.study import Verdict

__all__ = [
    "Card",
    "Cards",
    "Figures",
    "Hypothesis",
    "Paper",
    "Part",
    "Section",
    "Table",
    "Text",
    "Way",
]


@dataclass(frozen=True)
class Text:
    """Paragraphs, or the items of a list."""

    paragraphs: Sequence[str]
    bullets: bool = False


@dataclass(frozen=True)
class Figures:
    """Figures side by side, each with its caption below; as many as fit in a row."""

    figures: Sequence[Figure]
    heading: str = ""


@dataclass(frozen=True)
class Table:
    """Cells as people read them.

    Attributes:
        numbers: the columns that are flushed right.
        note: a sentence below.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Sequence[int] = ()
    note: str = ""


@dataclass(frozen=True)
class Way:
    """One question of a card: what was asked, what was said, whether that is right."""

    prompt: str
    said: str
    right: bool
    detail: str


@dataclass(frozen=True)
class Card:
    """One example asked in several ways."""

    kind: str
    ways: Sequence[Way]


@dataclass(frozen=True)
class Cards:
    """Examples that can be read."""

    cards: Sequence[Card]


@dataclass(frozen=True)
class Hypothesis:
    """A verdict or several on one hypothesis, with the figures that show what they rest on."""

    verdicts: Sequence[Verdict]
    figures: Sequence[Figure] = ()


Part: TypeAlias = Text | Figures | Table | Cards | Hypothesis


@dataclass(frozen=True)
class Section:
    """A heading, a sentence below it, and what follows."""

    title: str
    parts: Sequence[Part]
    note: str = ""


@dataclass(frozen=True)
class Paper:
    """A report, in the order of a paper: question, answer, findings, methods, limits.

    Attributes:
        title: of the study.
        subject: the model it is about.
        question: the heading.
        answer: the finding in about three sentences.
        note: what is to be known to read them.
        details: the small print by name: model, versions, reference.
    """

    title: str
    subject: str
    question: str
    answer: Sequence[str]
    note: str
    sections: Sequence[Section]
    details: Mapping[str, str] = field(default_factory=dict)

    def figures(self) -> list[Figure]:
        """Every figure in its order.

        Raises:
            ValueError: two of them have the same name, which their files would share.
        """
        found = [
            figure
            for section in self.sections
            for part in section.parts
            if isinstance(part, Figures | Hypothesis)
            for figure in part.figures
        ]
        names = [figure.name for figure in found]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"two figures of a report have the name '{twice}'")
        return found

    def verdicts(self) -> list[Verdict]:
        """Every verdict in its order."""
        return [
            verdict
            for section in self.sections
            for part in section.parts
            if isinstance(part, Hypothesis)
            for verdict in part.verdicts
        ]
