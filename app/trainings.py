"""Trainings along which models were kept or asked, as they lie on the disk.

A model that was kept is opened only where it lies in the run that is open or beside the model that
is open, and is no link: neither what a run stores nor what its folders are called leads elsewhere.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from pathlib import Path

import pandas as pd

from app.compute.engine import ModelSpec
from app.runs import Run
from experiments.explorer import Trainings

OWN = "model"
"""The name of the training that the open model itself comes from."""

_STEPS = "steps"
_STEP = re.compile(r"(?:step|checkpoint|global_step|iter)[-_]?([0-9]{1,9})\Z")
_BARE = re.compile(r"(?:(?:step|checkpoint|global_step|iter)[-_]?)?([0-9]{1,9})\Z")
_PART = re.compile(r"[A-Za-z0-9][\w-]{0,99}\Z")


@dataclass(frozen=True)
class Training:
    """One training.

    Attributes:
        name: in links.
        title: for people.
        arm, seed: which rows of the study's table are of it; None where it has none there.
        checkpoints: (step, model) of those that were kept, in the order of their steps.
    """

    name: str
    title: str
    arm: str | None = None
    seed: int | None = None
    checkpoints: tuple[tuple[int, ModelSpec], ...] = ()

    @property
    def steps(self) -> tuple[int, ...]:
        return tuple(step for step, _ in self.checkpoints)

    @property
    def bytes(self) -> int:
        """How large the weights of all checkpoints are together."""
        return sum(_size(Path(spec.source)) for _, spec in self.checkpoints)


def of_run(run: Run, told: Trainings | None, table: pd.DataFrame | None) -> list[Training]:
    """The trainings that a run's study has stored, and the one of the model that was studied.

    Args:
        told: what the study tells of its trainings.
        table: as it is stored.
    """
    found = []
    if told is not None and table is not None:
        pairs = table[["arm", "seed"]].drop_duplicates()
        for arm, seed in zip(pairs["arm"].astype(str), pairs["seed"].astype(int), strict=True):
            kept = _kept(run, told.folder.format(arm=arm, seed=seed), arm)
            found.append(Training(f"{arm}-{seed}", f"{arm}, seed {seed}", arm, seed, kept))
    own = beside(run.model)
    return found if own is None else [*found, own]


def usable(told: Trainings, table: pd.DataFrame) -> bool:
    """Whether a stored table has the columns that the study tells of; it may be anybody's."""
    ends = [end for one in told.measures for end in one.interval or ()]
    chances = [one.chance for one in told.measures if isinstance(one.chance, str)]
    values = [one.value for one in told.measures]
    numbers = {"seed", "step", told.n, *values, *ends, *chances}
    if not {"arm", told.way, *numbers} <= set(table.columns):
        return False
    whole = all(pd.api.types.is_integer_dtype(table[name]) for name in ("seed", "step"))
    return whole and all(pd.api.types.is_numeric_dtype(table[name]) for name in numbers)


def beside(model: ModelSpec) -> Training | None:
    """The training that a model comes from, where models along it lie in its folder or, as `step-N`
    or `checkpoint-N`, beside it; None without."""
    from interp.loading.where import ENTRY_POINT_GROUP

    bundled = {point.name for point in entry_points(group=ENTRY_POINT_GROUP)}
    if not model.source or model.source in bundled or model.revision is not None:
        return None
    folder = Path(os.path.abspath(os.path.expanduser(model.source)))
    if not os.path.isdir(folder):  # a model of the hub
        return None
    places = [(folder / _STEPS, _BARE)] if _is_folder(folder / _STEPS) else []
    places.append((folder, _STEP))
    if _STEP.match(folder.name) or (folder.parent.name == _STEPS and _BARE.match(folder.name)):
        places.append((folder.parent, _BARE if folder.parent.name == _STEPS else _STEP))
    for place, pattern in places:
        kept = _steps_in(place, pattern, model)
        if len(kept) > 1:
            return Training(OWN, f"the training of {folder.name}", checkpoints=kept)
    return None


def _kept(run: Run, folder: str, arm: str) -> tuple[tuple[int, ModelSpec], ...]:
    """Models in a training's folder below the run's own work folder."""
    parts = folder.split("/")
    if not _PART.match(arm) or not all(_PART.match(part) for part in parts):
        return ()
    place = run.record.path.absolute()
    for part in ("work", *parts, _STEPS):
        place = place / part
        if not _is_folder(place):
            return ()
    return _steps_in(place, _BARE, replace(run.model, revision=None))


def _steps_in(
    place: Path, pattern: re.Pattern[str], model: ModelSpec
) -> tuple[tuple[int, ModelSpec], ...]:
    found: dict[int, ModelSpec] = {}
    try:
        names = sorted(os.listdir(place))
    except OSError:
        return ()
    for name in names:
        match = pattern.match(name)
        if match and _is_checkpoint(place / name):
            spec = replace(model, source=str(place / name), revision=None)
            found.setdefault(int(match[1]), spec)
    return tuple(sorted(found.items()))


def _is_checkpoint(folder: Path) -> bool:
    """Whether it is a folder with a configuration and weights, none of whose files is a link."""
    if not _is_folder(folder):
        return False
    try:
        with os.scandir(folder) as entries:
            found = {entry.name: entry.is_symlink() for entry in entries}
    except OSError:
        return False
    weights = any(name.endswith(".safetensors") for name in found)
    return "config.json" in found and weights and not any(found.values())


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def _size(folder: Path) -> int:
    try:
        return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    except OSError:
        return 0
