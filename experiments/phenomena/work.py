"""What a worker does for a study of a phenomenon: train an organism, measure a model."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from cache.files import real_folder, storage_errors
from experiments.errors import RunError
from experiments.organisms.errors import OrganismError
from experiments.organisms.training.checkpoint import DATA_FILE, ORGANISM_FILE, discard, read_json
from experiments.organisms.training.follow import model_after, train_recipe
from experiments.phenomena.data import read_json as read_data
from experiments.phenomena.phenomenon import Arm, Phenomenon, Subject
from experiments.readable import check_readable, check_told_apart
from experiments.reporter import Progress
from interp import load_model
from interp.execute import tell
from interp.model.memory import fitting_threads
from interp.model.model import Model

__all__ = ["MeasuringJob", "TrainingJob", "Working", "check_asked", "measured"]


@dataclass(frozen=True)
class TrainingJob:
    """One organism.

    Attributes:
        recipe: the name of its recipe.
        base: the folder of a finished organism that begins alike; empty where there is none.
    """

    recipe: str
    seed: int
    folder: str
    base: str = ""


@dataclass(frozen=True)
class MeasuringJob:
    """One hypothesis on one model.

    Attributes:
        fingerprint: of the organism, as it was when it was trained.
        seed: of what is drawn while measuring.
        beside: the same of the model that it is compared with, where it is.
    """

    hypothesis: str
    arm: Arm
    organism: int
    folder: str
    fingerprint: str
    seed: int
    beside: MeasuringJob | None = None


@dataclass(frozen=True)
class Working:
    """What a worker starts with; it keeps the models that it has loaded. See `interp.execute`."""

    phenomenon: Phenomenon[Any]
    device: str | None
    dtype: str

    def __call__(self) -> Callable[[TrainingJob | MeasuringJob], Any]:
        subjects: dict[tuple[str, int], Subject[Any]] = {}

        def work(job: TrainingJob | MeasuringJob) -> Any:
            if isinstance(job, TrainingJob):
                return self.train(job, tell)
            return self.measure(job, subjects, tell)

        return work

    def train(self, job: TrainingJob, progress: Progress | None = None) -> pd.DataFrame:
        """Train, or go on: a row with the weights' fingerprint, steps and the last loss (nats)."""
        recipe, folder = self.phenomenon.recipe(job.recipe, job.seed), Path(job.folder)
        # What a link leads to is not ours to replace.
        real_folder(folder.parent.parent, folder.parent.name, folder.name)
        base = Path(job.base) if job.base else None
        try:
            train_recipe(recipe, folder, progress, base=base)
        except OrganismError:
            # Left by another version, or damaged. What cannot be written fails again, and says so.
            discard(folder)
            train_recipe(recipe, folder, progress, base=base)
        record = read_json(folder / ORGANISM_FILE)
        fingerprint = load_model(str(folder), device="cpu").fingerprint
        row = {
            "recipe": job.recipe,
            "seed": job.seed,
            "fingerprint": fingerprint,
            "steps": recipe.steps,
            "loss": float(record["losses"][-1]),
        }
        return pd.DataFrame([row])

    def measure(
        self,
        job: MeasuringJob,
        subjects: dict[tuple[str, int], Subject[Any]],
        progress: Progress | None = None,
    ) -> xr.Dataset:
        """What one hypothesis measures; `subjects` are models that were loaded before."""
        subject = self._kept(job, subjects)
        if job.beside is not None:
            subject = replace(subject, beside=self._kept(job.beside, subjects).model)
        return measured(self.phenomenon, job.hypothesis, subject, job.seed, progress)

    def _kept(
        self, job: MeasuringJob, subjects: dict[tuple[str, int], Subject[Any]]
    ) -> Subject[Any]:
        key = job.arm.name, job.organism
        if key not in subjects:
            subjects[key] = self._subject(job)
        return subjects[key]

    def _subject(self, job: MeasuringJob) -> Subject[Any]:
        recipe = self.phenomenon.recipe(job.arm.trained_by, job.organism)
        folder = Path(job.folder)
        # It was trained before; whoever took it away since gets it back.
        with _alone_in(folder):
            train_recipe(recipe, folder)
        if load_model(str(folder), device="cpu").fingerprint != job.fingerprint:
            raise RunError(
                f"The model in '{folder}' is not the one that was trained there; use --fresh."
            )
        place = model_after(folder, recipe, job.arm.after)
        model = load_model(str(place), device=self.device, dtype=self.dtype)
        path = folder / DATA_FILE
        data = self.phenomenon.read(read_data(path), path)
        check_asked(self.phenomenon, model, data, path)
        return Subject(model, data, job.arm.name, job.organism)


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other worker trains there: arms of one recipe share its folder."""
    with storage_errors(folder, "locked"):
        descriptor = os.open(folder.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def measured(
    phenomenon: Phenomenon[Any],
    hypothesis: str,
    subject: Subject[Any],
    seed: int,
    progress: Progress | None = None,
) -> xr.Dataset:
    """What a hypothesis measures in a model, with the model's identity."""
    one = {each.name: each for each in phenomenon.hypotheses}[hypothesis]
    with fitting_threads(subject.model):
        found = one.measure(subject, seed, progress or _silent)
    identity: Mapping[str, Any] = subject.model.identity
    return found.assign_attrs({**identity, **found.attrs})


def check_asked(phenomenon: Phenomenon[Any], model: Model, data: Any, path: Path) -> None:
    """Raise a FactsError unless the model can read all that it is asked."""
    asked = phenomenon.asked(data)
    check_readable(
        model,
        [one.prompt for one in asked],
        [one.answer for one in asked],
        [f"'{path}', {one.where}" for one in asked],
    )
    some = [one for one in asked if one.unlike]
    check_told_apart(
        model,
        [one.prompt for one in some],
        [one.answer for one in some],
        [one.unlike for one in some],
        [f"'{path}', {one.where}" for one in some],
    )


def _silent(done: int, total: int) -> None:
    return None
