"""Probes and workers on a model whose blocks lie on disk: what they give for the one in memory."""

from __future__ import annotations

import pytest
import torch
import xarray as xr

from interp import Model, PromptPairs, load_model, sweep
from interp.execute.recipe import ModelRecipe
from probes import collect, fit_probes, steering_check
from tests.interp.tiny import NAMES, PLACES, Tiny

PROMPTS = [f"{name} saw Bo near {place}" for name in NAMES[2:6] for place in PLACES[:4]]
LABELS = [prompt.split()[0] in NAMES[2:4] for prompt in PROMPTS]


@pytest.fixture(scope="module")
def on_disk(gpt2: Tiny) -> Model:
    return load_model(gpt2.folder, device_map={"": "cpu", "transformer.h": "disk"})


@pytest.mark.slow
def test_probes_read_and_steer_it(gpt2: Tiny, on_disk: Model) -> None:
    def found(model: Model) -> tuple[torch.Tensor, xr.Dataset]:
        features = collect(model, PROMPTS, "resid_post", positions="last")
        probes = fit_probes(features, [str(label) for label in LABELS])
        steered = steering_check(
            model,
            PROMPTS[:6],
            probes,
            "resid_post.1",
            {"True": " Ann", "False": " Bo"},
            towards="True",
            doses=(-1.0, 1.0),
            control=3,
        )
        return torch.as_tensor(features.values), steered

    (values, steered), (expected, wanted) = found(on_disk), found(gpt2.model)
    assert torch.equal(values, expected)
    xr.testing.assert_equal(steered, wanted)


@pytest.mark.slow
def test_a_worker_places_it_alike(gpt2: Tiny, on_disk: Model) -> None:
    there = ModelRecipe.of(on_disk).load()
    assert there.placed is not None
    assert there.placed.parts == on_disk.placed.parts  # type: ignore[union-attr]
    assert there.elsewhere is not None

    def found(model: Model) -> xr.Dataset:
        pairs = PromptPairs(model, PROMPTS[:3], PROMPTS[4:7], [" Cy"] * 3, [" Eve"] * 3)
        return sweep(model, pairs, "resid_pre")

    xr.testing.assert_equal(found(there), found(gpt2.model))
