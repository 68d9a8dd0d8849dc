"""Runs of the toy study, in this process and in others that are to be killed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from experiments.records import RunRecord
from experiments.reporter import QuietReporter
from experiments.runner import run_study
from tests.experiments import toy
from tests.warm import Process

ROOT = Path(__file__).parents[2]


class Ears(QuietReporter):
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.kept_names: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def kept(self, name: str) -> None:
        self.kept_names.append(name)


def run(out: Path | None, config: toy.Config | None = None, **options: Any) -> RunRecord:
    options.setdefault("model", toy.fake_model())
    return run_study(toy.STUDY, config or toy.Config(), out=out, **options)


def values(record: RunRecord) -> dict[str, Any]:
    """Everything a run found, as plain values."""
    return {
        "numbers": record.table("numbers").to_dict("list"),
        "long": record.table("long").to_dict("list"),
        "field": record.dataset("field").to_dict(),
        "verdicts": [verdict.to_dict() for verdict in record.verdicts],
        "report": (record.path / "report.html").read_text(),
    }


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


WHOLE = ["numbers", "field", "long 0", "long 2", "long 4", "long 6", "report"]
"""What a whole run computes, in its order."""


def start_child(out: Path, pause: str) -> Process:
    """A toy run in another process that waits at `pause`; returns once it got there."""
    env = {**os.environ, "TOY_PAUSE": pause}
    child = Process("tests.experiments.toy", [str(out)], ROOT, env)
    line = child.stdout.readline().strip()
    assert line == pause, child.stderr.read()
    return child
