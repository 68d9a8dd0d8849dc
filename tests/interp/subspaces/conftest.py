"""Planted models, built once."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import xarray as xr

from interp.subspaces.das import fit_das
from tests.interp.subspaces.planted import ENTITY, LAST, Kind, Planted, planted


@pytest.fixture(scope="package")
def model_of() -> Callable[[Kind], Planted]:
    """The planted model of a kind."""
    return functools.cache(planted)


@pytest.fixture(scope="package")
def search_of(model_of: Callable[[Kind], Planted]) -> Callable[[Kind], xr.Dataset]:
    """What a search finds in it, before each block at both positions."""

    @functools.cache
    def get(kind: Kind) -> xr.Dataset:
        made = model_of(kind)
        return fit_das(
            made.model,
            made.pairs(),
            site="resid_pre",
            positions=[ENTITY, LAST],
            ranks=[1, 3, 5],
        )

    return get
