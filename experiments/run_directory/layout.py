"""Where things lie in a run directory, and what makes two runs the same run.

config.json      schema, study, preset, seed, dtype, and every setting of the study
provenance.json  versions, model fingerprint, device, inputs, when it started and finished
stages.json      the finished results, and the other files here, with their SHA-256
results/         tables (.parquet) and labelled arrays (.nc)
figures/         each figure of the report, what it draws (.csv) and as an image (.svg)
report.html      and report.md
explored/        what was computed in the explorer, with what it is; the manifest knows none of it
work/            what a study needs while it runs, or leaves beside its results: a trained model
verdicts.json    written last
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.errors import StorageError
from experiments.run_directory.schema import SCHEMA, check_config, parse, read

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = [
    "CONFIG",
    "EXPLORED",
    "FIGURES",
    "HEADLINE",
    "LOCK",
    "PROVENANCE",
    "RESULTS",
    "STAGES",
    "VERDICTS",
    "WORK",
    "check_name",
    "check_path",
    "differences",
    "identity",
    "read_settings",
    "run_name",
    "settings_json",
    "to_json",
]

CONFIG = "config.json"
PROVENANCE = "provenance.json"
STAGES = "stages.json"
VERDICTS = "verdicts.json"
HEADLINE = "headline"
"""Name of the table (column `sentence`) in which a study says what it found, to be quoted."""
RESULTS = "results"
FIGURES = "figures"
WORK = "work"
EXPLORED = "explored"
LOCK = ".lock"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}\Z")


def identity(
    study: str, config: DataclassInstance, *, preset: str, seed: int, dtype: str
) -> dict[str, Any]:
    """The content of config.json: everything that the numbers depend on, as JSON holds it."""
    settings = {"study": study, "preset": preset, "seed": seed, "dtype": dtype}
    settings |= dataclasses.asdict(config)
    plain: dict[str, Any] = json.loads(json.dumps(settings, default=_path, allow_nan=False))
    return plain


def run_name(settings: dict[str, Any]) -> str:
    """The name of a run's directory: the same for the same settings, and only for these."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    model = re.sub(r"[^\w.]+", "-", Path(str(settings.get("model") or "")).name).strip("-.")
    parts = [model[:60], settings["preset"], str(settings["seed"]), digest[:8]]
    return "-".join(part for part in parts if part)


def differences(stored: dict[str, Any], wanted: dict[str, Any]) -> str:
    """What two settings differ in, for a message: "seed 0, not 1"; empty where they are equal."""
    keys = [key for key in {**wanted, **stored} if stored.get(key) != wanted.get(key)]
    return ", ".join(f"{key} {stored.get(key)!r}, not {wanted.get(key)!r}" for key in keys)


def check_name(name: str) -> str:
    """`name` if it can name a result: letters, digits, - and _."""
    if not _NAME.match(name):
        raise ValueError(f"{name!r} cannot name a result: use letters, digits, '-' and '_'")
    return name


def check_path(path: Path) -> Path:
    """`path` if it can be the name of a folder. Raises StorageError otherwise."""
    if "\0" in str(path):
        raise StorageError(f"{str(path)!r} holds a NUL, which no path can; choose another name.")
    return path


def read_settings(directory: Path) -> tuple[dict[str, Any], bytes]:
    """The settings in config.json of a run directory, and the content of that file.

    Raises:
        RunError: it is damaged, of no run, or of another schema.
        StorageError: it cannot be read.
    """
    path = directory / CONFIG
    data = read(path)
    return check_config(parse(data, path), path), data


def settings_json(settings: dict[str, Any]) -> bytes:
    """The content of config.json."""
    return to_json({"schema": SCHEMA, **settings})


def to_json(value: Any) -> bytes:
    """JSON that people can read."""
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
        return f"{text}\n".encode()
    except UnicodeEncodeError:
        # A path of bytes that are no text, say.
        return f"{json.dumps(value, indent=2, allow_nan=False)}\n".encode()


def _path(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a setting of type {type(value).__name__} cannot be stored in {CONFIG}")
