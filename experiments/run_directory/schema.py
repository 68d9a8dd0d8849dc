"""What the JSON files of a run directory may hold; everything that is read back is held to it.

`SCHEMA` is raised whenever one of these files, or a result of a study, takes another form. A run of
another schema is not read: it is told which side is the older one.

Checks are against damage, edits and other versions. Whoever forges a run wholly, checksums
included, is not found out by them, but gets no more than wrong numbers in a run of that name: no
file outside of it is read or written, and nothing in it is executed.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cache.files import read_bytes
from cache.members import each_once
from experiments.errors import RunError

__all__ = [
    "MOST_SEED",
    "SCHEMA",
    "check_config",
    "check_explored",
    "check_manifest",
    "check_provenance",
    "check_verdicts",
    "parse",
    "read",
]

SCHEMA = 2
"""Of run directories; those of Obverse up to 0.1 had none."""

MOST_SEED = 2**63 - 1
_MOST_DEPTH = 32
_MOST_BYTES = 64 << 20
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
# A last one that does not end is taken too: the search must not begin anew at each quote in it.
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
_NUMBER_DIGITS = 40

Check = Callable[[Any], bool]


# --- reading ---------------------------------------------------------------------------------


def read(path: Path, *, most: int = _MOST_BYTES) -> bytes:
    """The content of one of the files: a regular one of a bearable size.

    Raises:
        StorageError: it cannot be read, is a symbolic link, a device and the like.
        RunError: it is longer than such a file can be.
    """
    data = read_bytes(path, most + 1, links=False)
    if len(data) > most:
        raise _damaged(path, f"it is larger than {most >> 20} MiB")
    return data


def parse(data: bytes, path: Path) -> Any:
    """A JSON value, of numbers that are finite and fit 64 bits, no key twice, and not too deep.

    Raises:
        RunError: it is none.
    """
    deepest = depth = 0
    for bracket in re.findall(rb"[\[\]{}]", _STRING.sub(b"", data)):
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    if deepest > _MOST_DEPTH:
        raise _damaged(path, "it is nested too deeply")
    try:
        return json.loads(
            data.decode("utf-8"),
            parse_int=_integer,
            parse_float=_finite,
            parse_constant=_finite,
            object_pairs_hook=each_once,
        )
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "it is not JSON, or holds numbers that are none") from error


def _integer(written: str) -> int:
    if len(written) > _NUMBER_DIGITS or not -(2**63) <= int(written) < 2**64:
        raise ValueError("an integer does not fit 64 bits")
    return int(written)


def _finite(written: str) -> float:
    number = float(written)
    if not math.isfinite(number):
        raise ValueError(f"{written} is not finite")
    return number


# --- what each file holds --------------------------------------------------------------------


def check_config(value: Any, path: Path) -> dict[str, Any]:
    """The settings in config.json, without the number of the schema.

    Raises:
        RunError: it is of no run, of another schema, or a setting of the runner has a wrong type.
    """
    if not isinstance(value, dict) or not {"study", "preset", "seed"} <= set(value):
        raise RunError(
            f"'{path.parent}' is not a run directory: its {path.name} names no study; choose "
            "another folder ('obverse runs' lists those of runs)."
        )
    settings = dict(value)
    schema = settings.pop("schema", 1)
    if not _count(schema):
        raise _damaged(path, "'schema' is no number")
    if schema != SCHEMA:
        newer = schema > SCHEMA
        raise RunError(
            f"'{path.parent}' was made by {'a newer' if newer else 'an older'} version of Obverse "
            f"(its files are of schema {schema}, not {SCHEMA}); "
            + ("update Obverse." if newer else "run the study again with --fresh.")
        )
    _check(settings, _CONFIG, path, others=True)
    named = {name: settings.get(name) for name in ("model", "revision", "facts", "templates")}
    _check(named, dict.fromkeys(named, _or_none(_text)), path)
    return settings


def check_provenance(value: Any, path: Path) -> dict[str, Any]:
    """The fields of provenance.json. Raises RunError where one is missing or of a wrong type."""
    return _check(value, _PROVENANCE, path)


def check_verdicts(value: Any, path: Path) -> list[dict[str, Any]]:
    """The entries of verdicts.json. Raises RunError where one is damaged or stands there twice."""
    if not isinstance(value, list):
        raise _damaged(path, "it is no list of verdicts")
    for item in value:
        _check(item, _VERDICT, path)
        low, high = item["low"], item["high"]
        if low is not None and high is not None and low > high:
            raise _damaged(path, f"the interval of '{item['id']}' ends before it begins")
    if len({item["id"] for item in value}) != len(value):
        raise _damaged(path, "two verdicts have the same id")
    return value


def check_explored(value: Any, path: Path) -> dict[str, Any]:
    """The description of a result of the explorer. Raises RunError where it is damaged."""
    return _check(value, _EXPLORED, path)


def check_manifest(value: Any, path: Path) -> dict[str, Any]:
    """The content of stages.json, but for the names of results, which are the manifest's matter.

    Raises:
        RunError: it is damaged.
    """
    return _check(value, _MANIFEST, path)


def _check(
    value: Any, fields: Mapping[str, Check], path: Path, *, others: bool = False
) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _damaged(path, "it is no JSON object")
    for name, right in fields.items():
        if name not in value:
            raise _damaged(path, f"'{name}' is missing")
        if not right(value[name]):
            raise _damaged(path, f"'{name}' is not what it should be")
    if not others and set(value) - set(fields):
        raise _damaged(path, f"'{min(set(value) - set(fields))}' does not belong there")
    return value


def _damaged(path: Path, why: str) -> RunError:
    return RunError(
        f"'{path}' is damaged ({why}); run the study again with --fresh, or remove its folder."
    )


# --- types -----------------------------------------------------------------------------------


def _text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 100_000


def _word(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 200


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_SEED


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _share(value: Any) -> bool:
    return _number(value) and 0 < value < 1


def _digest(value: Any) -> bool:
    return isinstance(value, str) and _DIGEST.match(value) is not None


def _time(value: Any) -> bool:
    """ISO 8601 with its offset, in a year that every clock can show."""
    try:
        moment = datetime.fromisoformat(value)
        return moment.tzinfo is not None and 1970 < moment.astimezone(timezone.utc).year < 9999
    except (TypeError, ValueError, OverflowError):
        return False


def _or_none(right: Check) -> Check:
    return lambda value: value is None or right(value)


def _list(right: Check) -> Check:
    return lambda value: isinstance(value, list) and all(right(item) for item in value)


def _map(right: Check) -> Check:
    return lambda value: isinstance(value, dict) and all(right(item) for item in value.values())


def _fields(**fields: Check) -> Check:
    def right(value: Any) -> bool:
        return (
            isinstance(value, dict)
            and set(value) == set(fields)
            and all(check(value[name]) for name, check in fields.items())
        )

    return right


def _model(value: Any) -> bool:
    named = isinstance(value, dict) and {"source", "name", "fingerprint"} <= set(value)
    return named and all(_text(value[key]) for key in ("source", "name", "fingerprint"))


def _resumed(value: Any) -> bool:
    if not isinstance(value, dict) or not {"at"} <= set(value) <= {"at", "versions", "git"}:
        return False
    return _time(value["at"]) and _map(_text)(value.get("versions", {})) and _git(value.get("git"))


_git = _or_none(_fields(revision=_text, changed=_flag))

_CONFIG: Mapping[str, Check] = {"study": _word, "preset": _word, "seed": _count, "dtype": _word}

_PROVENANCE: Mapping[str, Check] = {
    "started": _time,
    "finished": _or_none(_time),
    "versions": _map(_text),
    "platform": _text,
    "git": _git,
    "device": _or_none(_map(_text)),
    "model": _or_none(_model),
    "inputs": _map(_digest),
    "resumed": _list(_resumed),
}

_VERDICT: Mapping[str, Check] = {
    "id": _word,
    "claim": _text,
    "outcome": lambda value: value in ("supported", "rejected", "undecided"),
    "statement": _text,
    "estimate": _or_none(_number),
    "low": _or_none(_number),
    "high": _or_none(_number),
    "unit": _text,
    "n": _count,
    "control": _text,
    "confidence": _share,
}

_MANIFEST: Mapping[str, Check] = {
    # Two checksums of a file while one content takes the other's place.
    "files": _map(lambda value: _list(_digest)(value) and 1 <= len(value) <= 2),
    "results": _map(_fields(kind=_word, file=_text, bytes=_count, sha256=_digest)),
    "documents": _map(_fields(kind=_word, file=_text, bytes=_count, sha256=_digest)),
    "partial": _map(_fields(items=_count, chunk_size=_count, sha256=_list(_digest))),
}

_EXPLORED: Mapping[str, Check] = {
    "schema": lambda value: value == 1,
    "asked": _fields(
        kind=_word,
        request=lambda value: value is not None,
        fingerprint=_word,
        tokenizer=_word,
        version=_word,
    ),
    "title": _text,
    "model": _text,
    "seconds": _number,
    "link": _map(_text),
    "created": _time,
    "bytes": _count,
    "sha256": _digest,
}
