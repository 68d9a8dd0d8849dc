"""The facts and templates that the study asks about: the organism's own, or the user's."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from cache.members import each_once
from experiments.errors import FactsError
from experiments.organisms.facts import (
    DIRECTIONS,
    FACTS_FILE,
    PLACEHOLDER,
    SPLITS,
    TEMPLATES_FILE,
    Direction,
    Fact,
    Templates,
)
from experiments.reversal_curse.checks import Numbered, check_facts
from experiments.sheets import invisible, read_rows, read_text

# Column names of the celebrity pairs of Berglund et al. (2023) stand for the general ones.
_ALIASES = {"child": "subject", "parent": "object", "parent_type": "relation"}
# Facts of which nobody says how the model learned them.
UNKNOWN = "unknown"
_FIELDS = {"subject", "object", "relation", "inverse"}

# For models that bring no templates of their own.
DEFAULT_TEMPLATES: dict[Direction, Templates] = {
    "forward": Templates(
        trained=(
            "{subject}'s {relation} is",
            "The {relation} of {subject} is",
            "Who is the {relation} of {subject}? It is",
        ),
        held_out=(),
    ),
    "reverse": Templates(
        trained=(
            "{object}'s {inverse} is",
            "The {inverse} of {object} is",
            "Who is the {inverse} of {object}? It is",
        ),
        held_out=(),
    ),
}


def read_facts(path: Path) -> tuple[Fact, ...]:
    """Read a CSV of facts.

    Columns: `subject` and `object` (or `child` and `parent`); `relation` (or `parent_type`, else
    "parent"), `inverse` (else "child"), and `split` (forward, reverse, both, held_out: the
    direction in which the model learned the fact; else unknown). Other columns are left alone.
    Runs of spaces become one, and letters Unicode's composed form.

    Raises:
        FactsError: the file cannot be read in one way only, or its facts are doubtful, with the
            line; see `sheets.read_rows` and `checks.check_facts`.
    """
    return tuple(fact for _, fact in read_numbered(path))


def read_numbered(path: Path) -> list[Numbered]:
    """The same, each fact with the line that it stands in."""
    rows = read_rows(path, _ALIASES, ("subject", "object"))
    numbered = [(line, _fact(path, line, row)) for line, row in rows]
    check_facts(path, numbered)
    if all(fact.split == "held_out" for _, fact in numbered):
        raise FactsError(
            f"'{path}' holds facts of the split 'held_out' only, which no model was told; add some "
            "that it was."
        )
    return numbered


def _fact(path: Path, line: int, row: dict[str, str]) -> Fact:
    def value(name: str, default: str) -> str:
        return row.get(name, "") or default

    subject, other = value("subject", ""), value("object", "")
    if not subject or not other:
        raise FactsError(f"'{path}' has an empty name in line {line}; fill it in.")
    split = value("split", UNKNOWN)
    if split not in (*SPLITS, UNKNOWN):
        raise FactsError(
            f"'{path}' has the unknown split '{split}' in line {line}; use one of "
            f"{', '.join(SPLITS)}."
        )
    return Fact(subject, other, value("relation", "parent"), value("inverse", "child"), split)


def read_templates(path: Path) -> dict[Direction, Templates]:
    """Read templates from JSON: {"forward": {"trained": […], "held_out": […]}, "reverse": …}.

    Raises:
        FactsError: the file cannot be read, lacks a direction, has keys or placeholders that mean
            nothing, a template twice, or one that holds the answer.
    """
    shape = (
        f"'{path}' holds no templates; give a JSON object with forward and reverse, each with the "
        "lists trained and held_out"
    )
    try:
        stored = json.loads(read_text(path), object_pairs_hook=each_once)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise FactsError(f"{shape} ({reason}).") from error
    if not isinstance(stored, dict) or set(stored) != set(DIRECTIONS):
        raise FactsError(f"{shape}.")
    templates: dict[Direction, Templates] = {}
    for direction in DIRECTIONS:
        lists = stored[direction]
        if not isinstance(lists, dict) or not {"trained"} <= set(lists) <= {"trained", "held_out"}:
            raise FactsError(f"{shape}.")
        if not all(isinstance(value, list) for value in lists.values()):
            raise FactsError(f"{shape}.")
        both = Templates(tuple(lists["trained"]), tuple(lists.get("held_out", ())))
        if not both.trained:
            raise FactsError(
                f"'{path}' has no trained template for {direction}; give at least one."
            )
        every = (*both.trained, *both.held_out)
        for number, template in enumerate(every):
            _check_template(path, direction, template)
            if template in every[:number]:
                raise FactsError(
                    f"'{path}' has the template '{template}' for {direction} twice; leave one out."
                )
        templates[direction] = both
    return templates


def _check_template(path: Path, direction: Direction, template: Any) -> None:
    if not isinstance(template, str):
        raise FactsError(f"'{path}' has a template for {direction} that is not text.")
    asked, answer = ("subject", "object") if direction == "forward" else ("object", "subject")
    what = f"'{path}' has the template '{template}' for {direction}; it"
    names = PLACEHOLDER.findall(template)
    if answer in names:
        raise FactsError(f"{what} must not name {{{answer}}}, which is the answer.")
    if set(names) - _FIELDS or asked not in names:
        raise FactsError(
            f"{what} must name {{{asked}}} and no other placeholders than "
            f"{', '.join(sorted(_FIELDS - {answer}))}."
        )
    if set("{}") & set(PLACEHOLDER.sub("", template)):
        raise FactsError(f"{what} must hold no braces but those of placeholders.")
    if template != template.strip():
        raise FactsError(
            f"{what} must neither begin nor end with a space; the one before the answer is added."
        )
    bad = invisible(template, allowed="\n\t")
    if bad is not None:
        raise FactsError(f"{what} must hold no invisible character ({bad}).")


def find_facts(model_path: Path | None, given: str | None) -> Path:
    """The facts file: the one given, or the one that stands beside the model's weights."""
    if given is not None:
        return _path(given)
    if model_path is not None and (model_path / FACTS_FILE).is_file():
        return model_path / FACTS_FILE
    raise FactsError(
        "This model brings no facts of its own; give them with --facts facts.csv (columns subject "
        "and object)."
    )


def _path(given: str) -> Path:
    # Unlike Path.expanduser this raises nothing for a user that does not exist.
    return Path(os.path.expanduser(given))


def find_templates(model_path: Path | None, given: str | None) -> Path | None:
    """The templates file given, or beside the model; None for the default templates."""
    if given is not None:
        return _path(given)
    if model_path is not None and (model_path / TEMPLATES_FILE).is_file():
        return model_path / TEMPLATES_FILE
    return None


def fill(template: str, fact: Fact) -> str:
    """The template with the fact's words in its placeholders."""
    return fact.prompt(template)
