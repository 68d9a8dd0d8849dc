"""Every swap is the model whose weights were copied by hand, run whole in plain Hugging Face."""

from __future__ import annotations

import threading
from collections.abc import Callable
from unittest import mock

import numpy as np
import pytest
import torch

from interp.comparison import swap_modules, weight_difference
from interp.errors import ModelError, PromptError
from interp.metrics import METRICS
from tests.interp.comparison.by_hand import RULES, Two, loaded, logit_difference
from tests.interp.tiny import words

PROMPTS = ("we saw Ann near Rome and then", "so Bo is the friend of")
ANSWERS, FOILS = ("Cy", "Dee"), ("Eve", "Fay")


def swapped(two: Two, metric: str = "logit_diff"):
    return swap_modules(
        two.base,
        two.tuned,
        list(PROMPTS),
        metric,
        answers=[f" {word}" for word in ANSWERS],
        foils=[f" {word}" for word in FOILS],
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", RULES)
def test_a_swap_is_the_model_with_copied_weights(name: str, two: Callable[[str], Two]) -> None:
    made = two(name)
    result = swapped(made)
    parts = [str(part) for part in result["part"].values if " and " not in str(part)]
    for into in ("base", "tuned"):
        for number, part in enumerate(parts):
            chosen = {"single": [part], "below": parts[: number + 1], "above": parts[number:]}
            # Into the tuned model, "above" is "below" into the base of the part before, and so on.
            orders = ("single", "below", "above") if into == "base" else ("single",)
            for order in orders:
                some = chosen[order]
                hybrid = made.hybrid(into, some)
                found = result["swapped"].sel(into=into, order=order, part=part).values
                for prompt, answer, foil, value in zip(PROMPTS, ANSWERS, FOILS, found, strict=True):
                    ids = made.base.token_ids(prompt)
                    expected = logit_difference(hybrid, ids, answer, foil)
                    assert value == pytest.approx(expected, abs=2e-5), (into, order, part)


@pytest.mark.slow
def test_tied_ends_are_swapped_apart_and_together(two: Callable[[str], Two]) -> None:
    made = two("GPT-2")
    result = swapped(made)
    assert result.attrs["tied"] == 1
    hybrid = made.hybrid("base", ["embedding", "unembedding"])
    expected = logit_difference(hybrid, made.base.token_ids(PROMPTS[0]), ANSWERS[0], FOILS[0])
    both = result["swapped"].sel(into="base", part="embedding and unembedding")
    assert both.sel(order="single").values[0] == pytest.approx(expected, abs=2e-5)
    assert np.isnan(both.sel(order=["below", "above"]).values).all()
    assert "embedding and unembedding" not in swapped(two("Llama"))["part"].values


def test_the_ends_of_the_cumulative_swaps_are_the_models(two: Callable[[str], Two]) -> None:
    result = swapped(two("Llama"))
    for into, other in (("base", "tuned"), ("tuned", "base")):
        one = result.sel(into=into)
        last, first = one["part"].values[-1], one["part"].values[0]
        below = one["swapped"].sel(order="below", part=last)
        above = one["swapped"].sel(order="above", part=first)
        np.testing.assert_allclose(below, one[other], atol=1e-5)
        np.testing.assert_allclose(above, one[other], atol=1e-5)
        # Of one hybrid there are two names: the other's parts up to one, or from the next one on.
        lower = one["swapped"].sel(order="below").values[:, :-1]
        upper = result["swapped"].sel(into=other, order="above").values[:, 1:]
        np.testing.assert_allclose(lower, upper, atol=1e-6)


def test_whole_answers_are_read(two: Callable[[str], Two]) -> None:
    made = two("Llama")
    result = swap_modules(made.base, made.tuned, [PROMPTS[0]], "answer_logprob", answers=[" Cy Bo"])
    hybrid = made.hybrid("base", ["mlp 1"])
    ids = [*made.base.token_ids(PROMPTS[0]), *words("Cy Bo")]
    with torch.no_grad():
        table = hybrid(torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1)
    expected = float(table[-3, ids[-2]] + table[-2, ids[-1]])
    value = result["swapped"].sel(into="base", order="single", part="mlp 1").item()
    assert value == pytest.approx(expected, abs=2e-5)


@pytest.mark.slow
def test_batches_of_any_size_give_the_same(two: Callable[[str], Two]) -> None:
    made = two("GPT-2")
    whole = swapped(made)["swapped"].values
    with mock.patch("interp.comparison.hybrids.rows_that_fit", return_value=3):
        pieces = swapped(made)["swapped"].values
    np.testing.assert_allclose(pieces, whole, atol=1e-5)


@pytest.mark.slow
def test_progress_is_counted_to_its_end(two: Callable[[str], Two]) -> None:
    made, told = two("Llama"), []
    swap_modules(
        made.base,
        made.tuned,
        list(PROMPTS),
        "logprob_diff",
        answers=[" Cy", " Dee"],
        foils=[" Eve", " Fay"],
        progress=lambda done, total: told.append((done, total)),
    )
    assert told[-1][0] == told[-1][1]
    assert [done for done, _ in told] == sorted(done for done, _ in told)


@pytest.mark.slow
def test_an_error_in_the_middle_leaves_both_models_as_they_were(two: Callable[[str], Two]) -> None:
    made = two("GPT-2")
    models = (made.base, made.tuned)
    before = [(m.fingerprint, m.changes) for m in models]
    grads = [p.requires_grad for m in models for p in m.bridge.original_model.parameters()]
    target = made.tuned.bridge.blocks[1].mlp
    calls = []

    def fail(*_args: object) -> None:
        calls.append(1)
        if len(calls) > 3:
            raise RuntimeError("in the middle")

    # Inside of what is lent: it runs in the receiver's place.
    handle = getattr(target, "in").register_forward_pre_hook(fail)
    looked = mock.patch("interp.comparison.pair.check_unchanged", return_value="")
    with looked, pytest.raises(RuntimeError, match="in the middle"):
        swapped(made)
    handle.remove()
    assert [(m.fingerprint, m.changes) for m in models] == before
    assert not any(grads)
    assert not any(
        "forward" in vars(m) for model in models for m in model.bridge.blocks[1].children()
    )
    swapped(made)  # and it can be used again


def test_both_locks_are_held_and_given_back(two: Callable[[str], Two]) -> None:
    made = two("Llama")
    taken: list[bool] = []

    def look(*_: object) -> None:
        def other() -> None:
            for model in (made.base, made.tuned):
                got = model.lock.acquire(blocking=False)
                taken.append(got)
                if got:
                    model.lock.release()

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()

    swap_modules(
        made.base, made.tuned, [PROMPTS[0]], answers=[" Cy"], foils=[" Eve"], progress=look
    )
    assert taken
    assert not any(taken)
    taken.clear()
    look()
    assert all(taken)


@pytest.mark.slow
def test_random_numbers_are_left_alone(two: Callable[[str], Two]) -> None:
    made = two("Llama")
    torch.manual_seed(3)
    state = torch.get_rng_state()
    swapped(made)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.slow
def test_a_setting_beside_the_weights_is_told(two: Callable[[str], Two]) -> None:
    made = two("Llama")
    other = type(made.hf["tuned"])(
        made.hf["tuned"].config.__class__(
            **{
                **made.hf["tuned"].config.to_dict(),
                "rope_parameters": {"rope_type": "default", "rope_theta": 3.0},
            }
        )
    )
    other.load_state_dict(made.hf["tuned"].state_dict())
    other = loaded(other.eval())
    weights = weight_difference(made.tuned, other)
    assert not weights["norm"].any()
    assert weights.attrs["other_settings"] == "rope_parameters"
    assert weight_difference(made.base, made.tuned).attrs["other_settings"] == ""
    with pytest.raises(ModelError, match="setting beside the weights"):
        swap_modules(made.base, other, [PROMPTS[0]], answers=[" Cy"], foils=[" Eve"])


@pytest.mark.parametrize("given", [{}, {"foils": [" Eve"]}])
def test_answers_are_asked_for(given: dict[str, list[str]], two: Callable[[str], Two]) -> None:
    made = two("Llama")
    with pytest.raises(PromptError, match="answers"):
        swap_modules(made.base, made.tuned, [PROMPTS[0]], **given)
    assert "logit_diff" in METRICS
