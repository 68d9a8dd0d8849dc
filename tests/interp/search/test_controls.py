"""Scores of given suffixes, random ones, and vectors within a bound."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from interp import continuous_suffix, random_suffixes, score_suffixes
from interp.errors import ArgumentError, PromptError
from tests.interp.search.cases import ANSWERS, FOILS, PROMPTS, put, whole_passes
from tests.interp.tiny import VOCABULARY, words
from tests.interp.vectors.whole_passes import Built

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.mark.slow
def test_suffixes_of_several_lengths_are_whole_passes(gpt2: Built) -> None:
    suffixes = ["Gus", "Ida Jo who", "Ann", "so so so"]
    found = score_suffixes(gpt2.model, PROMPTS, ANSWERS, suffixes=[f" {one}" for one in suffixes])
    expected = whole_passes(gpt2, [words(one) for one in suffixes], foils=None)
    np.testing.assert_allclose(found["score"], expected, **TOLERANCE)
    np.testing.assert_allclose(found["loss"], -expected.mean(1), **TOLERANCE)
    assert found["tokens"].values.tolist() == [1, 3, 1, 3]


def likelihood(built: Built, tokens: list[int]) -> float:
    """Log-probability of some words after what stands before them, mean over prompts."""
    befores = [prompt.split("{suffix}")[0] for prompt in PROMPTS]
    names = " ".join(VOCABULARY[i] for i in tokens)
    return float(np.mean([built.logprob("resid_pre", b, names, []) for b in befores]))


@pytest.mark.slow
def test_random_suffixes_are_as_likely_as_the_one_they_are_compared_with(gpt2: Built) -> None:
    like = " Gus Ida who"
    found = random_suffixes(gpt2.model, PROMPTS, 5, like=like, tolerance=0.3, seed=1)
    np.testing.assert_allclose(
        found.attrs["like_logprob"], likelihood(gpt2, words(like)), **TOLERANCE
    )
    for tokens, value in zip(found["token_id"].values.tolist(), found["logprob"], strict=True):
        np.testing.assert_allclose(value, likelihood(gpt2, tokens), **TOLERANCE)
    assert found["matched"].all()
    assert (abs(found["logprob"] - found.attrs["like_logprob"]) <= 0.3).all()
    free = random_suffixes(gpt2.model, PROMPTS, 5, length=3, seed=1)
    assert np.ptp(free["logprob"].values) > 0.6
    assert len(set(free["suffix"].values)) == 5
    again = random_suffixes(gpt2.model, PROMPTS, 5, like=like, tolerance=0.3, seed=1)
    assert again["suffix"].values.tolist() == found["suffix"].values.tolist()


@pytest.mark.slow
def test_what_is_not_as_likely_is_said(gpt2: Built) -> None:
    found = random_suffixes(gpt2.model, PROMPTS, 4, like=" Gus Ida who", tolerance=1e-9, rounds=3)
    assert not found["matched"].any()


@pytest.mark.slow
def test_vectors_keep_the_bound_as_the_first_block_reads_them(built: Built) -> None:
    model = built.model
    found = continuous_suffix(
        model, PROMPTS, ANSWERS, FOILS, suffix=" Gus Ida", bound=0.3, steps=12, n_random=3
    )
    moves = torch.from_numpy(found["vectors"].values)
    norm = model.bridge.blocks[0].ln1
    most = np.zeros(2)
    score = []
    for example, prompt in enumerate(PROMPTS):
        whole = put(prompt, words("Gus Ida"))
        at = len(built.ids(prompt.split("{suffix}")[0]))
        stream = built.activation("resid_pre", 0, whole)
        with torch.no_grad():
            read, moved = (
                norm(x[None, at : at + 2]) for x in (stream, stream + _at(stream, at, moves))
            )
        share = ((moved - read).norm(dim=-1) / read.norm(dim=-1))[0].numpy()
        most = np.maximum(most, share)
        # And the score is that of a whole pass with these vectors put in.
        writes = [(0, at + slot, stream[at + slot] + moves[slot]) for slot in range(2)]
        texts = [ANSWERS[example].strip(), FOILS[example].strip()]
        answer, foil = (built.logprob("resid_pre", whole, one, writes) for one in texts)
        score.append(answer - foil)
    np.testing.assert_allclose(found["reached"], most, rtol=1e-4)
    assert found["reached"].max() <= 0.3 + 1e-6
    assert found["reached_raw"].max() <= 0.3 + 1e-6
    assert max(found["reached"].max(), found["reached_raw"].max()) > 0.29
    np.testing.assert_allclose(found["score"], score, **TOLERANCE)
    assert found["loss"].min() < found["loss"][0] - 0.2
    assert -found["random_score"].mean("example").min() > found["loss"].min()
    np.testing.assert_allclose(found["loss"].min(), -np.mean(score), **TOLERANCE)


def _at(stream: torch.Tensor, at: int, moves: torch.Tensor) -> torch.Tensor:
    out = torch.zeros_like(stream)
    out[at : at + len(moves)] = moves
    return out


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda m: random_suffixes(m, PROMPTS, 2), ArgumentError, "Give either"),
        (lambda m: random_suffixes(m, PROMPTS, 2, length=2, like=" Gus"), ArgumentError, "either"),
        (lambda m: random_suffixes(m, PROMPTS, 0, length=2), ArgumentError, "at least 1"),
        (lambda m: random_suffixes(m, PROMPTS, 2, length=99), PromptError, "at most"),
        (lambda m: score_suffixes(m, PROMPTS, ANSWERS, suffixes=[]), PromptError, "at least one"),
        (lambda m: score_suffixes(m, PROMPTS, ANSWERS, suffixes=" Gus"), Exception, "suffixes"),
        (lambda m: continuous_suffix(m, PROMPTS, ANSWERS, bound=0.0), ArgumentError, "positive"),
        (lambda m: continuous_suffix(m, PROMPTS, ANSWERS, steps=0), ArgumentError, "one step"),
    ],
)
def test_bad_input_is_refused(gpt2: Built, call: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        call(gpt2.model)
