"""Batches that hold only what a swap can reach give the numbers of whole passes."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch

from interp import Intervention, Projection, applied, capture, score_suffixes
from interp.search.goal import Asked
from interp.search.rows import scores, slope
from tests.interp.search.cases import ANSWERS, FOILS, POOL, PROMPTS, put, text, whole_passes
from tests.interp.tiny import words
from tests.interp.vectors.whole_passes import Built

BASE = " Gus Ida who"
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


def candidates() -> np.ndarray:
    """Some that differ from the base in every slot, in the last, and nowhere."""
    found = np.random.default_rng(0).choice(POOL, (6, 3))
    found[0] = found[1] = words(BASE)
    found[1, 2] = POOL[4]
    return found


@pytest.mark.slow
def test_candidates_are_whole_passes(built: Built) -> None:
    asked, base = Asked.of(built.model, PROMPTS, BASE, ANSWERS, FOILS, None)
    assert list(base) == words(BASE)
    found = scores(built.model, asked, base, candidates())
    expected = whole_passes(built, candidates().tolist())
    assert np.ptp(expected, axis=0).min() > 0.5
    np.testing.assert_allclose(found, expected, **TOLERANCE)
    few = scores(built.model, asked, base, candidates(), batch_size=5)
    np.testing.assert_allclose(few, expected, **TOLERANCE)


@pytest.mark.slow
def test_where_windows_cannot_be_laid_out_whole_prompts_are(gpt2: Built) -> None:
    """With an intervention in place, which sees whole activations."""
    direction = torch.linspace(-1, 1, gpt2.model.d_model)
    change = Intervention.add(direction, "resid_post.0")
    given = {"suffixes": [text(row) for row in candidates().tolist()]}
    plain = score_suffixes(gpt2.model, PROMPTS, ANSWERS, FOILS, **given)
    with applied(gpt2.model, change):
        found = score_suffixes(gpt2.model, PROMPTS, ANSWERS, FOILS, **given)["score"].values
        one = [
            score_suffixes(gpt2.model, PROMPTS, ANSWERS, FOILS, suffixes=[suffix])["score"].values
            for suffix in given["suffixes"]
        ]
    np.testing.assert_allclose(found, np.concatenate(one), **TOLERANCE)
    assert np.abs(found - plain["score"].values).max() > 0.05


@pytest.mark.parametrize(
    ("site", "layer"), [("resid_post", 0), ("resid_post", 1), ("resid_pre", 1), ("mlp_out", 1)]
)
def test_projections_are_those_of_captured_activations(gpt2: Built, site: str, layer: int) -> None:
    direction = torch.randn(gpt2.model.d_model, generator=torch.Generator().manual_seed(0))
    found = score_suffixes(
        gpt2.model,
        PROMPTS,
        suffixes=[text(row) for row in candidates().tolist()],
        goal=Projection(direction, layer, site),
    )
    for i, row in enumerate(candidates().tolist()):
        whole = [put(prompt, row) for prompt in PROMPTS]
        seen = capture(gpt2.model, whole, f"{site}.{layer}", positions="last")[f"{site}.{layer}"]
        expected = (seen @ (direction / direction.norm())).numpy()
        np.testing.assert_allclose(found["score"][i], expected, **TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("goal", [None, "resid_post", "attn_out"])
def test_the_gradient_is_that_of_finite_differences(built: Built, goal: str | None) -> None:
    model = built.model
    direction = torch.linspace(-1, 1, model.d_model)
    projection = None if goal is None else Projection(direction, 1, goal)
    given = (ANSWERS, FOILS) if goal is None else (None, None)
    asked, base = Asked.of(model, PROMPTS, BASE, *given, projection)
    here = slope(model, asked, base)
    generator = torch.Generator().manual_seed(0)
    step = 1e-3 * torch.randn(here.by_slot.shape, generator=generator)
    up, down = (slope(model, asked, base, sign * step).scores.mean() for sign in (1, -1))
    predicted = float((here.by_slot * step).sum()) * 2
    assert abs(up - down) > 1e-4
    np.testing.assert_allclose(up - down, predicted, rtol=3e-2)


def test_nothing_is_left_behind_on_the_model(gpt2: Built) -> None:
    model = gpt2.model
    asked, base = Asked.of(model, PROMPTS, BASE, ANSWERS, FOILS, None)
    before, state = model.fingerprint, torch.get_rng_state()
    slope(model, asked, base)
    beyond = np.full((1, 3), model.d_vocab)
    with contextlib.suppress(IndexError):
        scores(model, asked, base, beyond)
    assert model.fingerprint == before
    assert model.is_as_built()
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(p.requires_grad or p.grad is not None for p in model.bridge.parameters())
