"""Models of several architectures, built once for all tests of the room."""

from __future__ import annotations

import pytest

from tests.interp.vectors.whole_passes import NAMES, Built


@pytest.fixture(scope="package", params=NAMES)
def built(request: pytest.FixtureRequest) -> Built:
    """Each architecture in turn."""
    return Built(request.param)


@pytest.fixture(scope="package")
def gpt2() -> Built:
    """GPT-2, where one architecture is enough."""
    return Built("GPT-2")
