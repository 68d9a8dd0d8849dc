"""The map of a logit's shares: their numbers, what stands below, and hostile text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr

from interp import direct_logit_attribution
from interp.errors import PromptError
from interp.figures import attribution_bars, attribution_map
from tests.interp.figures.conftest import HOSTILE, assert_safe, cells, traces
from tests.interp.tiny import N_HEADS, N_LAYERS, Tiny

PROMPTS = ["we saw Ann near Rome and then", "so Fay is"]


def attributed(tiny: Tiny, by: Any, **options: Any) -> xr.Dataset:
    return direct_logit_attribution(
        tiny.model, PROMPTS, [" Gus", " Jo"], [" Ida", " Cy"], by=by, **options
    )


def note(fig: Any) -> str:
    return " ".join(str(a.text) for a in fig.layout.annotations)


def below(fig: Any) -> list[float]:
    """The numbers that stand under the map: shares without a cell, and the sum of all."""
    words = note(fig).replace("−", "-").replace(",", " ").replace(";", " ").split()
    return [float(word) for word in words if word[-1].isdigit() and "." in word]


@pytest.mark.parametrize("by", ["component", "head", "neurons", "source"])
def test_the_cells_and_what_stands_below_add_up(llama: Tiny, by: str) -> None:
    found = attributed(llama, by, **({"neurons": 12} if by == "neurons" else {}))
    fig = attribution_map(found, 1)
    shown = np.asarray(traces(fig, "values")[0].z, dtype=float)
    *others, total = below(fig)
    assert total == pytest.approx(float(found["logit_diff"][1]), abs=0.006)
    assert shown.sum() + sum(others) == pytest.approx(total, abs=0.03)


def test_heads_stand_in_their_layers_row(llama: Tiny) -> None:
    found = attributed(llama, "head")
    fig = attribution_map(found)
    shown = np.asarray(traces(fig, "values")[0].z)
    assert shown.shape == (N_LAYERS, N_HEADS + 2)
    mean = found["contribution"].mean("example")
    for layer, head in ((0, 3), (2, 1)):
        chosen = (found["layer"] == layer) & (found["head"] == head)
        assert shown[layer, head] == pytest.approx(float(mean[chosen.values][0]))
    assert "layer 2, h1" in cells(fig)[(2, 1)]
    assert "mean of 2 prompts" in cells(fig)[(2, 1)]
    limit = traces(fig, "values")[0].zmax
    assert limit == pytest.approx(max(1.0, np.abs(shown).max()))  # a logit at least
    assert traces(attribution_map(found, limit=9.0), "values")[0].zmin == -9.0


def test_tokens_beyond_a_prompts_end_are_left_out(llama: Tiny) -> None:
    fig = attribution_map(attributed(llama, "source"), 1)
    assert list(fig.layout.xaxis.ticktext) == ["&lt;bos&gt;", "so", "Fay", "is"]
    assert len(cells(fig)) == N_LAYERS * N_HEADS * 4


def test_of_many_heads_those_with_the_largest_shares_are_shown(
    llama: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("interp.figures.attribution.MOST_HEADS", 2)
    found = attributed(llama, "source")
    fig = attribution_map(found, 0)
    shown = np.asarray(traces(fig, "values")[0].z)
    assert shown.shape[0] == 2
    largest = float(np.abs(found["contribution"][0]).max())
    assert np.abs(shown).max() == pytest.approx(largest)
    assert "10 other heads" in note(fig)
    *others, total = below(fig)
    assert shown.sum() + sum(others) == pytest.approx(total, abs=0.03)


def test_what_cannot_be_drawn_is_refused(llama: Tiny) -> None:
    with pytest.raises(PromptError, match="no example 2"):
        attribution_map(attributed(llama, "head"), 2)
    with pytest.raises(PromptError, match="choose one"):
        attribution_map(attributed(llama, "source"))


def test_hostile_tokens_are_text(llama: Tiny) -> None:
    found = attributed(llama, "source").isel(example=[0])
    tokens = found["token"].values.copy()
    tokens[:] = HOSTILE
    assert_safe(attribution_map(found.assign_coords(token=(("example", "source"), tokens))))


@pytest.mark.parametrize("by", ["component", "head"])
def test_bars_are_the_largest_shares_the_rest_and_their_sum(llama: Tiny, by: str) -> None:
    found = attributed(llama, by)
    bars = traces(attribution_bars(found, 1, most=3), "shares")[0]
    shares = found["contribution"].isel(example=1).values.astype(float)
    x = np.asarray(bars.x)
    assert len(x) == 5
    np.testing.assert_allclose(np.abs(x[:3]), np.sort(np.abs(shares))[::-1][:3], rtol=1e-6)
    assert x[:4].sum() == pytest.approx(shares.sum(), abs=1e-5)
    assert x[4] == pytest.approx(float(found["logit_diff"][1]), abs=1e-4)
    assert f"{len(shares) - 3} others" in bars.hovertext[3]
    limited = attribution_bars(found, 1, limit=9.0)
    assert tuple(limited.layout.xaxis.range) == pytest.approx((-1.22 * 9, 1.22 * 9))


def test_bars_that_cannot_be_drawn_are_refused(llama: Tiny) -> None:
    with pytest.raises(PromptError, match="no example 2"):
        attribution_bars(attributed(llama, "head"), 2)
    with pytest.raises(PromptError, match="by='component'"):
        attribution_bars(attributed(llama, "source"), 0)
    with pytest.raises(PromptError, match="At least one"):
        attribution_bars(attributed(llama, "head"), 0, most=0)
