"""Sweeps agree with TransformerLens 2.18 (HookedTransformer, raw weights) on stored models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from interp import Model, PromptPairs, Site, load_model, record, sweep
from interp.forward.passes import readout

pytestmark = pytest.mark.shared
NAMES = ("gpt2", "llama", "neox")
TOLERANCE = {"rtol": 0, "atol": 1e-4}
# Stored name: site, axes in the stored order.
SWEPT: dict[str, tuple[str, tuple[str, ...]]] = {
    "resid_pre": ("resid_pre", ("position",)),
    "resid_mid": ("resid_mid", ("position",)),
    "attn_out": ("attn_out", ("position",)),
    "mlp_out": ("mlp_out", ("position",)),
    "head_out": ("z", ("head",)),
    "head_out_by_pos": ("z", ("position", "head")),
    "head_q_by_pos": ("q", ("position", "head")),
    "head_k_by_pos": ("k", ("position", "head")),
    "head_v_by_pos": ("v", ("position", "head")),
    "head_pattern": ("pattern", ("head",)),
}


@dataclass(frozen=True)
class Golden:
    name: str
    model: Model
    answers: dict[str, np.ndarray[Any, Any]]

    def tensor(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self.answers[name]).long()

    @property
    def pairs(self) -> PromptPairs:
        return PromptPairs(
            self.model,
            clean=self.tensor("clean"),
            corrupt=self.tensor("corrupt"),
            answers=self.tensor("answer"),
            foils=self.tensor("wrong"),
        )


@pytest.fixture(scope="module", params=NAMES)
def golden(request: pytest.FixtureRequest, shared: Path) -> Golden:
    folder = shared / "golden" / request.param
    with np.load(folder / "golden.npz", allow_pickle=False) as stored:
        answers = {name: stored[name] for name in stored.files}
    return Golden(request.param, load_model(folder), answers)


@pytest.mark.parametrize("stored", SWEPT)
def test_sweep_gives_the_stored_patching_results(golden: Golden, stored: str) -> None:
    site, axes = SWEPT[stored]
    if f"patch_{stored}" not in golden.answers:
        assert (golden.name, site) == ("neox", "resid_mid")
        pytest.skip("parallel blocks have no such stream")
    found = sweep(golden.model, golden.pairs, site, by=axes)
    expected = golden.answers[f"patch_{stored}"]
    mean = found["patched"].mean("example").transpose("layer", *axes)
    np.testing.assert_allclose(mean, expected, **TOLERANCE)
    np.testing.assert_allclose(found["clean"], golden.answers["ld_clean"], **TOLERANCE)
    np.testing.assert_allclose(found["corrupt"], golden.answers["ld_corrupt"], **TOLERANCE)


def test_no_stored_patching_result_is_left_out(golden: Golden) -> None:
    stored = {n.removeprefix("patch_") for n in golden.answers if n.startswith("patch_")}
    assert stored <= set(SWEPT)


@pytest.mark.parametrize("run", ["clean", "corrupt"])
def test_readout_of_the_recorded_stream_is_hugging_faces_logits(golden: Golden, run: str) -> None:
    last = Site("resid_post", golden.model.n_layers - 1)
    recording = record(golden.model, golden.tensor(run), [last])
    logits = readout(golden.model, recording[last])
    np.testing.assert_allclose(logits, golden.answers[f"logits_hf_{run}"], **TOLERANCE)
