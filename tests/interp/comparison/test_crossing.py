"""Activations across models, by torch's own hooks on Hugging Face's models."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import xarray as xr

from interp.comparison import change_shares, patch_across
from interp.errors import SiteError, StatisticsError
from interp.figures import across_map
from tests.interp import surgery
from tests.interp.architectures import ARCHITECTURES
from tests.interp.comparison.by_hand import Two, loaded
from tests.interp.comparison.organisms import LAYER, Organisms
from tests.interp.tiny import words

PROMPTS = ("we saw Ann near Rome and then", "so Bo is the friend of")
GIVEN = {"answers": [" Cy", " Dee"], "foils": [" Eve", " Fay"]}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "site"), [("GPT-2", "z"), ("Llama", "resid_post")])
def test_a_cell_is_a_hook_in_the_other_model(
    name: str, site: str, two: Callable[[str], Two]
) -> None:
    made = two(name)
    layout = ARCHITECTURES[name].layout
    by = ("head", "position") if site == "z" else "position"
    result = patch_across(made.base, made.tuned, list(PROMPTS), site, by=by, draws=0, **GIVEN)
    for into, other in (("base", "tuned"), ("tuned", "base")):
        for number, prompt in enumerate(PROMPTS):
            ids = made.base.token_ids(prompt)
            answer, foil = (words(GIVEN[k][number].strip())[0] for k in ("answers", "foils"))
            plain = surgery.logits(made.hf[into], ids)[-1]
            assert result[into].values[number] == pytest.approx(
                float(plain[answer] - plain[foil]), abs=2e-5
            )
            for layer in range(made.base.n_layers):
                theirs = surgery.activation(made.hf[other], layout, site, layer, ids)
                for position in range(1, len(ids), 2):
                    head = position % 4 if site == "z" else slice(None)

                    def put(value: torch.Tensor, p=position, h=head, new=theirs) -> None:
                        value[p, h] = new[p, h]

                    with surgery.intervened(made.hf[into], layout, site, layer, put):
                        logits = surgery.logits(made.hf[into], ids)[-1]
                    cell = (
                        result["patched"]
                        .isel(example=number)
                        .sel(into=into, layer=layer, position=position)
                    )
                    found = float(cell.sel(head=head)) if site == "z" else float(cell)
                    expected = float(logits[answer] - logits[foil])
                    assert found == pytest.approx(expected, abs=2e-5), (into, layer, position)
    short = result["patched"].isel(example=1).sel(position=len(made.base.token_ids(PROMPTS[1])))
    assert np.isnan(short).all()


@pytest.mark.slow
def test_the_control_moves_as_far_elsewhere(two: Callable[[str], Two]) -> None:
    made = two("Llama")
    result = patch_across(made.base, made.tuned, list(PROMPTS), draws=2, seed=5, **GIVEN)
    again = patch_across(made.base, made.tuned, list(PROMPTS), draws=2, seed=5, **GIVEN)
    np.testing.assert_array_equal(result["control"], again["control"])
    first, second = (result["control"].isel(draw=i).values for i in range(2))
    there = np.isfinite(first)
    assert (first[there] != second[there]).any()
    # What is moved after a block at an earlier token reaches nothing behind the last block.
    last = result.sel(into="base", layer=made.base.n_layers - 1).isel(example=1)
    end = len(made.base.token_ids(PROMPTS[1])) - 1
    before = last["control"].sel(position=slice(0, end - 1)).values
    np.testing.assert_allclose(before, result["base"].values[1], atol=2e-5)
    assert np.abs(last["control"].sel(position=end) - result["base"].values[1]).min() > 1e-3
    # And where the other model's activation is the same, it is moved by nothing.
    again = patch_across(made.base, loaded(made.hf["base"]), list(PROMPTS), **GIVEN)
    for name in ("patched", "control"):
        off = again[name] - again["base"]
        np.testing.assert_allclose(off.fillna(0), 0, atol=2e-5)


@pytest.mark.slow
def test_shares_of_the_planted_stream(planted: Organisms) -> None:
    result = patch_across(planted.base, planted.tuned, planted.pairs())
    shares = change_shares(result)
    last = shares.sel(into="base").isel(position=-1)["share"]
    assert float(np.abs(last.sel(layer=slice(0, LAYER - 1))).max()) < 0.05
    assert last.sel(layer=LAYER) > 0.5
    twin = change_shares(patch_across(planted.base, planted.twin, planted.pairs(), draws=0))
    assert np.isnan(twin["share"]).all()


@pytest.mark.slow
def test_a_result_that_was_cut_has_shares_or_is_refused(planted: Organisms) -> None:
    result = patch_across(planted.base, planted.tuned, planted.pairs(), draws=0)
    shares = change_shares(result)
    for into in ("base", "tuned"):
        cut = change_shares(result.sel(into=into))
        xr.testing.assert_identical(cut, shares.sel(into=into))
    back = change_shares(result.sel(into=["tuned", "base"]))
    xr.testing.assert_identical(back.sel(into=["base", "tuned"]), shares)
    for wrong in (result.isel(example=0), result.isel(example=[])):
        with pytest.raises(StatisticsError, match="there are none"):
            change_shares(wrong)
    for bare in (result.drop_vars("patched"), result.drop_vars("into")):
        with pytest.raises(StatisticsError, match="receiving models"):
            change_shares(bare)
    with pytest.raises(SiteError, match="cut to one receiving model"):
        across_map(result.sel(into="base"))


@pytest.mark.slow
def test_shorter_prompts_leave_their_share_to_others(planted: Organisms) -> None:
    result = patch_across(planted.base, planted.tuned, planted.pairs(), draws=0)
    patched = result["patched"].copy()
    patched[3, :, :, -1] = np.nan
    shares = change_shares(result.assign(patched=patched))
    rest = change_shares(result.isel(example=[i for i in range(12) if i != 3]))
    np.testing.assert_allclose(shares["share"][..., -1], rest["share"][..., -1])
    np.testing.assert_allclose(shares["low"][..., -1], rest["low"][..., -1])


@pytest.mark.slow
def test_patterns_are_refused(two: Callable[[str], Two]) -> None:
    made = two("Llama")
    with pytest.raises(SiteError, match="patterns"):
        patch_across(made.base, made.tuned, list(PROMPTS), "pattern", **GIVEN)
    with pytest.raises(SiteError):
        patch_across(made.base, made.tuned, list(PROMPTS), draws=-1, **GIVEN)
    with pytest.raises(SiteError):
        patch_across(made.base, made.tuned, list(PROMPTS), layers=[7], **GIVEN)
