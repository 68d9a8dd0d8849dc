"""What was planted is found where it is, and nothing is claimed of the twin."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from interp import compare_models
from interp.comparison import Comparison, change_shares
from interp.errors import ArgumentError, StatisticsError
from tests.interp.comparison.organisms import LAYER, RANK, Organisms

TEXTS = ["we saw home", "so is the", "near the friend", "who is we", "home of the", "then so we"]
PLACE = f"mlp {LAYER}"
WEIGHT = f"model.layers.{LAYER}.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def compared(planted: Organisms) -> Comparison:
    return compare_models(
        planted.base,
        planted.tuned,
        planted.pairs(),
        twin=planted.twin,
        texts=TEXTS,
        ask="Ann is Ann and Bo",
    )


@pytest.fixture(scope="module")
def found(compared: Comparison) -> xr.Dataset:
    assert compared.swaps is not None
    return change_shares(compared.swaps)


@pytest.mark.slow
def test_the_swap_of_the_planted_part_is_the_change(found: xr.Dataset) -> None:
    tuned = found.sel(model="tuned")
    assert tuned["clear"] == 1
    for into in ("base", "tuned"):
        single = tuned.sel(into=into, order="single")
        assert single["low"].sel(part=PLACE) > 0.9
        others = single["share"].drop_sel(part=PLACE)
        assert float(np.abs(others).max()) < 0.05
        steps = tuned["share"].sel(into=into, order="below").diff("part")
        assert str(steps.idxmax("part").values) == PLACE
        assert float(steps.max()) > 0.9


@pytest.mark.slow
def test_nothing_is_claimed_of_the_twin(found: xr.Dataset) -> None:
    twin = found.sel(model="twin")
    assert twin["clear"] == 0
    assert "could be none" in str(twin["reason"].values)
    assert twin["effect_low"] < 0 < twin["effect_high"]
    for name in ("share", "low", "high"):
        assert np.isnan(twin[name]).all()


def test_the_twin_is_as_much_trained(compared: Comparison) -> None:
    change = compared.weights["part_norm"].sel(part=PLACE)
    assert 0.3 < float(change.sel(model="twin") / change.sel(model="tuned")) < 3


def test_the_spectrum_shows_the_planted_rank(compared: Comparison) -> None:
    for model in ("tuned", "twin"):
        weights = compared.weights.sel(model=model)
        values = weights["singular_value"].sel(parameter=WEIGHT).values
        assert values[RANK - 1] > 10 * values[RANK]
        assert weights["relative"].idxmax("parameter").item() == WEIGHT
        rank = weights["stable_rank"]
        assert rank.sel(parameter=WEIGHT) < RANK + 0.1
        assert rank.drop_sel(parameter=WEIGHT).min() > 2 * RANK


def test_activations_differ_from_the_planted_layer_on(compared: Comparison) -> None:
    relative = compared.activations["relative"].sel(model="tuned", site="resid_post")
    by_layer = relative.mean(["example", "position"]).values
    assert by_layer[LAYER] > 10 * by_layer[:LAYER].max()


def test_a_change_for_the_worse_is_a_change(compared: Comparison) -> None:
    assert compared.swaps is not None
    one = compared.swaps.sel(model="tuned")
    turned = one.assign(swapped=-one["swapped"], base=-one["base"], tuned=-one["tuned"])
    shares, worse = change_shares(one), change_shares(turned)
    assert worse.attrs["clear"] == 1
    assert worse.attrs["effect"] < 0
    xr.testing.assert_allclose(shares["share"], worse["share"])


def test_shares_are_ratios_of_means(compared: Comparison) -> None:
    assert compared.swaps is not None
    one = compared.swaps.sel(model="tuned")
    shares = change_shares(one)
    change = float((one["tuned"] - one["base"]).mean())
    part = one["swapped"].sel(into="tuned", order="above", part="attention 2")
    expected = float((part - one["tuned"]).mean()) / -change
    got = shares["share"].sel(into="tuned", order="above", part="attention 2").item()
    assert got == pytest.approx(expected, rel=1e-5)


def test_few_prompts_have_no_shares(compared: Comparison) -> None:
    assert compared.swaps is not None
    few = change_shares(compared.swaps.sel(model="tuned").isel(example=slice(3)))
    assert few.attrs["clear"] == 0
    assert np.isnan(few["share"]).all()
    with pytest.raises(ArgumentError):
        change_shares(compared.weights)
    with pytest.raises(StatisticsError, match="no models"):
        change_shares(compared.swaps.isel(model=[]))


def test_every_part_is_there_for_both(compared: Comparison) -> None:
    for name, part in vars(compared).items():
        assert part["model"].values.tolist() == ["tuned", "twin"], name
    assert compared.scopes is not None
    assert compared.scopes["text"].sizes["layer"] == 3


@pytest.mark.slow
def test_a_comparison_shows_itself(compared: Comparison, planted: Organisms) -> None:
    shown = compared._repr_html_()
    assert planted.tuned.fingerprint in shown
    assert planted.twin.fingerprint in shown
    plain = compare_models(planted.base, planted.tuned, ["we saw Ann"])
    assert plain.swaps is None
    assert plain.means is None
    assert "not asked for" in plain._repr_html_()
