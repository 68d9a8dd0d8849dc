"""Asking all models that were kept along a training, as a job."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from app.compute import along
from app.compute.along import Kept
from app.compute.background.request import Form, Request, check_alike
from app.compute.background.spot_checks import check_numbers, drawn
from app.compute.models import touched
from app.compute.turns import ModelSpec
from experiments.errors import StorageError
from experiments.explorer import Examples
from experiments.reporter import Progress

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from interp.model.model import Model

_STEPS_AGAIN = 2
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Answers:
    """Attributes:
    found: what the models answer, of `along.joined`.
    table: the examples that they are asked.
    """

    found: xr.Dataset
    table: pd.DataFrame


def request(
    checkpoints: tuple[tuple[int, ModelSpec], ...],
    examples: Examples,
    asked: tuple[str, ...] | None,
    kept: Kept,
    load: Callable[[ModelSpec], Model],
    title: str,
) -> Request[Answers]:
    """All models asked the same, the earliest first.

    Args:
        asked: all questions and answers; None for those that the models bring along.
        kept: what was found before, with the table of these questions if there is one.
        load: gives a model that is not kept.
        title: of the training.
    """
    last = checkpoints[-1]
    ways = tuple(way.name for way in examples.ways)
    measured = (examples.many, examples.key, examples.group, ways)

    def of(model: Model) -> Callable[[ModelSpec], Model]:
        # The last one is there: it is the one that the job is asked of.
        return lambda spec: model if spec == last[1] else load(spec)

    def work(model: Model, tell: Progress) -> Iterator[Answers]:
        for found in along.asking(of(model), checkpoints, examples, kept, tell):
            assert kept.table is not None  # there since the first was asked
            yield Answers(found, kept.table)

    def content() -> Any:
        steps = [[step, _digest(spec)] for step, spec in checkpoints]
        return [steps, last[1].dtype, measured, asked]

    def read(stored: xr.Dataset, model: Model) -> Answers:
        import xarray as xr

        table = kept.table
        if table is None:
            table = along.brought(model, examples, last[0], _nothing)
        own = along.ask(model, examples, table, _nothing)
        steps = [step for step, _ in checkpoints]
        like = xr.concat([own] * len(steps), "step", coords="minimal", compat="override")
        like = like.assign_coords(own.coords).assign_coords(step=steps)
        check_alike(stored, like, ("d_vocab",))
        check(stored.sel(step=last[0]), own, model)
        for number in drawn(len(steps) - 1, _STEPS_AGAIN):
            other = load(checkpoints[number][1])
            again = along.ask(other, examples, table, _nothing)
            check(stored.sel(step=steps[number]), again, other)
        kept.table = table
        kept.by_step.update({step: stored.sel(step=step).drop_vars("step") for step in steps})
        return Answers(stored, table)

    return Request(
        last[1],
        (
            "asked-along",
            tuple((step, spec, touched(spec)) for step, spec in checkpoints),
            *(measured, asked),
        ),
        f"{len(checkpoints)} models asked along {title}",
        work,
        "models asked",
        Form(
            lambda one: one.found,
            read,
            f"The last model and up to {_STEPS_AGAIN} others, drawn at random, were asked again.",
        ),
        gives_way=True,
        content=content,
    )


def check(stored: xr.Dataset, own: xr.Dataset, model: Model) -> None:
    """Raise a ValueError unless what is stored of a model is what it answers."""
    rounding = 0.002 if model.dtype.itemsize > 2 else 0.1
    check_numbers(stored["top_prob"].values, own["top_prob"].values, rounding, "probabilities")
    check_numbers(stored["preference"].values, own["preference"].values, 10 * rounding)
    # Of tokens that are as likely the order may change with the computer.
    ranks = 1 + 0.01 * float(own.attrs["d_vocab"])
    check_numbers(stored["rank"].values, own["rank"].values, ranks, "ranks")
    for name in ("correct", "top_token"):
        same = np.asarray(stored[name].values == own[name].values)
        if same.mean() < 0.9:
            raise ValueError(f"its '{name}' are not those of the model")


def _nothing(*_: int) -> None:
    """Nobody is told."""


def _digest(spec: ModelSpec) -> str:
    """What a model's folder holds, wherever it lies."""
    folder, told = Path(spec.source), hashlib.sha256()
    try:
        for path in sorted(path for path in folder.iterdir() if path.is_file()):
            size, when = path.stat().st_size, path.stat().st_mtime_ns
            told.update(f"{path.name} {_file_digest(str(path), size, when)}\n".encode())
    except OSError as error:
        raise StorageError(
            f"The model in '{folder}' cannot be read ({error.strerror}); look whether it is there."
        ) from error
    return told.hexdigest()


@functools.lru_cache(maxsize=4096)
def _file_digest(path: str, size: int, when: int) -> str:
    told = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            told.update(chunk)
    return told.hexdigest()
