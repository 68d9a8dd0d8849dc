"""An estimate tells how well it agrees with cells that were run, and no more than they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from interp import estimate, sweep
from interp.errors import SiteError
from interp.patching import refine
from interp.patching.estimates import trust
from tests.interp.pairs import prompt_pairs
from tests.interp.tiny import Tiny

ASKED: dict[str, Any] = {"by": ("head", "position"), "method": "gradient"}


def moved(result: xr.Dataset) -> np.ndarray:
    change = (result["patched"] - result["corrupt"]).values
    return change[np.isfinite(change)]


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


def test_what_is_refined_says_it_too(llama: Tiny) -> None:
    pairs = prompt_pairs(llama)
    plain = estimate(llama.model, pairs, "attn_out").attrs
    noted = {name: value for name, value in plain.items() if name.startswith("agreement")}
    assert "agreement_correlation" in noted
    for found in (
        sweep(llama.model, pairs, "attn_out", only=2),
        next(refine(llama.model, pairs, "attn_out")),
    ):
        assert {name: found.attrs.get(name) for name in noted} == noted
        assert found.attrs["estimated_by"] == plain["estimated_by"]


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
