"""What the runner gives a study: seeds, the model, and results that outlive an interruption."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cache.files import make_folder, real_folder, sha256
from experiments.reporter import Percent, Progress, Reporter
from experiments.run_directory.layout import WORK, check_name
from experiments.run_directory.manifest import Kind, Manifest
from experiments.run_directory.provenance import Provenance
from experiments.run_directory.shapes import Shapes, check_dataset, check_table
from experiments.run_directory.storage import (
    decode_dataset,
    decode_table,
    encode_dataset,
    encode_table,
)

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import xarray as xr

    from interp.execute import Executor, Unit, Workers
    from interp.model.model import Model

__all__ = ["Context"]

T = TypeVar("T")

# Bytes of a dataset that is kept as it was read: to read one takes 50 ms however small it is.
_SMALL = 1 << 20

# A process with the libraries loaded, and an organism at work in it.
_BYTES_OF_A_WORKER = 1 << 30


class Context:
    """The surroundings of one run, handed to `Study.run`.

    A result is computed once: it is stored with its checksum, and a later start of the same run
    reads it instead. What the study gets is in both cases the value as read from the disk, so that
    a run that was interrupted and one that was not see the same numbers. A name serves for one
    result.

    Attributes:
        directory: the run directory.
        seed: the run's seed; take random numbers from `rng` rather.
        executor: where to run what can be spread over workers, for `sweep(executor=…)` and
            `interp.execute`; the same workers for the whole run. Results must not depend on it.
            This process, unless the user has chosen another one, or `spreading` is at work.
        device, dtype: that the run asks for, for models that the study makes itself.
        images: whether the report's figures are wanted as SVG, too.
    """

    def __init__(
        self,
        directory: Path,
        *,
        seed: int,
        load_model: Callable[[], Model],
        load_another: Callable[[str], Model],
        revision: str | None,
        provenance: Provenance,
        manifest: Manifest,
        reporter: Reporter,
        executor: Executor | Workers,
        chosen: bool = True,
        shapes: Shapes | None = None,
        images: bool = False,
        device: str | None = None,
        dtype: str = "float32",
    ) -> None:
        self.directory = directory
        self.seed = seed
        self.executor = executor
        self._chosen = chosen
        self.images = images
        self.device = device
        self.dtype = dtype
        self._load_model = load_model
        self._load_another = load_another
        self._revision = revision
        self._provenance = provenance
        self._manifest = manifest
        self._reporter = reporter
        self._shapes = shapes or {}
        self._model: Model | None = None
        self._others: dict[str, Model] = {}
        self._used: set[str] = set()
        self._small: dict[str, xr.Dataset] = {}

    @property
    def provenance(self) -> Provenance:
        """What is known so far about where the numbers come from."""
        return self._provenance

    @contextlib.contextmanager
    def spreading(self, most: int) -> Iterator[None]:
        """Inside, `executor` are processes of this machine, where the user has chosen nothing.

        Args:
            most: workers that have something to do; there are no more of them than cores, and than
                have room in the memory.
        """
        from interp.execute import Executor, Workers
        from interp.execute.settings import MOST_WORKERS, cores
        from interp.model.limits import available_memory

        free = available_memory()
        fitting = most if free is None else free // _BYTES_OF_A_WORKER
        count = min(most, cores(), MOST_WORKERS, fitting)
        if self._chosen or count < 2:
            yield
            return
        before = self.executor
        with Workers(Executor("processes", count)) as workers:
            self.executor = workers
            try:
                yield
            finally:
                self.executor = before

    def model(self) -> Model:
        """The model that the settings name, loaded when first asked for.

        Raises:
            ModelError: it cannot be loaded.
            RunError: earlier results of this run are of another model.
        """
        if self._model is None:
            model = self._load_model()
            self._note(self._provenance.with_model(model, self._revision))
            self._model = model
        return self._model

    def another_model(self, source: str) -> Model:
        """Another model beside the run's own, on the same device and in the same dtype.

        Raises:
            ModelError: it cannot be loaded.
            RunError: earlier results of this run are of another one of that name.
        """
        if source not in self._others:
            model = self._load_another(source)
            digest = hashlib.sha256(model.fingerprint.encode()).hexdigest()
            self._note(self._provenance.with_input(source, digest))
            self._others[source] = model
        return self._others[source]

    def input_file(self, setting: str, path: Path | str) -> Path:
        """Note that the study reads `path`, given as `setting` ("facts"); returns the path.

        Raises:
            RunError: earlier results of this run were made from another content.
            StorageError: it cannot be read.
        """
        self._note(self._provenance.with_input(setting, sha256(path)))
        return Path(path)

    def no_input_file(self, setting: str) -> None:
        """Note that there is no such file, and that the study does without it.

        Raises:
            RunError: earlier results of this run were made from one.
        """
        self._note(self._provenance.with_input(setting, hashlib.sha256().hexdigest()))

    def seed_for(self, name: str) -> int:
        """A seed (63 bits) that depends on the run's seed and `name` alone."""
        digest = hashlib.sha256(f"{self.seed}/{name}".encode()).digest()
        return int.from_bytes(digest[:8], "big") >> 1

    def rng(self, name: str) -> np.random.Generator:
        """A random generator for the stage `name`, whatever ran or was drawn before it."""
        import numpy as np

        return np.random.default_rng(self.seed_for(name))

    def note(self, message: str) -> None:
        """Tell the user something in a line."""
        self._reporter.note(message)

    def table(self, name: str, compute: Callable[[Progress], pd.DataFrame]) -> pd.DataFrame:
        """The table `name` (results/<name>.parquet), computed where it is not stored yet.

        Raises:
            StorageError: it cannot be written or read.
        """
        self._claim(name)
        if not self._stored(name, "table"):
            with self._reporter.stage(name) as progress:
                self._manifest.store(name, "table", encode_table(compute(progress)))
        return self._table(name)

    def dataset(self, name: str, compute: Callable[[Progress], xr.Dataset]) -> xr.Dataset:
        """The labelled arrays `name` (results/<name>.nc), computed where not stored yet.

        Raises:
            StorageError: they cannot be written or read.
        """
        self._claim(name)
        if not self._stored(name, "dataset"):
            with self._reporter.stage(name) as progress:
                self._manifest.store(name, "dataset", encode_dataset(compute(progress)))
        return self._dataset(name)

    def chunks(
        self,
        name: str,
        items: Sequence[T],
        compute_chunk: Callable[[Sequence[T]], pd.DataFrame],
        chunk_size: int,
    ) -> pd.DataFrame:
        """The table `name` made of one table per `chunk_size` items, in their order.

        A run that is stopped goes on after the last finished chunk. `items` must follow from the
        settings and the seed alone, and a chunk from its items alone.
        """
        import pandas as pd

        if chunk_size < 1:
            raise ValueError("chunk_size must be at least 1")
        self._claim(name)
        if not self._stored(name, "table"):
            total = math.ceil(len(items) / chunk_size)
            with self._reporter.stage(name) as progress:
                parts = self._manifest.chunks(name, len(items), chunk_size)
                progress(min(len(parts) * chunk_size, len(items)), len(items))
                # No items: one empty chunk still tells the columns.
                for index in range(len(parts), max(total, 1)):
                    chunk = items[index * chunk_size : (index + 1) * chunk_size]
                    parts.append(encode_table(compute_chunk(chunk)))
                    self._manifest.add_chunk(name, parts[-1])
                    progress(min((index + 1) * chunk_size, len(items)), len(items))
                whole = pd.concat([decode_table(p, name) for p in parts], ignore_index=True)
                self._manifest.store(name, "table", encode_table(whole))
            self._manifest.drop_chunks(name)
        return self._table(name)

    def tables(
        self,
        name: str,
        units: Sequence[Unit],
        start: Callable[[], Callable[[Any], pd.DataFrame]],
        *,
        telling: bool = False,
    ) -> dict[str, pd.DataFrame]:
        """A table `name_ID` for each unit of work, by the units' ids, run by the executor.

        Each is stored as soon as it is there: a run that is stopped loses the units that were at
        work. See `interp.execute` for `start`; units must follow from settings and seed alone.

        Args:
            telling: whether units say how far they are (`interp.execute.tell`); the progress is
                then shown in percent.
        """
        names = {unit.id: f"{name}_{unit.id}" for unit in units}
        self._units(name, names, units, start, "table", encode_table, telling)
        return {unit: self._table(each) for unit, each in names.items()}

    def datasets(
        self,
        name: str,
        units: Sequence[Unit],
        start: Callable[[], Callable[[Any], xr.Dataset]],
        *,
        telling: bool = False,
        whole_names: bool = False,
    ) -> dict[str, xr.Dataset]:
        """As `tables`, of units whose results are labelled arrays.

        Args:
            whole_names: whether results are stored by the units' ids alone, without `name`.
        """
        names = {unit.id: unit.id if whole_names else f"{name}_{unit.id}" for unit in units}
        self._units(name, names, units, start, "dataset", encode_dataset, telling)
        return {unit: self._dataset(each) for unit, each in names.items()}

    def stored(self, name: str) -> pd.DataFrame | xr.Dataset:
        """A result that this start of the study has asked for, as a figure draws it."""
        if name not in self._used:
            raise ValueError(f"the result {name!r} is drawn before it is computed")
        if name in self._manifest.names("table"):
            return self._table(name)
        return self._dataset(name)

    def document(self, name: str, text: str) -> Path:
        """Write a document ("report.html") into the run directory; returns its path."""
        # A token can hold what UTF-8 cannot; a report with a mark in its place beats none.
        return self.file(name, text.encode("utf-8", "replace"))

    def file(self, name: str, data: bytes) -> Path:
        """Write a document, or a file of a figure ("margins.csv", "margins.svg"), as it is."""
        self._claim(name)
        self._manifest.store(name, "document", data)
        return self._manifest.path(name)

    def workspace(self, name: str) -> Path:
        """A folder for what is no result: checkpoints of a training, and the trained model.

        It is there again when the run goes on, and removed with `--fresh`. Nothing vouches for
        what is in it: whoever reads it checks it.

        Raises:
            StorageError: it cannot be made, or a link stands in its place.
        """
        folder = real_folder(self.directory, WORK, check_name(name))
        make_folder(folder)
        return folder

    def forget_unused(self) -> list[str]:
        """Drop the stored results that this start of the study did not ask for."""
        stored = [*self._manifest.names(), *self._manifest.names("document")]
        unused = [name for name in stored if name not in self._used]
        for name in unused:
            self._manifest.forget(name)
        return unused

    def _units(
        self,
        name: str,
        names: Mapping[str, str],
        units: Sequence[Unit],
        start: Callable[[], Callable[[Any], T]],
        kind: Kind,
        encode: Callable[[T], bytes],
        telling: bool,
    ) -> None:
        """Run the units that are not stored; `names` of results by the units' ids."""
        from interp.execute import execute

        for each in names.values():
            self._claim(each)
        there = {unit for unit, each in names.items() if self._stored(each, kind)}
        if len(there) < len(names):
            with self._reporter.stage(f"{name} (%)" if telling else name) as progress:
                told = Percent(progress, names, there) if telling else None
                done = execute(
                    units,
                    start,
                    self.executor,
                    finished=there.__contains__,
                    progress=None if telling else progress,
                    told=told,
                )
                with contextlib.closing(done):
                    for unit, result in done:
                        self._manifest.store(names[unit], kind, encode(result))
                        if told is not None:
                            told(unit, 1, 1)

    def _table(self, name: str) -> pd.DataFrame:
        table = decode_table(self._manifest.read(name, "table"), name)
        return check_table(table, name, self._shapes)

    def _dataset(self, name: str) -> xr.Dataset:
        if name not in self._small:
            dataset = decode_dataset(self._manifest.read(name, "dataset"), name)
            dataset = check_dataset(dataset, name, self._shapes)
            if dataset.nbytes > _SMALL:
                return dataset
            self._small[name] = dataset
        # Whoever writes into what it got changes nothing for the next one.
        return self._small[name].copy(deep=True)

    def _stored(self, name: str, kind: Kind) -> bool:
        if name not in self._manifest.names(kind):
            return False
        damage = self._manifest.damage(name)
        if damage is not None:
            self._reporter.warn(f"'{self._manifest.path(name)}' {damage}; it is computed anew.")
            return False
        self._reporter.kept(name)
        return True

    def _claim(self, name: str) -> None:
        if name in self._used:
            raise ValueError(f"the result name {name!r} is used twice in this study")
        self._used.add(name)

    def _note(self, provenance: Provenance) -> None:
        if provenance != self._provenance:
            provenance.save(self._manifest)
            self._provenance = provenance
