"""Metrics are what Hugging Face's logits say, computed here in float64 without the instruments."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from interp import METRICS, PromptPairs, sweep
from interp.errors import MetricError, PromptError
from interp.metrics import (
    get_metric,
    logit_diff,
    target_logit,
    target_logprob,
    target_probability,
    target_rank,
)
from tests.interp import brute_force
from tests.interp.pairs import CASES, prompt_pairs
from tests.interp.tiny import Tiny


@pytest.fixture(scope="module")
def logits() -> torch.Tensor:
    """[row, read, vocabulary], far enough from zero that a missing normalisation shows."""
    return 3 * torch.randn(4, 3, 11, generator=torch.Generator().manual_seed(0)) + 7


TARGETS = torch.tensor([[1, 2, 3], [4, 10, -1], [0, -1, -1], [5, 5, 5]])


def expected_logprob(logits: torch.Tensor, row: int) -> float:
    table = log_softmax(logits[row].double().numpy(), axis=-1)
    return float(sum(table[read, t] for read, t in enumerate(TARGETS[row].tolist()) if t >= 0))


def test_logprob_is_the_sum_over_the_tokens_that_there_are(logits: torch.Tensor) -> None:
    expected = [expected_logprob(logits, row) for row in range(4)]
    np.testing.assert_allclose(target_logprob(logits, TARGETS), expected, rtol=1e-5)
    np.testing.assert_allclose(target_probability(logits, TARGETS), np.exp(expected), rtol=1e-4)


def test_logit_and_rank_are_those_of_the_first_token(logits: torch.Tensor) -> None:
    for row in range(4):
        first = logits[row, 0].tolist()
        chosen = first[int(TARGETS[row, 0])]
        assert float(target_logit(logits, TARGETS)[row]) == chosen
        assert float(target_rank(logits, TARGETS)[row]) == sum(value > chosen for value in first)


def test_equal_logits_share_the_better_rank() -> None:
    flat = torch.tensor([[[1.0, 2.0, 2.0, 0.0]]])
    ranks = [float(target_rank(flat, torch.tensor([[token]]))[0]) for token in range(4)]
    assert ranks == [2, 0, 0, 3]


def test_what_is_no_number_has_no_rank() -> None:
    """As after an overflow in half precision: nothing is larger than it."""
    lost = torch.tensor([[[1.0, 2.0, 0.0]], [[torch.nan] * 3]])
    assert str(target_rank(lost, torch.tensor([[0], [0]])).tolist()) == "[1.0, nan]"


def test_impossible_tokens_have_probability_zero_not_nan() -> None:
    sharp = torch.tensor([[[0.0, -1e4, 1e4]]])
    assert float(target_probability(sharp, torch.tensor([[0]]))[0]) == 0.0
    assert float(target_logprob(sharp, torch.tensor([[2]]))[0]) == 0.0


@pytest.mark.parametrize("name", METRICS)
def test_each_metric_is_what_hugging_faces_logits_say(tiny: Tiny, name: str) -> None:
    found = sweep(tiny.model, prompt_pairs(tiny), "resid_pre", METRICS[name], layers=[0])
    for run in ("clean", "corrupt"):
        expected = brute_force.unpatched(tiny, run, name)
        np.testing.assert_allclose(found[run], expected, rtol=0, atol=1e-4)
        assert np.ptp(expected) > 1e-4  # one number for all would not tell examples apart
    assert (found.attrs["metric"], found.attrs["unit"]) == (name, METRICS[name].unit)


def test_every_metric_is_found_under_its_own_name() -> None:
    assert all(name == metric.name for name, metric in METRICS.items())
    assert get_metric("logit_diff") is logit_diff
    assert get_metric(logit_diff) is logit_diff


def test_a_misspelt_metric_is_answered_with_the_nearest(llama: Tiny) -> None:
    with pytest.raises(MetricError, match="Did you mean 'logit_diff'"):
        sweep(llama.model, prompt_pairs(llama), "resid_pre", "logitdiff")


@pytest.mark.parametrize("name", ["logit_diff", "logprob_diff"])
def test_a_difference_needs_foils_and_others_do_not(llama: Tiny, name: str) -> None:
    case = CASES[0]
    text = case.text("clean")
    pairs = PromptPairs(llama.model, [text], [text], [f" {case.answer}"])
    with pytest.raises(PromptError, match="foil"):
        sweep(llama.model, pairs, "resid_pre", name)
    found = sweep(llama.model, pairs, "resid_pre", "answer_logprob")
    expected = brute_force.score(llama, "answer_logprob", llama.ids(text), case)
    assert float(found["clean"][0]) == pytest.approx(expected, abs=1e-4)
    assert found["foil"].values.tolist() == [""]
