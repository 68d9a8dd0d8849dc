"""Figures of a search show accuracies beside their controls, and what is not clear as such."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import pytest
import xarray as xr

from interp.errors import PromptError
from interp.figures import subspace_lines, subspace_map
from interp.subspaces.controls import CONTROLS, Hits
from interp.subspaces.report import describe
from tests.interp.figures.conftest import traces

N, LAYERS, LABELS, RANKS = 60, (0, 2), ("subject -1", "<b>end</b> -1", "end"), (1, 4, 16)


@pytest.fixture(scope="module")
def result() -> xr.Dataset:
    rng = np.random.default_rng(0)
    shape = (N, len(LAYERS) * len(LABELS), len(RANKS))
    learned = (rng.random(shape) < 0.1).astype(np.float32)
    learned[:, 0, 1:] = 1  # found at rank 4
    learned[:, 1, 2] = 1  # works, by a dormant pathway
    natural = learned.copy()
    natural[:, 1, 2] = 0
    control = (rng.random((len(CONTROLS), *shape)) < 0.1).astype(np.float32)
    held = np.arange(N) < 24
    hits = Hits(learned, control, natural, np.ones(shape[:2], np.float32))
    variables = describe(hits, np.arange(N), held, (len(LAYERS), len(LABELS)), RANKS)
    return xr.Dataset(
        {**variables, "basis": ("width", np.zeros(4))},
        {
            "control": list(CONTROLS),
            "layer": list(LAYERS),
            "position": [3, 5, 7],
            "position_label": ("position", list(LABELS)),
            "rank": list(RANKS),
        },
        {"instrument": "distributed alignment search", "site": "resid_post"},
    )


def written(fig: go.Figure) -> str:
    """All that stands in the cells."""
    return " ".join(str(t) for trace in traces(fig, "text") for t in np.ravel(trace.text))


def test_the_map_shows_the_boundary_in_the_colour_of_its_accuracy(result: xr.Dataset) -> None:
    fig = subspace_map(result, title="Where")
    values = fig.data[0].z
    assert values[0][0] == 1
    assert values[0][1] == 1
    assert np.max(values[1]) < 0.4
    text = written(fig)
    assert text.split().count("4") == 1
    assert text.split().count("–") == 5
    hover = traces(fig, "cells")[0].text
    assert "rank 4: held out <b>100%</b>" in hover[0]
    assert all(control in hover[0] for control in CONTROLS)
    assert "dormant" in hover[1]
    assert "not clear of every control" in hover[2]
    assert "&lt;b&gt;end&lt;/b&gt;" in hover[1]
    notes = " ".join(note.text for note in fig.layout.annotations)
    assert "smallest rank that generalises" in notes
    assert "dormant pathway" in notes


def test_the_map_of_one_rank_shows_its_accuracies(result: xr.Dataset) -> None:
    fig = subspace_map(result, rank=16)
    expected = result["held_out"].sel(rank=16).transpose("layer", "position")
    np.testing.assert_allclose(np.array(fig.data[0].z, dtype=float), expected)
    assert "1.00" in written(fig)
    with pytest.raises(PromptError, match="no rank 2"):
        subspace_map(result, rank=2)


def test_lines_show_held_out_training_and_each_control(result: xr.Dataset) -> None:
    fig = subspace_lines(result, 0, "subject -1")
    cell = result.isel(layer=0, position=0)
    np.testing.assert_allclose(traces(fig, "held out")[0].y, cell["held_out"])
    np.testing.assert_allclose(traces(fig, "training pairs")[0].y, cell["accuracy"])
    for control in CONTROLS:
        expected = cell["control_held_out"].sel(control=control)
        np.testing.assert_allclose(traces(fig, control)[0].y, expected)
    assert list(fig.layout.xaxis.ticktext)[fig.layout.shapes[0].x0] == "4"
    assert not subspace_lines(result, 2, 5).layout.shapes
    for wrong in ((1, 3), (0, 4), (0, "subject")):
        with pytest.raises(PromptError, match="holds no layer"):
            subspace_lines(result, *wrong)
