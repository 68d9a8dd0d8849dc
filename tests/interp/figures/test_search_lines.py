"""The figure of a search shows what was measured, beside controls on the same prompts."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from interp.errors import MetricError
from interp.figures import search_lines
from tests.interp.figures.conftest import traces

PROMPTS = [f"prompt {i}" for i in range(6)]
ATTRS = {"goal": "answer_logprob", "metric": "answer_logprob", "unit": "nats"}
COORDS = {"prompt": ("example", PROMPTS)}


def search(token: str = "<b>$x$") -> xr.Dataset:
    score = np.random.default_rng(0).normal(size=(4, 6))
    return xr.Dataset(
        {
            "loss": ("step", -score.mean(1)),
            "score": (("step", "example"), score),
            "token_id": (("step", "slot"), np.zeros((4, 1), int)),
            "text": ("step", [" a", " b", " b", f" {token}"]),
            "changed_slot": ("step", [-1, 0, -1, 0]),
            "tried": ("step", [0, 10, 10, 5]),
        },
        {"step": range(4), **COORDS},
        {"instrument": "greedy coordinate search", **ATTRS},
    )


def scores() -> xr.Dataset:
    score = np.random.default_rng(1).normal(size=(30, 6))
    return xr.Dataset(
        {"score": (("suffix", "example"), score), "loss": ("suffix", -score.mean(1))},
        COORDS,
        {"instrument": "suffix scores", **ATTRS},
    )


def vectors() -> xr.Dataset:
    return xr.Dataset(
        {"score": ("example", np.arange(6.0)), "vectors": (("slot", "d_model"), np.ones((1, 2)))},
        COORDS,
        {"instrument": "continuous suffix", "bound": 0.3, **ATTRS},
    )


def test_search_controls_and_vectors_are_drawn_as_they_were_measured() -> None:
    found, others = search(), scores()
    fig = search_lines(found, controls=others, continuous=vectors(), title="A search")
    (own,) = traces(fig, "search")
    np.testing.assert_allclose(own.y, found["score"].mean("example"))
    assert [size > 0 for size in own.marker.size] == [False, True, False, True]
    assert "25 suffixes run" in own.text[3]
    (level,) = traces(fig, "30 random suffixes")
    np.testing.assert_allclose(level.y, float(others["score"].mean()))
    (band,) = traces(fig, "random suffixes, middle 95%")
    means = others["score"].mean("example")
    assert {*band.y} == {*np.quantile(means, [0.025, 0.975])}
    np.testing.assert_allclose(traces(fig, "vectors within 0.3")[0].y, 2.5)
    assert fig.layout.yaxis.title.text == "answer logprob (nats)"


def test_tokens_are_text() -> None:
    fig = search_lines(search())
    shown = [*traces(fig, "search")[0].text, *(one.text for one in fig.layout.annotations)]
    assert not any("<b>$" in text for text in shown)
    assert "&lt;b&gt;&#36;x&#36;" in shown[-1]
    assert "&amp;" not in shown[-1]


def test_results_on_other_prompts_or_goals_are_not_drawn_together() -> None:
    other = scores().assign_coords(prompt=("example", ["other", *PROMPTS[1:]]))
    with pytest.raises(MetricError, match="other prompts"):
        search_lines(search(), controls=other)
    with pytest.raises(MetricError, match="another goal"):
        search_lines(search(), continuous=vectors().assign_attrs(goal="logprob_diff"))
