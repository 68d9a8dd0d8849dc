"""Dose–response curves show what was measured, and what random directions do beside it."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from interp.errors import DirectionError
from interp.figures import dose_lines
from tests.interp.figures.conftest import traces


def result(draws: int = 40, examples: int = 6) -> xr.Dataset:
    rng = np.random.default_rng(0)
    doses = np.array([2.0, -1.0, 0.0])
    value = doses * 3 + rng.normal(size=(examples, 1))
    control = rng.normal(size=(examples, 3, draws))
    return xr.Dataset(
        {
            "value": (("example", "dose"), value),
            "control": (("example", "dose", "draw"), control),
            "plain": ("example", value[:, 2]),
        },
        {"dose": doses},
        {"metric": "logit_diff", "unit": "logits", "kind": "add"},
    )


def test_the_direction_and_the_random_ones_are_drawn_as_means() -> None:
    data = result()
    fig = dose_lines(data, title="Steering")
    own, control = traces(fig, "direction")[0], traces(fig, "40 random directions")[0]
    assert list(own.x) == [-1.0, 0.0, 2.0]
    ordered = data.sortby("dose")
    np.testing.assert_allclose(own.y, ordered["value"].mean("example"))
    np.testing.assert_allclose(control.y, ordered["control"].mean(("example", "draw")))
    band = traces(fig, "random directions, middle 95%")[0]
    means = ordered["control"].mean("example").values
    expected = np.quantile(means, [0.025, 0.975], axis=1)
    np.testing.assert_allclose(band.y, [*expected[1], *expected[0][::-1]])
    high, low = np.split(np.array(traces(fig, "direction, 95%")[0].y), 2)
    assert (low[::-1] < own.y).all()
    assert (high > own.y).all()
    (line,) = fig.layout.shapes
    assert line.y0 == pytest.approx(float(data["plain"].mean()))
    assert fig.layout.yaxis.title.text == "logit diff (logits)"
    assert "−1.00" in own.text[0]


def test_without_controls_or_with_one_example_there_is_no_band() -> None:
    fig = dose_lines(result(draws=0, examples=1))
    assert [trace.name for trace in fig.data] == ["direction"]


def test_few_examples_have_no_interval_and_the_hover_says_why() -> None:
    fig = dose_lines(result(examples=4))
    assert not traces(fig, "direction, 95%")
    text = traces(fig, "direction")[0].text[0]
    assert "no interval: 4 independent examples, and at least 5 are needed" in text
    twice = result(examples=8).assign_coords(prompt=("example", [*"aabbccdd"]))
    assert "no interval: 4 independent" in traces(dose_lines(twice), "direction")[0].text[0]
    assert "95%: " in traces(dose_lines(result()), "direction")[0].text[0]


def test_other_results_are_refused() -> None:
    with pytest.raises(DirectionError, match="no dose response"):
        dose_lines(result().drop_vars("plain"))
