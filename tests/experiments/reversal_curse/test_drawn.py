"""Figures of H4, H5 and H6 show the numbers of their verdicts, and nothing where there is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import xarray as xr

from experiments.figure import Figure
from experiments.reversal_curse.hypotheses import association, attribution, gradients
from interp.figures.drawing.dots import Dots, interval_dots

REFUSED = xr.Dataset(attrs={"refused": "there is nothing"})


def crossed(values: np.ndarray, **more: Any) -> xr.Dataset:
    n = values.shape[-1]
    return xr.Dataset(
        coords={
            "question": ("example", np.arange(n)),
            "words": ("example", ["mother · <b>son</b>"] * n),
            "right": (("example", "name"), np.eye(n, dtype=bool)),
            "first_token": ("name", np.arange(n)),
            **more,
        }
    )


def written(planted: float, seed: int) -> xr.Dataset:
    values = np.random.default_rng(seed).normal(size=(3, 12, 12)) + planted * np.eye(12)
    there = crossed(values, component=["input", "m0", "m1"])
    return there.assign(contribution=(("component", "example", "name"), values))


def associated(planted: float, seed: int) -> xr.Dataset:
    values = np.random.default_rng(seed).normal(size=(2, 12, 12)) + planted * np.eye(12)
    there = crossed(values, path=["m0>a1", "all paths"])
    return there.assign(association=(("path", "example", "name"), values))


def coupled(planted: float, seed: int) -> xr.Dataset:
    values = 0.01 * np.random.default_rng(seed).normal(size=(12, 12)) + planted * np.eye(12)
    there = crossed(values, block=("example", np.zeros(12, np.int64)))
    return there.assign(cosine=(("example", "name"), values))


CASES: dict[str, tuple[Figure, Callable[[float, int], xr.Dataset], tuple[float, ...], int]] = {
    "H4": (attribution.FIGURE, written, (0, 4, 0, 4), 4),
    "H5": (association.FIGURE, associated, (0, 4, 0, 4), 2),
    "H6": (gradients.FIGURE, coupled, (0, 0, 0.7, 0.7, 0), 3),
}


@pytest.mark.parametrize("name", CASES)
def test_rows_hold_the_means_of_the_stored_results(name: str) -> None:
    figure, make, planted, rows = CASES[name]
    assert len(figure.results) == len(planted)
    drawn = figure.draw(*(make(one, seed) for seed, one in enumerate(planted)))
    means = [trace for trace in drawn.data if trace.error_x.array is not None]
    assert len(drawn.layout.yaxis.ticktext) == rows
    told, back = means[0], means[1]
    assert np.max(told.x) > 5 * np.max(np.abs(back.x)) * (0.2 if name == "H5" else 0.5)
    assert all("&gt;" not in label for label in drawn.layout.yaxis.ticktext)


@pytest.mark.parametrize("name", CASES)
def test_refused_results_are_drawn_as_nothing(name: str) -> None:
    figure, _, planted, _ = CASES[name]
    drawn = figure.draw(*[REFUSED] * len(planted))
    assert not drawn.data
    assert drawn.layout.annotations


def test_labels_are_text_and_a_missing_interval_is_none() -> None:
    one = Dots("<i>", "#0072B2", ("<b>row</b>",), (1.0,), (np.nan,), (np.nan,))
    drawn = interval_dots(("<b>row</b>",), [one], margin=0.5, axis="<nats>")
    assert drawn.layout.yaxis.ticktext == ("&lt;b&gt;row&lt;/b&gt;",)
    assert drawn.layout.xaxis.title.text == "&lt;nats&gt;"
    assert drawn.data[0].error_x.array == (0.0,)
