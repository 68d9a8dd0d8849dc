"""Figures of two models say what the numbers do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr

from interp.errors import ArgumentError, PromptError, SiteError
from interp.figures import across_map, difference_map, spectrum_lines, swap_lines
from tests.interp.figures.conftest import HOSTILE, assert_safe, cells, traces

N = 8
RNG = np.random.default_rng(0)
ABOUT = {"metric": "logit_diff", "unit": "logits"}


@pytest.fixture
def activations() -> xr.Dataset:
    dims = ("model", "example", "site", "layer", "position")
    values = np.arange(2 * 2 * 1 * 3 * 4, dtype=np.float32).reshape(2, 2, 1, 3, 4) / 10
    values[:, 1, :, :, 3:] = np.nan
    made = dict.fromkeys(("norm", "relative", "cosine"), (dims, values))
    token = np.full((2, 4), " a", dtype=object)
    token[0, 1] = HOSTILE
    coords = {
        "model": ["tuned", "twin"],
        "site": ["resid_post"],
        "layer": [0, 1, 2],
        "position": range(4),
        "token": (("example", "position"), token),
        "prompt": ("example", ["one", "two"]),
    }
    return xr.Dataset(made, coords, {"instrument": "activation difference"})


def mixed(name: str, dims: tuple[str, ...], values: Any, **coords: Any) -> xr.Dataset:
    base = RNG.normal(size=N)
    shape = (N, *(1,) * (np.ndim(values) - 1))
    instrument = "module swaps" if name == "swapped" else "cross-model patching"
    return xr.Dataset(
        {
            name: (("example", *dims), base.reshape(shape) + values),
            "base": ("example", base),
            "tuned": ("example", base + np.linspace(2, 3, N)),
        },
        {"into": ["base", "tuned"], "prompt": ("example", [f"p{i}" for i in range(N)]), **coords},
        {"instrument": instrument, "site": "resid_post", **ABOUT},
    )


@pytest.fixture
def swaps() -> xr.Dataset:
    parts = ["embedding", "attention 0", "mlp 0", "unembedding", "embedding and unembedding"]
    values = np.zeros((N, 2, 3, len(parts)))
    values[:, 0, 1, 2:] = np.linspace(2, 3, N)[:, None]
    values[:, 0, 2, :3] = np.linspace(2, 3, N)[:, None]
    values[:, 0, 0, 2] = np.linspace(1, 2, N)
    values[:, :, 1:, 4] = np.nan
    return mixed(
        "swapped",
        ("into", "order", "part"),
        values,
        order=["single", "below", "above"],
        part=parts,
        layer=("part", [-1, 0, 0, -1, -1]),
        module=("part", ["embedding", "attention", "mlp", "unembedding", parts[-1]]),
    )


@pytest.fixture
def patches() -> xr.Dataset:
    values = np.zeros((N, 2, 2, 3))
    values[:, 0, 1, 2] = 1.5
    found = mixed(
        "patched", ("into", "layer", "position"), values, layer=[0, 1], position=[0, 1, 2]
    )
    draws = found["patched"].expand_dims(draw=2) + 0.25
    return found.assign(control=draws)


@pytest.fixture
def weights() -> xr.Dataset:
    names = ["a", HOSTILE, "bias"]
    spectrum = np.array([[8.0, 2.0, 0.1], [1.0, 0.5, 0.25], [np.nan] * 3])
    return xr.Dataset(
        {
            "norm": ("parameter", [9.0, 1.0, 1.0]),
            "relative": ("parameter", [0.9, 0.1, 5.0]),
            "effective_rank": ("parameter", [1.5, 2.5, np.nan]),
            "singular_value": (("parameter", "rank"), spectrum),
        },
        {"parameter": names, "rank": [1, 2, 3]},
        {"instrument": "weight difference"},
    )


def test_differences_stand_by_layer_and_token(activations: xr.Dataset) -> None:
    fig = difference_map(activations)
    found = cells(fig)
    assert len(found) == 12
    assert "1.1" in found[(2, 3)]
    assert_safe(fig)
    short = difference_map(activations, 1, model="twin")
    assert len(cells(short)) == 9
    mean = difference_map(activations, None, measure="cosine")
    heat = traces(mean, "values")[0].z
    assert heat[0, 0] == pytest.approx((0.0 + 1.2) / 2)
    assert heat[0, 3] == pytest.approx(0.3)  # of the one prompt that is so long


def test_lines_of_swaps_are_mean_changes(swaps: xr.Dataset) -> None:
    fig = swap_lines(swaps)
    (single,) = traces(fig, "this part alone")
    np.testing.assert_allclose(single.y, [0, 0, 1.5, 0, 0], atol=1e-9)
    (below,) = traces(fig, "all parts up to this one")
    np.testing.assert_allclose(below.y, [0, 0, 2.5, 2.5], atol=1e-9)
    assert list(fig.layout.xaxis.ticktext) == ["emb", "A0", "M0", "unemb", "both ends"]
    said = " ".join(a.text for a in fig.layout.annotations)
    assert "tuned − base: 2.50 logits" in said
    assert "add up" in said
    assert "95%" in single.text[2]
    assert "no interval" in single.text[0]  # every prompt is moved by exactly nothing


@pytest.mark.parametrize("into", ["base", "tuned"])
def test_models_have_the_names_that_they_are_given(swaps: xr.Dataset, into: Any) -> None:
    fig = swap_lines(swaps, into=into, names=("A", "B"))
    receiver, giver = ("A", "B") if into == "base" else ("B", "A")
    assert fig.layout.xaxis.title.text == f"part of {giver} put into {receiver}"
    told = {a.text: a for a in fig.layout.annotations}
    assert any("B − A: 2.50 logits" in text for text in told)
    assert not any("tuned" in text or "base" in text for text in told)
    # The line that lies above has its name above it, and none stands in the other's way.
    assert (told[receiver].y, told[giver].y) == (
        0.0,
        pytest.approx(2.5 if into == "base" else -2.5),
    )
    assert told["B"].yanchor == "bottom"
    assert told["A"].yanchor == "top"


def test_nothing_is_said_of_shares_where_models_may_not_differ(swaps: xr.Dataset) -> None:
    alike = swaps.assign(tuned=swaps["base"] + xr.DataArray([0.1, -0.1] * 4, dims="example"))
    said = " ".join(a.text for a in swap_lines(alike).layout.annotations)
    assert "may not differ" in said
    few = swap_lines(swaps.isel(example=slice(2)))
    assert "no interval" in " ".join(a.text for a in few.layout.annotations)


def test_a_map_of_patches_shows_the_control(patches: xr.Dataset) -> None:
    fig = across_map(patches)
    found = cells(fig)
    assert "1.50" in found[(1, 2)]
    assert "random directions: 0.25" in found[(0, 0)]
    assert traces(fig, "values")[0].z[1, 2] == pytest.approx(1.5)


def test_spectra_are_of_the_matrices_that_changed_most(weights: xr.Dataset) -> None:
    fig = spectrum_lines(weights, 1)
    assert [trace.name for trace in fig.data] == ["a"]
    np.testing.assert_allclose(fig.data[0].y, [8, 2, 0.1])
    assert "1" in fig.layout.yaxis.ticktext
    assert_safe(spectrum_lines(weights, 5))
    both = xr.concat(
        [weights, weights], xr.DataArray(["tuned", "twin"], dims="model", name="model")
    )
    assert len(spectrum_lines(both, ["a"]).data) == 2


def test_what_is_not_there_is_told(
    activations: xr.Dataset, swaps: xr.Dataset, patches: xr.Dataset, weights: xr.Dataset
) -> None:
    with pytest.raises(PromptError):
        difference_map(activations, 7)
    for wrong in ({"site": "z"}, {"measure": "size"}, {"model": "other"}):
        with pytest.raises((SiteError, ArgumentError)):
            difference_map(activations, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="Unknown into 'nothing'"):
        swap_lines(swaps, into="nothing")  # type: ignore[arg-type]
    with pytest.raises(SiteError):
        across_map(swaps)
    with pytest.raises(SiteError):
        across_map(patches.expand_dims(head=2).transpose("example", ..., "head"))
    for parameters in (["b"], [], ["a", "b"]):
        with pytest.raises(SiteError):
            spectrum_lines(weights, parameters)
    with pytest.raises(SiteError, match="No matrix"):
        spectrum_lines(weights.isel(parameter=[2]))
