"""Which models stay in memory."""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import Any

import pytest

from app.compute.models import Models
from app.compute.turns import ModelSpec
from interp.errors import DoesNotFit


class Held:
    """Stands for a model."""


@pytest.fixture
def specs(tmp_path: Path) -> list[ModelSpec]:
    """Three models that are folders."""
    for name in "abc":
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    return [ModelSpec(str(tmp_path / name)) for name in "abc"]


def loader(full: int = 9) -> Models:
    """Loads models, of which memory has no room for `full` and one more."""
    alive: weakref.WeakSet[Any] = weakref.WeakSet()

    def load(spec: ModelSpec) -> Any:
        if len(alive) >= full:
            raise DoesNotFit("No room is left.")
        model = Held()
        alive.add(model)
        return model

    return Models(load)


def there(models: Models, specs: list[ModelSpec]) -> list[bool]:
    return [models.there(spec) is not None for spec in specs]


def test_the_one_used_longest_ago_makes_room_for_a_third(specs: list[ModelSpec]) -> None:
    models = loader()
    first = models.get(specs[0])
    models.get(specs[1])
    assert there(models, specs) == [True, True, False]
    assert models.get(specs[0]) is first
    models.get(specs[2])
    assert there(models, specs) == [True, False, True]


def test_a_folder_written_to_takes_the_place_of_what_it_held(specs: list[ModelSpec]) -> None:
    models = loader(full=2)
    models.get(specs[0])
    models.get(specs[1])
    os.utime(Path(specs[1].source) / "config.json", (2e9, 2e9))
    assert there(models, specs) == [True, False, False]
    models.get(specs[1])
    assert there(models, specs) == [True, True, False]  # the other one has not made room


def test_where_one_does_not_fit_all_make_room(specs: list[ModelSpec]) -> None:
    models = loader(full=1)
    models.get(specs[0])
    models.get(specs[1])
    assert there(models, specs) == [False, True, False]
    models.release(specs[1])
    assert there(models, specs) == [False, False, False]
