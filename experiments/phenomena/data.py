"""What a model is asked, read from a file that may be anybody's."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cache.files import read_bytes
from cache.members import each_once
from experiments.errors import FactsError, StorageError
from experiments.organisms.training.checkpoint import DATA_FILE

__all__ = ["check_distinct", "check_members", "find_data", "read_json", "rows", "texts"]

_MOST_BYTES = 16 << 20
_TYPES = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def find_data(folder: Path | None, given: str | None, study: str) -> Path:
    """The file of data: the one that is given, or `data.json` in the model's folder.

    Raises:
        FactsError: there is none.
    """
    if given is not None:
        return Path(given).expanduser()
    if folder is not None and (folder / DATA_FILE).is_file():
        return folder / DATA_FILE
    raise FactsError(
        f"There is no {DATA_FILE} beside this model; give what it is to be asked as --data FILE, "
        f"in the form that the page on the study '{study}' shows."
    )


def read_json(path: Path) -> Any:
    """Plain JSON data of a file.

    Raises:
        FactsError: it cannot be read, or is no JSON.
    """
    try:
        content = read_bytes(path, _MOST_BYTES + 1)
    except StorageError as error:
        raise FactsError(f"'{path}' cannot be read as data: {error}") from error
    if len(content) > _MOST_BYTES:
        raise FactsError(f"'{path}' holds more than {_MOST_BYTES >> 20} MiB; ask less of a model.")
    try:
        return json.loads(
            content.decode("utf-8"), parse_constant=_no_number, object_pairs_hook=each_once
        )
    except (ValueError, RecursionError) as error:
        raise FactsError(f"'{path}' is no JSON ({error}); mend it.") from error


def rows(
    value: Any, name: str, columns: Mapping[str, type], path: Path, *, least: int = 1
) -> list[dict[str, Any]]:
    """The list `name` of an object, each of its rows an object with these columns and no others.

    Args:
        columns: by name `str`, `int`, `float` or `bool`. A text must not be empty.
        least: how many rows there must be.

    Raises:
        FactsError: it is not so; with the row.
    """
    found = _member(value, name, path)
    if not isinstance(found, list):
        raise FactsError(f"'{path}': '{name}' must be a list of objects.")
    if len(found) < least:
        counted = f"{len(found)} {'row' if len(found) == 1 else 'rows'}"
        raise FactsError(f"'{path}': '{name}' has {counted}; give {least} or more.")
    for number, row in enumerate(found, 1):
        place = f"'{path}', row {number} of '{name}'"
        if not isinstance(row, dict):
            raise FactsError(f"{place}: it must be an object with {', '.join(columns)}.")
        for column, kind in columns.items():
            if column not in row:
                raise FactsError(f"{place}: it has no '{column}'; give {_TYPES[kind]}.")
            if not _is(row[column], kind):
                raise FactsError(f"{place}: '{column}' must be {_TYPES[kind]}.")
        unknown = sorted(set(row) - set(columns))
        if unknown:
            raise FactsError(
                f"{place}: there is no column '{unknown[0][:60]}'; there are {', '.join(columns)}."
            )
    return found


def check_distinct(
    found: Sequence[Mapping[str, Any]], name: str, columns: Sequence[str], path: Path
) -> None:
    """Raise a FactsError for a row that is alike in these columns to an earlier one.

    What stands twice counts twice, as if it were two examples, and may choose what it judges.
    """
    first: dict[tuple[str, ...], int] = {}
    for number, row in enumerate(found, 1):
        key = tuple(str(row[column]).strip() for column in columns)
        if (earlier := first.setdefault(key, number)) < number:
            raise FactsError(
                f"'{path}', row {number} of '{name}': it asks the same as row {earlier}, and "
                "examples must be independent; leave one of them out."
            )


def check_members(value: Any, names: Sequence[str], path: Path) -> None:
    """Raise a FactsError for a member of an object that nobody would read: it may be misspelled."""
    unknown = sorted(set(value) - set(names)) if isinstance(value, dict) else []
    if unknown:
        raise FactsError(
            f"'{path}': there is no member '{unknown[0][:60]}'; there are {', '.join(names)}."
        )


def texts(
    value: Any, name: str, path: Path, *, least: int = 1, distinct: bool = False
) -> list[str]:
    """The list of texts `name` of an object.

    Args:
        distinct: whether they are examples, of which none may stand there twice.

    Raises:
        FactsError: it is no such list, or too short.
    """
    found = _member(value, name, path)
    if not isinstance(found, list) or not all(_is(one, str) for one in found):
        raise FactsError(f"'{path}': '{name}' must be a list of texts.")
    if len(found) < least:
        counted = f"{len(found)} {'text' if len(found) == 1 else 'texts'}"
        raise FactsError(f"'{path}': '{name}' has {counted}; give {least} or more.")
    if distinct:
        check_distinct([{name: one} for one in found], name, [name], path)
    return found


def _member(value: Any, name: str, path: Path) -> Any:
    if not isinstance(value, dict):
        raise FactsError(f"'{path}' must hold a JSON object.")
    if name not in value:
        raise FactsError(f"'{path}' has no '{name}'.")
    return value[name]


def _is(value: Any, kind: type) -> bool:
    if kind is str:
        return isinstance(value, str) and bool(value.strip())
    if kind is bool:
        return isinstance(value, bool)
    if isinstance(value, bool):
        return False
    if kind is int:
        return isinstance(value, int)
    return isinstance(value, int | float) and math.isfinite(value)


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")
