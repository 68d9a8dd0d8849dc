"""One thread for models and data this small, and the organism."""

from __future__ import annotations

import pytest

from experiments.organisms.relations import World, generate_world
from interp import load_model
from interp.model.model import Model
from tests.threads import one_thread

__all__ = ["one_thread"]


@pytest.fixture(scope="session")
def organism() -> Model:
    """The bundled organism."""
    return load_model("reversal-curse")


@pytest.fixture(scope="session")
def world() -> World:
    """What the organism was told of; 4 is the seed it was trained with."""
    return generate_world(4)
