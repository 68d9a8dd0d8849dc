"""The map of a patchscope: its words, numbers and colours, and hostile text."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from interp.errors import PromptError
from interp.figures import patchscope_map
from tests.interp.figures.conftest import HOSTILE, assert_safe, cells, traces

SHAPE = (2, 3, 2)


def made(text: str = " Mary Lee", *, control: bool = True) -> xr.Dataset:
    dims = ("example", "source_layer", "target_layer")
    numbers = np.arange(12).reshape(SHAPE)
    variables = {}
    for prefix in ("", "control_")[: 1 + control]:
        texts = np.array([f"{text} {prefix}{n}" for n in range(12)], dtype=object)
        logprobs = np.log(np.stack([0.5 + numbers / 100, 0.1 + numbers / 100], axis=-1))
        variables[f"{prefix}text"] = (dims, texts.reshape(SHAPE))
        variables[f"{prefix}top_token"] = ((*dims, "k"), np.full((*SHAPE, 2), text, dtype=object))
        variables[f"{prefix}top_logprob"] = ((*dims, "k"), logprobs)
    variables["unpatched_text"] = ("example", [f"{text} plain"] * 2)
    coords = {"source_layer": [0, 4, 8], "target_layer": [1, 5]}
    return xr.Dataset(variables, coords, {"instrument": "patchscope"})


def test_cells_show_probabilities_and_whole_texts() -> None:
    result = made()
    fig = patchscope_map(result, 1, selected=(4, 5))
    values = traces(fig, "values")[0]
    np.testing.assert_allclose(values.z, np.exp(result["top_logprob"].values[1, :, :, 0]))
    assert (values.zmin, values.zmax) == (0.0, 1.0)
    hover = cells(fig)
    assert len(hover) == 6
    here = hover[(4, 1)]
    assert "layer 4 into layer 5" in here
    assert "with the vector: ‘·Mary Lee 9’" in here
    assert "with another prompt's vector: ‘·Mary Lee control_9’" in here
    assert "without a vector: ‘·Mary Lee plain’" in here
    assert "59%, " in here
    assert list(fig.layout.xaxis.ticktext) == ["1", "5"]


def test_the_controls_grid_and_results_without_one() -> None:
    fig = patchscope_map(made(), show="control")
    assert any("another prompt's vector; colour" in note.text for note in fig.layout.annotations)
    alone = made(control=False)
    assert "another prompt" not in cells(patchscope_map(alone))[(0, 0)]
    with pytest.raises(PromptError, match="no next tokens of 'control'"):
        patchscope_map(alone, show="control")
    with pytest.raises(PromptError, match="no example 2"):
        patchscope_map(alone, 2)


def test_next_tokens_stand_where_nothing_was_written() -> None:
    result = made().drop_vars(["text", "control_text", "unpatched_text"])
    assert "next with the vector: ·Mary Lee 50%" in cells(patchscope_map(result))[(0, 0)]


def test_texts_are_shown_as_text() -> None:
    assert_safe(patchscope_map(made(HOSTILE)))
