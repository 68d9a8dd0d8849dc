"""What cannot be asked is refused in one sentence; `test_edges_architectures` has the models."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from interp import PromptPairs
from interp.circuits import attribute_edges
from interp.errors import ArgumentError, MetricError, ObverseError, PromptError, SiteError
from tests.interp.pairs import prompt_pairs
from tests.interp.tiny import Tiny


def refusal(kind: type[ObverseError], *args: Any, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        attribute_edges(*args, **options)
    text = str(caught.value)
    assert text.endswith(".")
    assert "\n" not in text
    assert ". " not in text.removesuffix(".")
    return text


def test_unknown_method(gpt2: Tiny) -> None:
    text = refusal(ArgumentError, gpt2.model, prompt_pairs(gpt2), method="acdc")
    assert "'acdc'" in text
    assert "eap-ig-activations" in text


def test_no_steps(gpt2: Tiny) -> None:
    for steps in (0, -1):
        refusal(SiteError, gpt2.model, prompt_pairs(gpt2), steps=steps)


def test_positions_by_the_exact_method_and_unknown_axes(gpt2: Tiny) -> None:
    refusal(SiteError, gpt2.model, prompt_pairs(gpt2), method="exact", by="position")
    refusal(ArgumentError, gpt2.model, prompt_pairs(gpt2), by="head")


@pytest.mark.slow
def test_metrics_without_a_gradient(gpt2: Tiny) -> None:
    text = refusal(MetricError, gpt2.model, prompt_pairs(gpt2), "rank")
    assert "method='exact'" in text
    found = attribute_edges(gpt2.model, prompt_pairs(gpt2), "rank", method="exact")
    assert found["score"].notnull().any()
    assert found.attrs["unit"] == "rank"


@pytest.mark.slow
def test_unknown_metrics_and_missing_foils(gpt2: Tiny) -> None:
    refusal(MetricError, gpt2.model, prompt_pairs(gpt2), "accuracy")
    ids = torch.tensor([[1, 4, 5]])
    pairs = PromptPairs(gpt2.model, ids, ids + 1, torch.tensor([7]))
    refusal(PromptError, gpt2.model, pairs, "logit_diff")
    attribute_edges(gpt2.model, pairs, "answer_logprob")
