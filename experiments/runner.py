"""Run a study in a directory of its own, so that it can be stopped and goes on later.

The same settings lead to the same directory. Whatever was stored there is used again; what would
mix two runs, or touch files that are not the runner's, is refused before anything is changed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cache.files import (
    TEMPORARY_PREFIX,
    expanded,
    make_folder,
    real_folder,
    remove,
    remove_temporaries,
    sha256,
    storage_errors,
    write_atomic,
)
from experiments.context import Context
from experiments.errors import ObverseError, RunError, StorageError
from experiments.records import RunRecord
from experiments.reporter import QuietReporter, Reporter
from experiments.run_directory.layout import (
    CONFIG,
    EXPLORED,
    LOCK,
    PROVENANCE,
    RESULTS,
    STAGES,
    VERDICTS,
    WORK,
    check_path,
    differences,
    identity,
    read_settings,
    run_name,
    settings_json,
    to_json,
)
from experiments.run_directory.lock import locked
from experiments.run_directory.manifest import Manifest
from experiments.run_directory.provenance import Provenance
from experiments.run_directory.schema import MOST_SEED, parse, read
from experiments.study import RESERVED, Study, StudyConfig, Verdict
from interp.execute import Executor, Workers

if TYPE_CHECKING:
    from interp.model.model import Model

__all__ = ["run_study"]

ConfigT = TypeVar("ConfigT", bound=StudyConfig)


def run_study(
    study: Study[ConfigT],
    config: ConfigT,
    *,
    preset: str = "custom",
    seed: int = 0,
    dtype: str = "float32",
    device: str | None = None,
    placing: Mapping[str, Any] | None = None,
    model: Model | None = None,
    out: Path | None = None,
    root: Path = Path("runs"),
    fresh: bool = False,
    executor: Executor | None = None,
    reporter: Reporter | None = None,
    images: bool = False,
) -> RunRecord:
    """Run a study to its end, or go on with it where it stopped.

    Args:
        config: settings, as from `study.configure(preset)`.
        preset: what to call these settings.
        dtype: of the model's weights, as for `interp.load_model`.
        device: likewise; it does not tell runs apart.
        placing: where a model that is larger than a device lies: `device_map`, `offload_folder` and
            `max_memory` of `interp.load_model`. Likewise; models that the study trains are not
            placed.
        model: use this one, which is loaded already, instead of `config.model`.
        out: the run directory; if left out, one in `root` named after study, model, preset, seed
            and a hash of all settings.
        fresh: remove what the runner stored in that directory, and start over.
        executor: where the study runs what it can spread over workers. If left out, in this
            process; a study of a phenomenon trains and measures its organisms in processes of this
            machine. Like the device it does not tell runs apart.
        reporter: told of the progress.
        images: write the report's figures as SVG, too, where there is a browser to draw them.

    Returns:
        The record of the finished run. One that was finished before is not computed again.

    Raises:
        RunError: the directory holds something else, is in use, or its results come from another
            model or other input files.
        StorageError: it cannot be written.
        ObverseError: whatever the study refuses.
    """
    if not 0 <= seed <= MOST_SEED:
        raise RunError(f"The seed is {seed}; choose a number from 0 to 2**63 - 1.")
    if model is not None:
        config = _with_model(config, model)
    settings = identity(study.name, config, preset=preset, seed=seed, dtype=dtype)
    directory = check_path(out if out is not None else root / study.name / run_name(settings))
    reporter = reporter or QuietReporter()
    loader = _Loader(config, model, device, dtype, dict(placing or {}))

    _check_directory(directory, settings, fresh)
    if not fresh:
        finished = _finished(directory, loader)
        if finished is not None:
            reporter.note(f"'{directory}' was finished {_date(finished)}; nothing to compute.")
            return finished
    new = not directory.exists()
    make_folder(directory)
    with (
        locked(directory / LOCK),
        _removed_if_refused(directory, new),
        Workers(executor or Executor()) as workers,
    ):
        # Once more: somebody else may have begun a run here meanwhile.
        _check_directory(directory, settings, fresh)
        _clean(directory, fresh)
        manifest = Manifest(directory)
        provenance = _begin(directory, settings, manifest, reporter)
        context = Context(
            directory,
            seed=seed,
            load_model=lambda: loader.load(reporter),
            load_another=lambda source: loader.load_another(source, reporter),
            revision=loader.revision,
            provenance=provenance,
            manifest=manifest,
            reporter=reporter,
            executor=workers,
            chosen=executor is not None,
            shapes=study.results,
            images=images,
            device=device,
            dtype=dtype,
        )
        verdicts = _checked(study.run(config, context))
        context.forget_unused()
        manifest.write_file(VERDICTS, to_json([verdict.to_dict() for verdict in verdicts]))
        # Last: a run is finished when its provenance says so.
        context.provenance.finish().save(manifest)
    return RunRecord.open(directory)


@dataclasses.dataclass(frozen=True)
class _Loader:
    """How to come by the model of a run."""

    config: StudyConfig
    model: Model | None
    device: str | None
    dtype: str
    placing: Mapping[str, Any]

    @property
    def source(self) -> Any:
        return getattr(self.config, "model", None)

    @property
    def revision(self) -> str | None:
        return getattr(self.config, "revision", None)

    def load(self, reporter: Reporter) -> Model:
        if self.model is not None:
            return self.model
        return self.load_another(self.source, reporter, self.revision)

    def load_another(self, source: Any, reporter: Reporter, revision: str | None = None) -> Model:
        """A model on the device and in the dtype of the run."""
        reporter.note(f"Loading {source} …")
        from interp import load_model

        return load_model(
            source, device=self.device, dtype=self.dtype, revision=revision, **self.placing
        )


def _with_model(config: ConfigT, model: Model) -> ConfigT:
    names = {field.name for field in dataclasses.fields(config)}
    return dataclasses.replace(config, model=model.source) if "model" in names else config


def _check_directory(directory: Path, settings: dict[str, Any], fresh: bool) -> None:
    """Refuse a directory that holds anything but this run."""
    with storage_errors(directory, "used"):
        if not directory.exists():
            return
        if not directory.is_dir():
            raise StorageError(f"'{directory}' is a file; choose a folder as --out.")
        begun = os.path.lexists(directory / CONFIG)
    if not begun:
        others = sorted(
            path.name
            for path in _entries(directory)
            if path.name not in (LOCK, EXPLORED) and not path.name.startswith(TEMPORARY_PREFIX)
        )
        if others:
            raise RunError(
                f"'{directory}' holds other files ('{others[0]}') and no run; choose an empty or "
                "new folder as --out."
            )
        return
    try:
        stored, written = read_settings(directory)
    except RunError:
        # Of another version, or damaged: --fresh replaces what is known as a run all the same.
        if fresh and _is_run(directory, str(settings["study"])):
            return
        raise
    if stored["study"] != settings["study"]:
        raise RunError(
            f"'{directory}' holds a run of the study '{stored['study']}', not "
            f"'{settings['study']}'; choose another --out."
        )
    if fresh:
        return
    different = differences(stored, settings)
    if different:
        raise RunError(
            f"'{directory}' holds a run with other settings ({different}); choose another --out, "
            "or replace that run with --fresh."
        )
    manifest = Manifest(directory)
    if manifest.exists and not manifest.is_file(CONFIG, written):
        raise RunError(
            f"'{directory / CONFIG}' is damaged (it does not match its checksum in stages.json); "
            "run the study again with --fresh."
        )


def _is_run(directory: Path, study: str) -> bool:
    """Whether it is a run of the study, though its settings cannot be used."""
    path = directory / CONFIG
    with contextlib.suppress(ObverseError):
        value = parse(read(path), path)
        return isinstance(value, dict) and value.get("study") == study
    with contextlib.suppress(ObverseError):
        return Manifest(directory).exists
    return False


def _entries(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except OSError as error:
        raise StorageError(
            f"'{directory}' cannot be read ({error.strerror}); choose another --out."
        ) from error


def _finished(directory: Path, loader: _Loader) -> RunRecord | None:
    """The record of a finished and undamaged run, if that is what the directory holds.

    Raises RunError where its model or its input files were changed after it started.
    """
    try:
        record = RunRecord.open(directory)
    except ObverseError:
        return None
    if not record.finished or record.damage():
        return None
    provenance = record.provenance
    for name in provenance.inputs:
        path = _input(record.config, name)
        if path is not None:
            provenance.with_input(name, sha256(path))
    if provenance.model is not None and _may_have_changed(loader, provenance):
        provenance.with_model(loader.load(QuietReporter()), loader.revision)
    return record


def _input(config: Mapping[str, Any], name: str) -> Path | None:
    """Where a file that the run has read is now: given as a setting, or in a folder given as one.

    None where it is not there any more, and where it came with an installed package.
    """
    from interp.loading.where import bundled_models

    own = {key: value for key, value in config.items() if key not in RESERVED}
    given = own.get(name)
    places = [given] if isinstance(given, str) else []
    folders = {value for value in own.values() if isinstance(value, str)} - {*bundled_models()}
    places += [os.path.join(folder, name) for folder in sorted(folders)]
    found = (os.path.expanduser(place) for place in places)
    # False, not an OSError, for a name that no file can have.
    return next((Path(path) for path in found if os.path.isfile(path)), None)


def _may_have_changed(loader: _Loader, provenance: Provenance) -> bool:
    """Whether the model must be loaded to tell: files in its folder are newer than the run."""
    if loader.model is not None:
        return True
    folder = expanded(str(loader.source))
    if not folder.is_dir():
        return False
    started = datetime.fromisoformat(provenance.started).timestamp()
    with storage_errors(folder, "read"):
        # Files keep their times when they are moved or copied; when that was, the folder tells.
        found = [os.lstat(folder), folder.stat()]
        found += [path.stat() for path in folder.iterdir() if path.is_file()]
    return any(max(each.st_mtime, each.st_ctime) >= started for each in found)


def _clean(directory: Path, fresh: bool) -> None:
    """Remove what killed writers left, and with `fresh` everything that the runner wrote."""
    results = real_folder(directory, RESULTS)
    remove_temporaries(directory)
    remove_temporaries(results)
    if not fresh:
        return
    work = real_folder(directory, WORK)
    with storage_errors(work, "removed"):
        if work.exists():
            shutil.rmtree(work)
    # The settings go last: until then the directory is still known as a run.
    remove(directory / VERDICTS)
    _stored(directory).clear()
    remove(directory / PROVENANCE)
    remove(directory / CONFIG)


def _stored(directory: Path) -> Manifest:
    """The manifest, or an empty one in place of one that is damaged or of another version."""
    try:
        return Manifest(directory)
    except RunError:
        remove(directory / STAGES)
        return Manifest(directory)


@contextlib.contextmanager
def _removed_if_refused(directory: Path, new: bool) -> Iterator[None]:
    """Leave no directory behind if the study refuses (an unknown model, say) before any result."""
    try:
        yield
    except ObverseError:
        with contextlib.suppress(ObverseError, OSError):
            if new and not any((directory / RESULTS).glob("**/*")):
                _clean(directory, fresh=True)
                remove(directory / LOCK)
                directory.rmdir()
        raise


def _begin(
    directory: Path, settings: dict[str, Any], manifest: Manifest, reporter: Reporter
) -> Provenance:
    """Write settings and provenance, or go on with those that are there."""
    try:
        # What no manifest vouches for is not gone on with.
        provenance, changes = Provenance.load(directory, manifest).resume()
    except ObverseError:
        if manifest.begun:
            raise
        provenance, changes = Provenance.begin(), []
    path, content = directory / CONFIG, settings_json(settings)
    if os.path.lexists(path):
        content = read(path)
    else:
        write_atomic(path, content)
    manifest.note_file(CONFIG, content)
    provenance.save(manifest)
    # Verdicts of results that are about to be computed anew are not verdicts any more.
    manifest.remove_file(VERDICTS)
    for change in changes if manifest.begun else []:
        reporter.warn(f"{change}; stored results are kept, --fresh computes all anew.")
    return provenance


def _checked(verdicts: Sequence[Verdict]) -> list[Verdict]:
    names = [verdict.id for verdict in verdicts]
    if len(set(names)) != len(names):
        raise ValueError(f"two verdicts have the same id: {', '.join(names)}")
    return list(verdicts)


def _date(record: RunRecord) -> str:
    when = datetime.fromisoformat(str(record.provenance.finished)).astimezone()
    return f"on {when:%Y-%m-%d at %H:%M}"
