"""Models to compare, built once."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest

from tests.interp.comparison import organisms
from tests.interp.comparison.by_hand import Two
from tests.interp.comparison.organisms import Organisms


@pytest.fixture(scope="session")
def two() -> Callable[[str], Two]:
    """Two models of an architecture."""
    return functools.cache(Two.build)


@pytest.fixture(scope="session")
def planted() -> Organisms:
    """A base, a model with something planted, and its twin."""
    return organisms.build()
