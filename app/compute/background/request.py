"""What is asked of a model, as a job does it."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import asdict, dataclass, is_dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from app.compute.turns import ModelSpec
from experiments.reporter import Progress

if TYPE_CHECKING:
    import xarray as xr

    from interp.model.model import Model

T = TypeVar("T")


@dataclass(frozen=True)
class Form(Generic[T]):
    """How a result is written into a file, and read with suspicion.

    Attributes:
        to_dataset: the result as labelled arrays.
        from_dataset: the inverse, of what was found in a file; raises an ObverseError or a
            ValueError, KeyError or TypeError where that is not the result of this request.
    checked: what is tried again on the model before a result that was read is believed, as a
        sentence.
    """

    to_dataset: Callable[[T], xr.Dataset]
    from_dataset: Callable[[xr.Dataset, Model], T]
    checked: str


@dataclass(frozen=True)
class Request(Generic[T]):
    """Attributes:
    spec: the model.
    key: the kind of request and whatever else decides the result beside the model; texts,
        numbers, tuples and dataclasses of these.
    title: what it is, for people.
    work: yields better and better results, and tells (done, in all) in between; others get their
        turn after each.
    unit: what is counted: "cells run".
    form: how the last result is kept; None where it is not.
    gives_way: whether others get their turn also whenever the work tells how far it is; see
        `Turns.in_steps`.
    content: gives what decides the result, where the key tells of it by files that may be moved;
        it is called where the work is done. None for the key.
    others: fingerprints of further models that it is of.
    """

    spec: ModelSpec
    key: tuple[Hashable, ...]
    title: str
    work: Callable[[Model, Progress], Iterator[T]]
    unit: str = "steps done"
    form: Form[T] | None = None
    gives_way: bool = False
    content: Callable[[], Any] | None = None
    others: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        return str(self.key[0])

    @property
    def asked(self) -> Any:
        """The key but for its kind, as JSON holds it."""
        return json.loads(self.written)[1:]

    @functools.cached_property
    def written(self) -> str:
        """The key as JSON; of hundreds of prompts it is not written anew whenever it is looked
        up."""
        return json.dumps(self.key, default=_plain, allow_nan=False)


def in_one(work: Callable[[Model, Progress], T]) -> Callable[[Model, Progress], Iterator[T]]:
    """Work that gives one result, at its end."""

    def steps(model: Model, tell: Progress) -> Iterator[T]:
        yield work(model, tell)

    return steps


def _plain(value: object) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a {type(value).__name__} cannot stand in a request")


def check_alike(stored: xr.Dataset, like: xr.Dataset, attrs: Iterable[str]) -> None:
    """Raise a ValueError unless something that was read has the variables, sizes, types, and
    coordinates of another dataset, and these of its attributes."""
    if set(stored.variables) != set(like.variables):
        raise ValueError("it has other variables")
    for name, wanted in like.variables.items():
        found = stored.variables[name]
        text = wanted.dtype.kind in "OSUT"
        if found.dims != wanted.dims or found.shape != wanted.shape:
            raise ValueError(f"'{name}' has another shape")
        if found.dtype.kind != wanted.dtype.kind and not (text and found.dtype.kind in "OSUT"):
            raise ValueError(f"'{name}' is of another type")
        if name in like.coords and list(map(str, found.values.flat)) != list(
            map(str, wanted.values.flat)
        ):
            raise ValueError(f"'{name}' names something else")
    for name in attrs:
        if stored.attrs.get(name) != like.attrs.get(name):
            raise ValueError(f"its {name} is another one")
