"""Run directories as the explorer shows them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from app.compute.engine import ModelSpec
from experiments.records import RunRecord, list_runs

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

T = TypeVar("T")

DRAWN = 32
"""Figures that are kept of a run."""

_listed: dict[Path, list[RunRecord]] = {}
"""The runs of a folder when it was last looked into."""


class Run:
    """One run directory; its results are read once and kept. Nobody may change them in place."""

    def __init__(self, record: RunRecord) -> None:
        self.record = record
        self._lock = threading.Lock()
        self._kept: dict[str, Any] = {}
        self._drawn: OrderedDict[Hashable, Any] = OrderedDict()

    @property
    def model(self) -> ModelSpec:
        """The model that was studied; without a source where the study has trained its own."""
        config = self.record.config
        revision = config.get("revision")
        return ModelSpec(
            str(config.get("model") or ""),
            None if revision is None else str(revision),
            str(config.get("dtype", "float32")),
        )

    @property
    def studied(self) -> str:
        """What was studied, in words: a study may have trained all of its models."""
        return str(self.record.config.get("model") or "organisms of its own")

    @property
    def fingerprint(self) -> str | None:
        """Of the model that was studied; None where the run never loaded it."""
        model = self.record.provenance.model
        return None if model is None else str(model.get("fingerprint"))

    def has(self, name: str) -> bool:
        return name in self.record.names()

    def table(self, name: str) -> pd.DataFrame | None:
        """A stored table, or None where the run has not made it. Raises RunError if damaged."""
        found: pd.DataFrame | None = self._read(name, self.record.table)
        return found

    def dataset(self, name: str) -> xr.Dataset | None:
        """Stored arrays, or None where the run has not made them. Raises RunError if damaged."""
        found: xr.Dataset | None = self._read(name, self.record.dataset)
        return found

    def drawn(self, name: Hashable, draw: Callable[[], T]) -> T:
        """What is drawn of stored results, once: building a figure takes longer than reading what
        it shows. The last ones are kept. Where `draw` raises, nothing is.

        Args:
            name: of the figure, with all that it depends on beside the results.
        """
        with self._lock:
            if name in self._drawn:
                self._drawn.move_to_end(name)
                found: T = self._drawn[name]
                return found
        # Without the lock: another session that reads a table does not wait for a figure.
        found = draw()
        with self._lock:
            self._drawn[name] = found
            while len(self._drawn) > DRAWN:
                self._drawn.popitem(last=False)
        return found

    def _read(self, name: str, read: Any) -> Any:
        if not self.has(name):
            return None
        with self._lock:
            if name not in self._kept:
                self._kept[name] = read(name)
            return self._kept[name]


def find(root: Path, first: Path | None) -> tuple[dict[str, RunRecord], list[str]]:
    """The runs to choose from by name, the newest first, `first` before all; and what is wrong
    with directories that could not be opened."""
    problems: list[str] = []
    found: dict[str, RunRecord] = {}
    if first is not None:
        record = RunRecord.open(first)
        found[_name(first, root)] = record
    listed = list_runs(
        root,
        on_skip=lambda path, reason: problems.append(reason),
        before=_listed.get(root, ()),
    )
    _listed[root] = listed
    for record in listed:
        found.setdefault(_name(record.path, root), record)
    return found, problems


def label(record: RunRecord) -> str:
    """A run in one line: study, model, preset, seed, when."""
    config = record.config
    model = Path(str(config.get("model") or "")).name
    parts = [record.study, model, f"{config['preset']}, seed {config['seed']}", when(record)]
    return " · ".join(part for part in parts if part)


def when(record: RunRecord) -> str:
    """When a run was finished, or that it is not."""
    moment = record.provenance.finished
    if moment is None:
        return "not finished"
    return datetime.fromisoformat(moment).strftime("%d %b %Y %H:%M UTC")


def stamp(record: RunRecord) -> tuple[int, ...]:
    """Changes whenever the run has stored something."""
    times = []
    for name in ("stages.json", "provenance.json", "verdicts.json"):
        path = record.path / name
        times.append(path.stat().st_mtime_ns if path.exists() else 0)
    return tuple(times)


def _name(path: Path, root: Path) -> str:
    try:
        return path.resolve().relative_to(root.resolve()).as_posix()
    except ValueError:
        return path.name
