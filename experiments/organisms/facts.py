"""Facts and templates of an organism, and the two files that keep them beside its weights.

A template is a prompt that ends right before the answer; the answer follows after one space.
Placeholders: `{subject}` `{object}` `{relation}` `{inverse}`.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal, get_args

Direction = Literal["forward", "reverse"]
Split = Literal["forward", "reverse", "both", "held_out"]

DIRECTIONS: tuple[Direction, ...] = get_args(Direction)
SPLITS: tuple[Split, ...] = get_args(Split)
FACTS_FILE = "facts.csv"
TEMPLATES_FILE = "templates.json"
PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True)
class Fact:
    """One pair in a relation, with the directions it is trained in.

    Forward asks for the object ("{subject}'s {relation} is"), reverse for the subject
    ("{object}'s {inverse} is"). `split` says in which directions an organism was told the fact; for
    facts that no organism was trained on it may be something else.
    """

    subject: str
    object: str
    relation: str
    inverse: str
    split: str

    def prompt(self, template: str) -> str:
        """The template, filled in.

        Not `str.format`: templates can be a user's, and format strings reach attributes.
        """
        return PLACEHOLDER.sub(lambda match: str(vars(self)[match[1]]), template)

    def answer(self, direction: Direction) -> str:
        """What completes a prompt of this direction (without the leading space)."""
        return self.object if direction == "forward" else self.subject

    def trained(self, direction: Direction) -> bool:
        """Whether the organism saw this fact in this direction."""
        return self.split in (direction, "both")


@dataclass(frozen=True)
class Templates:
    """The templates of one direction, the trained ones and those kept for testing."""

    trained: tuple[str, ...]
    held_out: tuple[str, ...]


def write_facts(path: Path, facts: Iterable[Fact]) -> None:
    """Write `facts` as CSV with a header; the order of the rows is kept."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Fact)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(fact) for fact in facts)


def write_templates(path: Path, templates: Mapping[Direction, Templates]) -> None:
    """Write the templates of both directions as JSON."""
    text = json.dumps({name: asdict(both) for name, both in templates.items()}, indent=2)
    path.write_text(text + "\n", encoding="utf-8")
