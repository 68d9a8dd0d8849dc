"""One thread for models and data this small, and the organism."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from experiments.organisms.relations import World, generate_world
from interp import load_model
from interp.model import Model


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """A second thread is of no use here, and waits for a core that is taken."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def organism() -> Model:
    """The bundled organism."""
    return load_model("reversal-curse")


@pytest.fixture(scope="session")
def world() -> World:
    """What the organism was told of; 4 is the seed it was trained with."""
    return generate_world(4)
