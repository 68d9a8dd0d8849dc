"""Results as tables: each number once."""

from __future__ import annotations

import numpy as np
import xarray as xr

from app.text.rows import rows


def test_numbers_of_other_dimensions_are_not_crossed_with_one_another() -> None:
    table = rows(
        xr.Dataset(
            {
                "score": (("layer", "example"), np.arange(6.0).reshape(2, 3)),
                "whole": ("example", [7.0, 8.0, 9.0]),
                "random": ("draw", [0.5, 0.25]),
            },
            coords={"layer": [4, 5], "prompt": ("example", ["a", "b", "c"])},
        )
    )
    assert len(table) == 6 + 2
    assert table["random"].dropna().tolist() == [0.5, 0.25]
    assert table["score"].dropna().tolist() == list(np.arange(6.0))
    # What is told of an example stands beside each of its numbers.
    cell = table[(table["layer"] == 5) & (table["example"] == 1)]
    assert cell[["score", "whole", "prompt"]].to_numpy().tolist() == [[4.0, 8.0, "b"]]


def test_coordinates_of_several_dimensions_are_columns_too() -> None:
    result = xr.Dataset(
        {"score": (("site", "example"), np.ones((2, 2))), "mean": ("site", [1.0, 2.0])},
        coords={
            "token": (("site", "example"), [["a", "b"], ["c", "d"]]),
            "null": (("site", "null"), np.zeros((2, 3))),  # called as its dimension is
        },
    )
    table = rows(result)
    assert table["token"].tolist() == ["a", "b", "c", "d"]
    assert table["mean"].tolist() == [1.0, 1.0, 2.0, 2.0]
