"""Maps of transplants and back-patching: cells where they belong, missing ones, hostile text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr

from interp.errors import PromptError, SiteError
from interp.figures import back_patching_map, transplant_map
from tests.interp.figures.conftest import HOSTILE, assert_safe, cells, traces


def transplanted(**attrs: str) -> xr.Dataset:
    """Two examples, three source and two target layers; the second lacks the last target place."""
    source, target, at = np.indices((3, 2, 2)).astype(float)
    patched = np.stack([100 * target + 10 * source + at, 200 * target + 20 * source + at])
    patched[1, ..., 1] = np.nan
    axes = ("example", "source_layer", "target_layer", "target_position")
    tokens = np.full((*patched.shape, 2), " Tom", dtype=object)
    tokens[..., 1] = HOSTILE
    return xr.Dataset(
        {
            "patched": (axes, patched),
            "unpatched": ("example", [1.0, 3.0]),
            "top_token": ((*axes, "k"), tokens),
            "top_prob": ((*axes, "k"), np.broadcast_to([0.5, 0.25], tokens.shape)),
        },
        coords={
            "source_layer": [0, 2, 4],
            "target_layer": [1, 3],
            "target_position": ["subject -1", HOSTILE],
        },
        attrs={
            "instrument": "transplant",
            "site": "resid_post",
            "metric": "answer_logprob",
            "unit": "nats",
            **attrs,
        },
    )


def test_rows_are_target_layers_and_columns_source_layers() -> None:
    fig = transplant_map(transplanted().isel(target_position=0))
    values = traces(fig, "values")[0]
    # Means over two examples: 15 · source + 150 · target, unpatched 2.
    np.testing.assert_allclose(values.z, [[-2, 13, 28], [148, 163, 178]])
    assert (values.zmin, values.zmax) == (-178, 178)
    assert list(fig.layout.yaxis.ticktext) == ["1", "3"]
    assert list(fig.layout.xaxis.ticktext) == ["0", "2", "4"]
    hover = cells(fig)[(1, 2)]
    assert "read at layer 4, read at" not in hover
    assert "read at layer 4, written at layer 3, written at subject -1" in hover
    assert "180.00" in hover
    assert "unpatched 2.00, moved by 178.00" in hover
    assert "2 examples" in hover


def test_a_change_is_that_of_the_examples_in_the_cell() -> None:
    result = transplanted().sel(source_layer=2)
    fig = transplant_map(result)
    # In the second place only the first example: 10 + 1 − 1 and 100 + 10 + 1 − 1.
    np.testing.assert_allclose(traces(fig, "values")[0].z, [[13, 10], [163, 110]])
    assert "1 example" in cells(fig)[(0, 1)]
    assert_safe(fig)
    alone = transplant_map(result, example=1)
    assert np.isnan(np.asarray(traces(alone, "values")[0].z)[:, 1]).all()
    assert "no example has such a place" in cells(alone)[(0, 1)]


def test_the_metric_itself_is_drawn_around_its_unpatched_value() -> None:
    result = transplanted().isel(target_position=0)
    fig = transplant_map(result, value="raw", example=0, limit=50)
    values = traces(fig, "values")[0]
    assert (values.zmin, values.zmax) == (-49, 51)
    notes = [note.text for note in fig.layout.annotations]
    assert notes[0] == "Green is above the unpatched 1.00, purple below it."
    assert notes[1] == "3 cells lie beyond ±50."


def test_next_tokens_are_drawn_with_their_probability() -> None:
    fig = transplant_map(transplanted().isel(target_position=0), value="token", example=0)
    np.testing.assert_allclose(traces(fig, "values")[0].z, 0.5)
    assert "50.0%  ‘·Tom’" in cells(fig)[(0, 0)]
    assert_safe(fig)
    without = transplanted().isel(target_position=0).drop_vars(["patched", "unpatched"])
    assert transplant_map(without, example=1).data


def test_what_cannot_be_drawn_is_refused() -> None:
    result = transplanted()
    one = result.isel(target_position=0)
    for error, message, make in (
        (SiteError, "two axes", lambda: transplant_map(result)),
        (SiteError, "two axes", lambda: transplant_map(one.isel(source_layer=0))),
        (PromptError, "no example 2", lambda: transplant_map(one, example=2)),
        (PromptError, "choose an example", lambda: transplant_map(one, value="token")),
        (
            SiteError,
            "next_tokens",
            lambda: transplant_map(one.drop_vars(["top_token", "top_prob"]), value="token"),
        ),
        (SiteError, "answers", lambda: transplant_map(one.drop_vars("patched"), value="raw")),
    ):
        with pytest.raises(error, match=message):
            make()


def back_patched() -> xr.Dataset:
    mended = np.full((2, 4, 3, 3), np.nan)
    for source, target in ((1, 0), (2, 0), (2, 1)):
        mended[0, :3, source, target] = [1, source == 2, 0]
        mended[1, :3, source, target] = 0
    numbers: dict[str, Any] = {
        "chosen_source_layer": [5, 3],
        "chosen_target_layer": [3, 2],
        "held_out_rate": [0.5, 0.0],
        "chosen_rate": [0.6, 0.1],
    }
    return xr.Dataset(
        {
            "mended": (("search", "example", "source_layer", "target_layer"), mended),
            **{name: ("search", values) for name, values in numbers.items()},
        },
        coords={
            "search": ["own", "mismatched"],
            "source_layer": [2, 3, 5],
            "target_layer": [2, 3, 5],
        },
        attrs={"instrument": "back-patching", "site": "resid_post", "statement": HOSTILE},
    )


def test_each_pair_of_layers_stands_in_its_cell_and_the_chosen_one_is_outlined() -> None:
    fig = back_patching_map(back_patched())
    values = traces(fig, "values")[0]
    nan = np.nan
    expected = [[nan, 1 / 3, 2 / 3], [nan, nan, 2 / 3], [nan, nan, nan]]
    np.testing.assert_allclose(values.z, expected)
    hover = cells(fig)
    assert "mends <b>66.7%</b> of 3 cases" in hover[(3, 2)]
    assert "not an earlier layer" in hover[(5, 0)]
    frame = fig.layout.shapes[-1]
    assert (frame.x0, frame.y0) == (1.5, 0.5)  # read at 5, the third; written at 3, the second
    assert_safe(fig)
    nothing = back_patched().assign(chosen_rate=("search", [0.0, 0.0]))
    assert not back_patching_map(nothing).layout.shapes
    other = back_patching_map(back_patched(), "mismatched")
    assert (other.layout.shapes[-1].x0, other.layout.shapes[-1].y0) == (0.5, -0.5)
    assert np.nansum(np.asarray(traces(other, "values")[0].z)) == 0
