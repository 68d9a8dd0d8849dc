"""Values at labels are those that xarray selects."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from experiments.phenomena.cells import cell

FOUND = xr.Dataset(
    {"value": (("way", "layer", "example"), np.arange(24.0).reshape(2, 3, 4)), "one": 7.0},
    {"way": ["to", "fro"], "layer": [0, 2, 4]},
)


@pytest.mark.parametrize("labels", [{}, {"way": "fro"}, {"layer": 4}, {"layer": 2, "way": "to"}])
def test_it_is_what_xarray_selects(labels: dict[str, object]) -> None:
    expected = FOUND["value"].sel(labels).values
    np.testing.assert_array_equal(cell(FOUND, "value", **labels), expected)
    assert cell(FOUND, "one") == 7.0


@pytest.mark.parametrize(
    ("name", "labels"),
    [("other", {}), ("value", {"way": "nowhere"}), ("value", {"seed": 0}), ("one", {"way": "to"})],
)
def test_what_is_not_there_is_refused(name: str, labels: dict[str, object]) -> None:
    with pytest.raises(KeyError):
        cell(FOUND, name, **labels)
