"""The facts and templates that the study asks about: the organism's own, or the user's."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

from experiments.errors import FactsError
from experiments.organisms.facts import (
    DIRECTIONS,
    FACTS_FILE,
    SPLITS,
    TEMPLATES_FILE,
    Direction,
    Fact,
    Templates,
)

# Column names of the celebrity pairs of Berglund et al. (2023) stand for the general ones.
_ALIASES = {"child": "subject", "parent": "object", "parent_type": "relation"}
# Facts of which nobody says how the model learned them.
UNKNOWN = "unknown"
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
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

    Raises:
        FactsError: the file is missing, empty, not UTF-8, lacks columns, has an empty name, an
            unknown split, or the same fact twice.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            header = [_ALIASES.get(name.strip(), name.strip()) for name in reader.fieldnames or ()]
            reader.fieldnames = header
            rows = list(reader)
    except UnicodeDecodeError as error:
        raise FactsError(f"'{path}' is not UTF-8 text; save it as UTF-8.") from error
    except csv.Error as error:
        raise FactsError(f"'{path}' is not a CSV file ({error}); export it again.") from error
    except OSError as error:
        raise FactsError(f"'{path}' cannot be read: {error.strerror}.") from error
    if not header or not rows:
        raise FactsError(f"'{path}' is empty; give one row for each fact.")
    missing = [name for name in ("subject", "object") if name not in header]
    if missing:
        raise FactsError(
            f"'{path}' has no column '{missing[0]}'; name the columns subject and object (or child "
            "and parent)."
        )
    facts = tuple(_fact(path, line, row) for line, row in enumerate(rows, start=2))
    first = {_identity(fact): line for line, fact in reversed([*enumerate(facts, start=2)])}
    repeated = [i for i, fact in enumerate(facts, start=2) if first[_identity(fact)] != i]
    if repeated:
        lines = ", ".join(str(line) for line in repeated[:10])
        raise FactsError(
            f"'{path}' has the same fact twice: {len(repeated)} lines repeat earlier ones (line "
            f"{lines}{', …' if len(repeated) > 10 else ''}); leave them out."
        )
    return facts


def _identity(fact: Fact) -> tuple[str, str, str]:
    return fact.subject, fact.relation, fact.object


def _fact(path: Path, line: int, row: dict[str, Any]) -> Fact:
    def value(name: str, default: str) -> str:
        return (row.get(name) or "").strip() or default

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
        FactsError: the file cannot be read, lacks a direction, or uses an unknown placeholder.
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        templates = {
            direction: Templates(
                tuple(stored[direction]["trained"]), tuple(stored[direction].get("held_out", ()))
            )
            for direction in DIRECTIONS
        }
    except OSError as error:
        raise FactsError(f"'{path}' cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FactsError(
            f"'{path}' holds no templates; give a JSON object with forward and reverse, each with "
            "the lists trained and held_out."
        ) from error
    for direction, both in templates.items():
        if not both.trained:
            raise FactsError(
                f"'{path}' has no trained template for {direction}; give at least one."
            )
        for template in (*both.trained, *both.held_out):
            _check_template(path, direction, template)
    return templates


def _check_template(path: Path, direction: Direction, template: Any) -> None:
    if not isinstance(template, str):
        raise FactsError(f"'{path}' has a template for {direction} that is not text.")
    names = set(_PLACEHOLDER.findall(template))
    asked = "subject" if direction == "forward" else "object"
    if names - _FIELDS or asked not in names:
        raise FactsError(
            f"'{path}' has the template '{template}' for {direction}; it must name {{{asked}}} and "
            f"no other placeholders than {', '.join(sorted(_FIELDS))}."
        )


def find_facts(model_path: Path | None, given: str | None) -> Path:
    """The facts file: the one given, or the one that stands beside the model's weights."""
    if given is not None:
        return Path(given).expanduser()
    if model_path is not None and (model_path / FACTS_FILE).is_file():
        return model_path / FACTS_FILE
    raise FactsError(
        "This model brings no facts of its own; give them with --facts facts.csv (columns subject "
        "and object)."
    )


def find_templates(model_path: Path | None, given: str | None) -> Path | None:
    """The templates file given, or beside the model; None for the default templates."""
    if given is not None:
        return Path(given).expanduser()
    if model_path is not None and (model_path / TEMPLATES_FILE).is_file():
        return model_path / TEMPLATES_FILE
    return None


def fill(template: str, fact: Fact) -> str:
    """The template with the fact's words in its placeholders.

    Not `str.format`: a template is the user's text, and format strings can reach attributes.
    """
    return _PLACEHOLDER.sub(lambda match: str(getattr(fact, match[1])), template)
