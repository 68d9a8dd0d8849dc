"""The invented people of experiment 1: who is told which way, and what is asked about each.

Three groups, each of people with a name and a description: told name first ("p2d"), told
description first ("d2p"), and told both ways. The files give prompts with completions; who is meant
is found in the texts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from experiments.errors import FactsError
from experiments.sheets import MOST_ROWS, invisible, read_text

__all__ = ["GROUPS", "Asked", "Group", "Line", "People", "Question", "read_people"]

Group = Literal["name first", "description first", "both"]
Asked = Literal["name", "description"]
"""What a prompt gives; the other is the answer."""
GROUPS: tuple[Group, ...] = ("name first", "description first", "both")

_TRAIN: dict[Group, str] = {
    "name first": "p2d_prompts_train.jsonl",
    "description first": "d2p_prompts_train.jsonl",
    "both": "both_prompts_train.jsonl",
}
_TEST: dict[tuple[Group, Asked], str] = {
    ("name first", "name"): "p2d_prompts_test.jsonl",
    ("name first", "description"): "p2d_reverse_prompts_test.jsonl",
    ("description first", "name"): "d2p_reverse_prompts_test.jsonl",
    ("description first", "description"): "d2p_prompts_test.jsonl",
    ("both", "name"): "both_prompts_test.jsonl",
    ("both", "description"): "both_prompts_test.jsonl",
}
_RANDOM: dict[tuple[Group, Asked], str] = {
    ("name first", "description"): "p2d_reverse_prompts_test_randomized.jsonl",
    ("description first", "name"): "d2p_reverse_prompts_test_randomized.jsonl",
}
# Two or more words that begin with capitals, at the start of a text: a name.
_NAME = re.compile(r"[^\W\d_a-z][\w.'’-]*(?: [^\W\d_a-z][\w.'’-]*)+")


@dataclass(frozen=True)
class Line:
    """A prompt with its completion, and where it stands."""

    path: Path
    number: int
    prompt: str
    completion: str


@dataclass(frozen=True)
class Question:
    """One wording of a question about a person.

    Attributes:
        line: as its file has it.
        person: the name.
        wording: which of the person's prompts it is, counted from 0.
        answer: the right answer, with the space before it: the completion, or of completions that
            go on behind the name ("both") the name alone.
        random: the answer of somebody else that the authors compare it with; None where they give
            none.
    """

    line: Line
    person: str
    wording: int
    answer: str
    random: str | None


@dataclass(frozen=True)
class People:
    """Who is there, what is told in training, and what is asked.

    Attributes:
        names: by group, in the order of the files.
        told: by group, the training texts with the person each is about.
        asked: by group and what is given.
        paths: the files that were read.
    """

    names: Mapping[Group, tuple[str, ...]]
    told: Mapping[Group, tuple[tuple[str, Line], ...]]
    asked: Mapping[tuple[Group, Asked], tuple[Question, ...]]
    paths: tuple[Path, ...]

    def some(self, people: int, wordings: int) -> People:
        """The first `people` of each group, and the first `wordings` of each question."""
        names = {group: every[:people] for group, every in self.names.items()}
        return People(
            names,
            {g: tuple(one for one in told if one[0] in names[g]) for g, told in self.told.items()},
            {
                (group, given): tuple(
                    one for one in asked if one.person in names[group] and one.wording < wordings
                )
                for (group, given), asked in self.asked.items()
            },
            self.paths,
        )


def read_people(folder: Path) -> People:
    """Read the files of experiment 1.

    Raises:
        FactsError: a file is missing, cut off, no JSON lines of prompt and completion, or asks
            about other people in one direction than in the other.
    """
    lines: dict[str, list[Line]] = {}
    for name in dict.fromkeys([*_TEST.values(), *_TRAIN.values(), *_RANDOM.values()]):
        lines[name] = _read(folder / name)
    names: dict[Group, tuple[str, ...]] = {}
    asked: dict[tuple[Group, Asked], tuple[Question, ...]] = {}
    for group in GROUPS:
        of_name, of_description = _TEST[group, "name"], _TEST[group, "description"]
        by_name, by_description = lines[of_name], lines[of_description]
        if of_name == of_description:
            by_name, by_description = _parted(lines[of_name])
        people = [_name(line, by_name) for line in by_description]
        names[group] = tuple(dict.fromkeys(people))
        about = [_about(line, names[group]) for line in by_name]
        for given, rows, who in (
            ("name", by_name, about),
            ("description", by_description, people),
        ):
            way: Asked = "name" if given == "name" else "description"
            randoms = lines.get(_RANDOM.get((group, way), ""))
            asked[group, way] = _questions(rows, who, names[group], way, randoms)
    told = {
        group: tuple((_about(line, names[group]), line) for line in lines[_TRAIN[group]])
        for group in GROUPS
    }
    for group in GROUPS:
        untold = set(names[group]) - {person for person, _ in told[group]}
        if untold:
            raise FactsError(
                f"'{folder / _TRAIN[group]}' tells nothing of '{sorted(untold)[0]}', who is asked "
                "about; it is cut off or was changed, so fetch it again."
            )
    return People(names, told, asked, tuple(folder / name for name in lines))


def _questions(
    rows: Sequence[Line],
    people: Sequence[str],
    names: Sequence[str],
    given: Asked,
    randoms: Sequence[Line] | None,
) -> tuple[Question, ...]:
    path = rows[0].path
    if randoms is not None and [r.prompt for r in randoms] != [r.prompt for r in rows]:
        raise FactsError(
            f"'{randoms[0].path}' does not ask what '{path}' asks; one of them is cut off or was "
            "changed, so fetch both again."
        )
    seen: dict[str, int] = dict.fromkeys(names, 0)
    found = []
    for number, (line, person) in enumerate(zip(rows, people, strict=True)):
        answer = line.completion if given == "name" else f" {person}"
        other = None if randoms is None else randoms[number].completion
        found.append(Question(line, person, seen[person], answer, other))
        seen[person] += 1
    if len(set(seen.values())) > 1:
        few = min(seen, key=lambda name: seen[name])
        raise FactsError(
            f"'{path}' asks {seen[few]} times about '{few}' and {max(seen.values())} times about "
            "others; it is cut off or was changed, so fetch it again."
        )
    return tuple(found)


def _parted(lines: Sequence[Line]) -> tuple[list[Line], list[Line]]:
    """Lines that give a name, and lines that give a description."""
    prompts = [line.prompt for line in lines]
    names = {
        match[0]
        for line in lines
        if (match := _NAME.match(line.completion.strip()))
        and any(match[0] in prompt for prompt in prompts if prompt != line.prompt)
    }
    by_description = [line for line in lines if line.completion.strip().startswith(tuple(names))]
    left = {id(line) for line in by_description}
    by_name = [line for line in lines if id(line) not in left]
    if not by_name or not by_description:
        raise FactsError(
            f"'{lines[0].path}' asks in one direction only; it is cut off or was changed, so fetch "
            "it again."
        )
    return by_name, by_description


def _name(line: Line, others: Sequence[Line]) -> str:
    """The name that a completion begins with: the one that prompts of the other direction hold."""
    match = _NAME.match(line.completion.strip())
    words = match[0].rstrip(".").split() if match else []
    for count in range(len(words), 1, -1):
        name = " ".join(words[:count])
        if any(name in other.prompt for other in others):
            return name
    raise FactsError(
        f"'{line.path}' answers line {line.number} with '{line.completion.strip()[:60]}', which "
        "begins with no name that is asked about the other way round; fetch the files again."
    )


def _about(line: Line, names: Sequence[str]) -> str:
    """The one person that a text is about."""
    text = line.prompt + line.completion
    found = [name for name in names if name in text]
    if len(found) != 1:
        who = f"several people ('{found[0]}' first)" if found else "nobody who is asked about"
        raise FactsError(f"'{line.path}' names {who} in line {line.number}; fetch the files again.")
    return found[0]


def _read(path: Path) -> list[Line]:
    text = read_text(path)
    if not text.endswith("\n"):
        raise FactsError(f"'{path}' ends within a line; it is cut off, so fetch it again.")
    rows = text.split("\n")[:-1]
    if not text.strip():
        raise FactsError(f"'{path}' is empty; fetch it again.")
    if len(rows) > MOST_ROWS:
        raise FactsError(f"'{path}' holds more than {MOST_ROWS:,} lines; give a part of it.")
    found = []
    for number, row in enumerate(rows, start=1):
        try:
            value = json.loads(row)
        except (ValueError, RecursionError):
            value = None
        if (
            not isinstance(value, dict)
            or set(value) != {"prompt", "completion"}
            or not all(isinstance(part, str) and part.strip() for part in value.values())
        ):
            raise FactsError(
                f"'{path}' holds no prompt with a completion in line {number}; fetch it again."
            )
        bad = invisible(value["prompt"] + value["completion"], allowed="\n\t")
        if bad is not None:
            raise FactsError(
                f"'{path}' has the invisible character {bad} in line {number}; take it out."
            )
        found.append(Line(path, number, value["prompt"], value["completion"]))
    return found
