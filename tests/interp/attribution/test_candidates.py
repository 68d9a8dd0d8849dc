"""Shares of many tokens are, one by one, those of `direct_logit_attribution`."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch

from interp import direct_logit_attribution, load_model
from interp.attribution.candidates import attribute_candidates
from interp.errors import PromptError
from tests.interp.architectures import ARCHITECTURES
from tests.interp.tiny import build_tokenizer, words

pytestmark = pytest.mark.slow

PROMPTS = ["we saw Ann near Rome and then", "so Fay is"]
NAMES = ["Gus", "Jo", "Ida"]


@functools.cache
def built(name: str) -> Any:
    return load_model(ARCHITECTURES[name].build(), tokenizer=build_tokenizer())


@pytest.mark.parametrize("name", ["GPT-2", "Llama", "Gemma 2", "Cohere", "Granite", "OPT"])
@pytest.mark.parametrize("by", ["head", "component"])
def test_every_candidate_is_attributed_as_alone(name: str, by: Any) -> None:
    model = built(name)
    tokens = [words(each)[0] for each in NAMES]
    found = attribute_candidates(model, PROMPTS, tokens, by=by)
    for column, each in enumerate(NAMES):
        alone = direct_logit_attribution(model, PROMPTS, [f" {each}"] * 2, by=by)
        assert found["component"].values.tolist() == alone["component"].values.tolist()
        np.testing.assert_allclose(
            found["contribution"].values[:, :, column],
            alone["contribution"].values,
            atol=2e-4 * float(abs(alone["contribution"]).max()),
        )


def test_a_half_precise_model_is_attributed_too() -> None:
    model = load_model(
        ARCHITECTURES["Llama"].build().to(torch.bfloat16), tokenizer=build_tokenizer()
    )
    tokens = [words(each)[0] for each in NAMES]
    found = attribute_candidates(model, PROMPTS, tokens)
    alone = direct_logit_attribution(model, PROMPTS, [" Jo"] * 2, by="head")
    np.testing.assert_allclose(
        found["contribution"].values[:, :, 1], alone["contribution"].values, atol=0.05
    )


def test_no_candidates_repeated_and_unknown_ones_are_refused() -> None:
    for tokens in ([], [4, 4]):
        with pytest.raises(PromptError, match="at least one candidate"):
            attribute_candidates(built("Llama"), PROMPTS, tokens)
    with pytest.raises(PromptError, match="vocabulary"):
        attribute_candidates(built("Llama"), PROMPTS, [10**6])
