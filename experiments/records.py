"""Reading runs: what the explorer, reports and notebooks open."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache.files import read_bytes
from experiments.errors import ObverseError, RunError
from experiments.layout import CONFIG, HEADLINE, PROVENANCE, VERDICTS, read_json
from experiments.manifest import Kind, Manifest
from experiments.provenance import Provenance
from experiments.storage import decode_dataset, decode_table
from experiments.study import Verdict

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["RunRecord", "list_runs"]


@dataclass(frozen=True)
class RunRecord:
    """A run directory, finished or not. Open one with `RunRecord.open`."""

    path: Path
    config: dict[str, Any]
    """Study, preset, seed, dtype and the study's settings (config.json)."""
    provenance: Provenance
    verdicts: tuple[Verdict, ...]
    """Empty while the run is not finished."""
    finished: bool
    """Whether every result was stored and the verdicts were written."""
    _manifest: Manifest = field(repr=False, compare=False)

    @classmethod
    def open(cls, path: Path | str) -> RunRecord:
        """Open a run directory.

        Raises:
            RunError: it is not one, or is damaged.
            StorageError: it cannot be read.
        """
        directory = Path(path)
        if not (directory / CONFIG).is_file():
            what = "has no config.json" if directory.is_dir() else "does not exist"
            raise RunError(f"'{path}' is not a run directory: it {what}; see 'obverse runs'.")
        config = read_json(directory / CONFIG)
        if not {"study", "preset", "seed"} <= set(config):
            raise RunError(
                f"'{path}' is not a run directory: its config.json names no study; see "
                "'obverse runs'."
            )
        if not (directory / PROVENANCE).is_file():
            raise RunError(f"'{path}' has no provenance.json; run the study again.")
        provenance = Provenance.load(directory)
        done = provenance.finished is not None
        verdicts = _read_verdicts(directory / VERDICTS) if done else ()
        return cls(directory, config, provenance, verdicts, done, Manifest(directory))

    @property
    def study(self) -> str:
        """The name of the study."""
        return str(self.config["study"])

    @property
    def report(self) -> Path | None:
        """report.html, if the study has written one."""
        return self._manifest.path("report.html") if self._has_report() else None

    @property
    def headline(self) -> tuple[str, ...]:
        """What was found, in sentences to quote; none where the study has not stored any."""
        if not self.finished or HEADLINE not in self.names("table"):
            return ()
        return tuple(str(sentence) for sentence in self.table(HEADLINE)["sentence"])

    def names(self, kind: Kind | None = None) -> list[str]:
        """The names of the stored results: all, or those of one kind ("table", "dataset")."""
        return self._manifest.names(kind)

    def table(self, name: str) -> pd.DataFrame:
        """A stored table. Raises RunError where there is none, or it was changed since."""
        return decode_table(self._manifest.read(name, "table"), name)

    def dataset(self, name: str) -> xr.Dataset:
        """Stored labelled arrays. Raises RunError where there are none, or they were changed."""
        return decode_dataset(self._manifest.read(name, "dataset"), name)

    def damage(self) -> list[str]:
        """A sentence for each stored result or document whose file is missing or was changed."""
        found = []
        for name in [*self._manifest.names(), *self._manifest.names("document")]:
            damage = self._manifest.damage(name)
            if damage is not None:
                found.append(f"'{self._manifest.path(name)}' {damage}.")
        return found

    def _has_report(self) -> bool:
        return "report.html" in self._manifest.names("document")


def list_runs(
    root: Path | str, *, on_skip: Callable[[Path, str], None] | None = None
) -> list[RunRecord]:
    """The runs in `root`, or in the folders of studies in it, the newest first.

    A directory that has a config.json but cannot be opened is skipped, and `on_skip` told why.
    """
    folder = Path(root)
    found = []
    for config in sorted({*folder.glob(f"*/{CONFIG}"), *folder.glob(f"*/*/{CONFIG}")}):
        try:
            found.append(RunRecord.open(config.parent))
        except ObverseError as error:
            if on_skip is not None:
                on_skip(config.parent, str(error))
    return sorted(found, key=lambda record: record.provenance.started, reverse=True)


def _read_verdicts(path: Path) -> tuple[Verdict, ...]:
    try:
        stored = json.loads(read_bytes(path))
        return tuple(Verdict.from_dict(item) for item in stored)
    except (ValueError, TypeError) as error:
        raise RunError(f"'{path}' is damaged; run the study again with --fresh.") from error
