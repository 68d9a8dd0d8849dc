"""An estimate tells how well it agrees with cells that were run, and no more than they say."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import xarray as xr
from torch.nn import functional

from interp import PromptPairs, estimate, load_model, sweep
from interp.errors import SiteError
from interp.metrics import Metric, Term, target_logit
from interp.patching import refine
from interp.patching.estimates import trust
from tests.interp.pairs import prompt_pairs
from tests.interp.tiny import Tiny, build_tokenizer
from tests.interp.untouched import untouched

ASKED: dict[str, Any] = {"by": ("head", "position"), "method": "gradient"}


def moved(result: xr.Dataset) -> np.ndarray:
    change = (result["patched"] - result["corrupt"]).values
    return change[np.isfinite(change)]


@pytest.mark.slow
def test_with_all_cells_run_it_is_the_agreement_itself(llama: Tiny) -> None:
    pairs = prompt_pairs(llama)
    found = estimate(llama.model, pairs, "z", check=10_000, **ASKED)
    guess = moved(found)
    truth = moved(sweep(llama.model, pairs, "z", by=("head", "position")))
    attrs = found.attrs
    assert attrs["agreement_cells"] == len(guess)
    expected = np.corrcoef(guess, truth)[0, 1]
    assert 0.1 < expected < 0.999
    for end in ("", "_low", "_high"):
        assert attrs[f"agreement_correlation{end}"] == pytest.approx(expected, abs=1e-4)
    large = np.argsort(-np.abs(guess))[: -(-len(guess) // 10)]
    assert attrs["agreement_large"] == len(large)
    flips = np.mean(np.sign(guess[large]) != np.sign(truth[large]))
    assert attrs["agreement_wrong_signs"] == pytest.approx(flips)
    assert attrs["agreement_wrong_signs_low"] == attrs["agreement_wrong_signs_high"]


@pytest.mark.slow
def test_a_few_cells_say_what_they_can(llama: Tiny, tmp_path: Path) -> None:
    pairs = prompt_pairs(llama)
    state = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    found = estimate(llama.model, pairs, "z", **ASKED)
    assert found.attrs["agreement_cells"] == 32
    assert found.attrs["agreement_large"] == 16
    low, high = (found.attrs[f"agreement_correlation_{end}"] for end in ("low", "high"))
    assert -1 <= low < found.attrs["agreement_correlation"] < high <= 1
    assert found.attrs["agreement_wrong_signs_high"] > 0.1  # sixteen cells cannot tell less
    xr.testing.assert_identical(found, estimate(llama.model, pairs, "z", **ASKED))
    assert torch.equal(state[0], torch.random.get_rng_state())
    assert np.array_equal(state[1], np.random.get_state()[1])  # type: ignore[index]
    found.drop_vars(["clean_token", "corrupt_token"]).to_netcdf(tmp_path / "kept.nc")
    few = estimate(llama.model, pairs, "z", check=6, **ASKED).attrs
    assert few["agreement_cells"] == 6
    assert not {"agreement_correlation", "agreement_wrong_signs"} & set(few)
    none = estimate(llama.model, pairs, "z", check=0, **ASKED)
    assert not any(name.startswith("agreement") for name in none.attrs)
    np.testing.assert_array_equal(none["patched"], found["patched"])
    with pytest.raises(SiteError, match="from 0 on"):
        estimate(llama.model, pairs, "z", check=-1, **ASKED)


@pytest.mark.slow
def test_what_is_refined_says_it_too(llama: Tiny) -> None:
    pairs = prompt_pairs(llama)
    plain = estimate(llama.model, pairs, "attn_out").attrs
    noted = {name: value for name, value in plain.items() if name.startswith("agreement")}
    assert "agreement_correlation" in noted
    assert plain["estimated_by"] == "columns 2"  # the default
    for found in (
        sweep(llama.model, pairs, "attn_out", only=2),
        next(refine(llama.model, pairs, "attn_out")),
    ):
        assert {name: found.attrs.get(name) for name in noted} == noted
        assert found.attrs["estimated_by"] == plain["estimated_by"]


@pytest.mark.slow
def test_intervals_hold_the_agreement_of_all_cells() -> None:
    """Many populations of 2,000 cells of which few do much; 32 of each are run."""
    rng = np.random.default_rng(1)
    held = []
    for _ in range(150):
        truth = rng.standard_t(3, 2000)
        guess = truth + 0.6 * rng.standard_t(3, 2000)
        halves = trust.draw(guess.astype(np.float32), 32)
        strata = [trust.Stratum(n, guess[at], truth[at]) for n, at in halves]
        found = trust.compared(strata)
        _, low, high = found.correlation
        held.append(low <= np.corrcoef(guess, truth)[0, 1] <= high)
    assert np.mean(held) > 0.9  # nominally .95; so it is called rough


@pytest.mark.slow
def test_of_what_is_no_number_nothing_is_said(llama: Tiny) -> None:
    def lost(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return target_logit(logits, targets).sqrt()  # of a negative logit there is none

    metric = Metric("root", "", (Term("prompt", "answer", lost),), "")
    found = estimate(llama.model, prompt_pairs(llama), "z", metric, **ASKED)
    assert bool(np.isnan(found["corrupt"]).any())
    assert found.attrs["agreement_cells"] > 0
    assert not {"agreement_correlation", "agreement_wrong_signs"} & set(found.attrs)


def test_no_interval_is_claimed_from_a_line_or_a_constant() -> None:
    line = np.linspace(-1.0, 1.0, 16)
    spike = np.where(np.arange(16) == 3, 1.0, 0.0)
    zero = np.zeros(16)
    for guess, rest in ((line, line), (spike, zero), (zero, zero)):
        strata = [trust.Stratum(200, guess, guess), trust.Stratum(1800, rest, rest)]
        assert np.isnan(trust.compared(strata).correlation).all()
    whole = [trust.Stratum(16, line, line), trust.Stratum(16, line, line)]
    assert trust.compared(whole).correlation == pytest.approx((1, 1, 1))


METHODS = ("columns", "gradient", "integrated", "atp*", "relp")


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_what_fails_inside_leaves_nothing_behind(llama: Tiny, method: Any) -> None:
    pairs, linear = prompt_pairs(llama), functional.linear
    calls, last = 0, 10**9

    def failing(*args: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls > last:
            raise ZeroDivisionError
        return linear(*args)

    def run() -> xr.Dataset:
        return estimate(llama.model, pairs, "z", method=method, check=0)

    before = run()
    with mock.patch.object(functional, "linear", failing):
        for share in (0.1, 0.5, 0.75, 0.95):
            calls, last = 0, 10**9
            run()
            assert calls > 10
            calls, last = 0, int(share * calls)
            with pytest.raises(ZeroDivisionError):
                run()
            assert untouched(llama)
            assert torch.is_grad_enabled()
            weights = llama.model.bridge.original_model.parameters()
            assert not any(w.requires_grad or w.grad is not None for w in weights)
    xr.testing.assert_identical(run(), before)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-4), (torch.bfloat16, 0.25)])
def test_other_precisions_are_estimated_alike(llama: Tiny, dtype: torch.dtype, atol: float) -> None:
    model = load_model(copy.deepcopy(llama.hf).to(dtype), tokenizer=build_tokenizer())
    texts = ["we saw Ann near Rome and then"], ["we saw Bo near Oslo and then"], [" Gus"], [" Ida"]
    for method in METHODS:
        # How many are run otherwise hangs on a rank, which rounding turns.
        more: dict[str, Any] = {"columns": 99} if method == "columns" else {}
        found, expected = (
            estimate(one, PromptPairs(one, *texts), "z", method=method, check=0, **more)  # type: ignore[arg-type]
            for one in (model, llama.model)
        )
        np.testing.assert_allclose(moved(found), moved(expected), rtol=0, atol=atol)
        assert np.abs(moved(expected)).max() > 2 * atol
