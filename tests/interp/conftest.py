"""Tiny models, built once for all tests of the instruments."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest

from tests.interp import tiny as builders
from tests.interp.tiny import Tiny
from tests.threads import one_thread

__all__ = ["one_thread"]


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Tiny]:
    """The tiny model of an architecture, by its name."""

    @functools.cache
    def get(name: str) -> Tiny:
        return builders.build(name, tmp_path_factory.mktemp("tiny") / name)

    return get


@pytest.fixture(scope="session", params=builders.BUILDERS)
def tiny(request: pytest.FixtureRequest, zoo: Callable[[str], Tiny]) -> Tiny:
    """Each architecture in turn."""
    return zoo(request.param)


@pytest.fixture(scope="session")
def llama(zoo: Callable[[str], Tiny]) -> Tiny:
    """The tiny Llama, where one architecture is enough."""
    return zoo("llama")


@pytest.fixture(scope="session")
def gpt2(zoo: Callable[[str], Tiny]) -> Tiny:
    """The tiny GPT-2, where one architecture is enough."""
    return zoo("gpt2")
