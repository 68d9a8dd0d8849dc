"""Reading runs: what the explorer, reports and notebooks open."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache.files import is_real, storage_errors
from experiments.errors import ObverseError, RunError
from experiments.registry import shapes_of
from experiments.run_directory.layout import (
    CONFIG,
    HEADLINE,
    PROVENANCE,
    STAGES,
    VERDICTS,
    check_path,
    read_settings,
)
from experiments.run_directory.manifest import Kind, Manifest
from experiments.run_directory.provenance import Provenance
from experiments.run_directory.schema import check_verdicts, parse, read
from experiments.run_directory.shapes import check_dataset, check_table
from experiments.run_directory.storage import decode_dataset, decode_table
from experiments.study import Verdict

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["RunRecord", "list_runs"]

# A run that is at work writes between two looks at its files.
_TRIES = 5


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
    _seen: tuple[tuple[int, ...] | None, ...] = field(default=(), repr=False, compare=False)
    """Of its files, just before they were read."""

    @classmethod
    def open(cls, path: Path | str) -> RunRecord:
        """Open a run directory.

        Settings, provenance and verdicts are held to their types and to their checksums; results
        when they are read (`table`, `dataset`), or all of them by `damage`.

        Raises:
            RunError: it is not one, is damaged, was edited, or is of another schema.
            StorageError: it cannot be read.
        """
        directory = check_path(Path(path))
        for _ in range(_TRIES - 1):
            before = _stamp(directory)
            try:
                return cls._open(directory)
            except ObverseError:
                if _stamp(directory) == before:
                    raise
        return cls._open(directory)

    @classmethod
    def _open(cls, directory: Path) -> RunRecord:
        seen = _stamp(directory)
        with storage_errors(directory, "opened"):
            if not _there(directory / CONFIG):
                what = "has no config.json" if directory.is_dir() else "does not exist"
                raise RunError(
                    f"'{directory}' is not a run directory: it {what}; see 'obverse runs'."
                )
        config, written = read_settings(directory)
        if not _there(directory / PROVENANCE):
            raise RunError(f"'{directory}' has no provenance.json; run the study again.")
        manifest = Manifest(directory)
        if not manifest.exists:
            raise RunError(
                f"'{directory}' has no stages.json, so that nothing in it can be checked; run the "
                "study again."
            )
        if not manifest.is_file(CONFIG, written):
            raise RunError(
                f"'{directory / CONFIG}' is damaged (it does not match its checksum in "
                "stages.json); run the study again with --fresh."
            )
        provenance = Provenance.load(directory, manifest)
        done = provenance.finished is not None
        verdicts = _read_verdicts(directory / VERDICTS, manifest) if done else ()
        return cls(directory, config, provenance, verdicts, done, manifest, seen)

    @property
    def current(self) -> bool:
        """Whether the files that it was read from are as they were then."""
        return self._seen == _stamp(self.path)

    @property
    def study(self) -> str:
        """The name of the study."""
        return str(self.config["study"])

    @property
    def report(self) -> Path | None:
        """report.html, if the study has written one."""
        if "report.html" not in self._manifest.names("document"):
            return None
        path = self._manifest.path("report.html")
        return path if is_real(path) else None

    @property
    def headline(self) -> tuple[str, ...]:
        """What was found, in sentences to quote; none where the study has not stored any."""
        if not self.finished or HEADLINE not in self.names("table"):
            return ()
        table = self.table(HEADLINE)
        if list(table.columns) != ["sentence"]:
            raise RunError(f"'{HEADLINE}' of '{self.path}' holds no sentences; run it again.")
        return tuple(str(sentence) for sentence in table["sentence"])

    def names(self, kind: Kind | None = None) -> list[str]:
        """The names of the stored results: all, or those of one kind ("table", "dataset")."""
        return self._manifest.names(kind)

    def table(self, name: str) -> pd.DataFrame:
        """A stored table. Raises RunError where there is none, or it was changed since."""
        table = decode_table(self._manifest.read(name, "table"), name)
        return check_table(table, name, shapes_of(self.study))

    def dataset(self, name: str) -> xr.Dataset:
        """Stored labelled arrays. Raises RunError where there are none, or they were changed."""
        dataset = decode_dataset(self._manifest.read(name, "dataset"), name)
        return check_dataset(dataset, name, shapes_of(self.study))

    def document(self, name: str) -> bytes:
        """A stored document ("report.html"). Raises RunError where it is none, or was changed."""
        return self._manifest.read(name, "document")

    def damage(self) -> list[str]:
        """A sentence for each stored result or document whose file is missing or was changed."""
        found = []
        for name in [*self._manifest.names(), *self._manifest.names("document")]:
            damage = self._manifest.damage(name)
            if damage is not None:
                found.append(f"'{self._manifest.path(name)}' {damage}.")
        return found


def list_runs(
    root: Path | str,
    *,
    on_skip: Callable[[Path, str], None] | None = None,
    before: Iterable[RunRecord] = (),
) -> list[RunRecord]:
    """The runs in `root`, or in the folders of studies in it, the newest first.

    A directory that has a config.json but cannot be opened is skipped, and `on_skip` told why. One
    that is there under several names (links) is listed once.

    Args:
        before: what was listed earlier; runs whose files are as they were are not read again.

    Raises:
        StorageError: `root` is there and cannot be read.
    """
    folder = check_path(Path(root))
    with storage_errors(folder, "read"):
        if not os.path.lexists(folder):
            return []
        os.scandir(folder).close()
    known = {record.path: record for record in before}
    found: list[RunRecord] = []
    seen: set[str] = set()
    for directory in sorted(_candidates(folder)):
        place = os.path.realpath(directory)
        if place in seen:
            continue
        seen.add(place)
        there = known.get(directory)
        try:
            if there is None or not there.current:
                there = RunRecord.open(directory)
            found.append(there)
        except (ObverseError, OSError) as error:
            if on_skip is not None:
                on_skip(directory, str(error))
    return sorted(found, key=_started, reverse=True)


def _started(record: RunRecord) -> datetime:
    return datetime.fromisoformat(record.provenance.started)


def _candidates(root: Path) -> Iterator[Path]:
    """Folders with a config.json, one and two floors below `root`."""
    for folder in _folders(root):
        for candidate in (folder, *_folders(folder)):
            if os.path.lexists(candidate / CONFIG):
                yield candidate


def _folders(parent: Path) -> list[Path]:
    try:
        return [parent / name for name in os.listdir(parent) if os.path.isdir(parent / name)]
    except OSError:
        return []


def _there(path: Path) -> bool:
    return os.path.lexists(path)


def _stamp(directory: Path) -> tuple[tuple[int, ...] | None, ...]:
    """Changes with every file that a runner puts into the directory."""

    def of(path: Path) -> tuple[int, ...] | None:
        try:
            found = os.lstat(path)
        except OSError:
            return None
        # The last, too: who sets back when a file was changed, cannot set that back.
        return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

    return tuple(of(directory / name) for name in (CONFIG, PROVENANCE, STAGES, VERDICTS))


def _read_verdicts(path: Path, manifest: Manifest) -> tuple[Verdict, ...]:
    data = read(path)
    stored = check_verdicts(parse(data, path), path)
    if not manifest.is_file(VERDICTS, data):
        raise RunError(
            f"'{path}' is not what the run wrote (it does not match its checksum in stages.json); "
            "run the study again, which judges anew."
        )
    return tuple(Verdict.from_dict(item) for item in stored)
