"""What makes no intervention, or does not fit a model, is refused in a sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from interp.errors import ArgumentError, DirectionError, PromptError, SiteError
from interp.forward.interventions import Intervention, applied
from interp.forward.source import is_hooked
from interp.generation.logits import logits
from tests.interp.tiny import VOCABULARY, Tiny

pytestmark = pytest.mark.slow

PROMPTS = ["we saw Ann near Rome and then", "so Fay is", "the friend of Bo Cy is near home and"]


@pytest.mark.parametrize(
    ("direction", "message"),
    [
        (torch.zeros(32), "length zero"),
        ([0.0, float("nan")], "finite"),
        (3.0, "vector"),
        ("up", "numbers"),
        (np.full(32, 1e300), "so large"),
    ],
)
def test_vectors_that_are_no_directions_are_refused(direction: Any, message: str) -> None:
    with pytest.raises(DirectionError, match=message):
        Intervention.add(direction, "resid_post")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (Intervention.add(torch.ones(7), "resid_post.1"), DirectionError, "does not fit"),
        (Intervention.add(torch.ones(32), "z.1.h0"), DirectionError, "shape"),
        (Intervention.add(torch.ones(32), "pattern.1"), DirectionError, "silence"),
        (Intervention.silence("resid_post.9"), SiteError, "out of range"),
        (Intervention.silence("residual"), SiteError, "Unknown site"),
        (Intervention.silence("z", positions=[4]), PromptError, "has 4 tokens and no position 4"),
        (Intervention.silence("z", positions=[-5]), PromptError, "no position -5"),
        (Intervention.silence("z", positions=torch.ones(1, 3)), PromptError, "mask"),
        (Intervention.silence("z", positions=torch.ones(3, 0) > 0), PromptError, "mask"),
        (Intervention.add(torch.full((32,), 1e30), "z", 1e30), DirectionError, "does not fit"),
        (Intervention.add(torch.full((32,), 1e30), "mlp_out", 1e30), DirectionError, "too large"),
        (Intervention.silence("z", positions=[]), PromptError, "No positions"),
        (Intervention.silence("z", positions="generated"), PromptError, "Nothing is generated"),
        (Intervention.silence([]), SiteError, "does nothing"),
    ],
)
def test_what_does_not_fit_is_refused(
    llama: Tiny, change: Intervention, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        logits(llama.model, PROMPTS, interventions=change)
    assert not is_hooked(llama.model)


@pytest.mark.parametrize("positions", ["last", "generated", [-1], torch.ones(3, 2) > 0])
def test_without_prompts_positions_must_count_from_the_left(llama: Tiny, positions: Any) -> None:
    with (
        pytest.raises(PromptError, match="depend on the prompts"),
        applied(llama.model, Intervention.silence("z", positions=positions)),
    ):
        pass


def test_doses_without_end_are_refused(llama: Tiny) -> None:
    with pytest.raises(DirectionError, match="inf"):
        Intervention.add(torch.ones(32), "resid_post", float("inf"))
    with pytest.raises(ArgumentError, match="Unknown positions 'first'"):
        Intervention.silence("z", positions="first")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="Unknown positions 'first'"):
        logits(llama.model, PROMPTS, positions="first")  # type: ignore[arg-type]
    assert len(VOCABULARY) == logits(llama.model, "so Fay is").shape[-1]
