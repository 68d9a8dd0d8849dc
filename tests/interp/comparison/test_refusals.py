"""What cannot be compared is told in a sentence."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from interp import compare_models, load_model
from interp.comparison import (
    activation_difference,
    mean_difference,
    swap_modules,
    weight_difference,
)
from interp.errors import ArgumentError, MetricError, ModelError, PromptError, SiteError
from interp.forward.interventions import Intervention, applied
from tests.interp import tiny
from tests.interp.architectures import ARCHITECTURES
from tests.interp.comparison.by_hand import Two, loaded

PROMPT = ["we saw Ann near Rome"]


@pytest.fixture(scope="module")
def llamas(two: Callable[[str], Two]) -> Two:
    return two("Llama")


def changed(two: Two, **settings: Any) -> Any:
    """A model of the same class with other settings."""
    config = copy.deepcopy(two.hf["base"].config)
    for name, value in settings.items():
        setattr(config, name, value)
    return type(two.hf["base"])(config).eval()


@pytest.mark.slow
def test_one_object_twice(llamas: Two) -> None:
    with pytest.raises(ModelError, match="same object"):
        compare_models(llamas.base, llamas.base, PROMPT)
    again = load_model(llamas.base.bridge, tokenizer=llamas.base.tokenizer)
    with pytest.raises(ModelError, match="same object"):
        weight_difference(llamas.base, again)
    with pytest.raises(ModelError, match="same object"):
        compare_models(llamas.base, llamas.tuned, PROMPT, twin=llamas.tuned)


@pytest.mark.slow
def test_another_architecture(llamas: Two) -> None:
    with pytest.raises(ModelError, match=r"LlamaForCausalLM and .* a GPT2LMHeadModel"):
        weight_difference(llamas.base, loaded(ARCHITECTURES["GPT-2"].build()))


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{"num_hidden_layers": 1}, {"intermediate_size": 40}, {"vocab_size": 50}]
)
def test_another_shape(settings: dict[str, int], llamas: Two) -> None:
    with pytest.raises(ModelError, match="one shape"):
        weight_difference(llamas.base, loaded(changed(llamas, **settings)))


@pytest.mark.slow
def test_weights_tied_in_one_only(llamas: Two) -> None:
    with pytest.raises(ModelError, match="tied"):
        weight_difference(llamas.base, loaded(changed(llamas, tie_word_embeddings=True)))


@pytest.mark.slow
def test_another_tokenizer(llamas: Two) -> None:
    tokenizer = tiny.build_tokenizer()
    tokenizer.add_tokens(["more"])
    with pytest.raises(ModelError, match="tokenizers"):
        weight_difference(
            llamas.base, load_model(copy.deepcopy(llamas.hf["tuned"]), tokenizer=tokenizer)
        )


@pytest.mark.slow
def test_another_dtype(llamas: Two) -> None:
    half = loaded(copy.deepcopy(llamas.hf["tuned"]).bfloat16())
    with pytest.raises(ModelError, match=r"float32 in .* and bfloat16"):
        weight_difference(llamas.base, half)


@pytest.mark.slow
def test_weights_that_are_not_finite(llamas: Two) -> None:
    broken = loaded(llamas.hf["tuned"])
    with torch.no_grad():
        next(broken.bridge.original_model.parameters())[0, 0] = torch.inf
    with pytest.raises(ModelError, match="non-finite"):
        weight_difference(llamas.base, broken)


def test_hooks_of_somebody(llamas: Two) -> None:
    with (
        applied(llamas.tuned, Intervention.silence("mlp_out.0")),
        pytest.raises(ModelError, match="a hook is placed"),
    ):
        compare_models(llamas.base, llamas.tuned, PROMPT)


@pytest.mark.slow
def test_a_model_that_changes_meanwhile(llamas: Two) -> None:
    other = loaded(llamas.hf["tuned"])

    def change(_done: int, _total: int) -> None:
        with torch.no_grad():
            next(other.bridge.original_model.parameters())[0, 0] += 1

    with pytest.raises(ModelError, match="changed while"):
        swap_modules(llamas.base, other, PROMPT, answers=[" Bo"], foils=[" Cy"], progress=change)


@pytest.mark.slow
def test_arguments(llamas: Two) -> None:
    two = (llamas.base, llamas.tuned)
    with pytest.raises(ArgumentError):
        compare_models("gpt2", llamas.tuned, PROMPT)  # type: ignore[arg-type]
    with pytest.raises(PromptError):
        compare_models(*two, [])
    with pytest.raises(PromptError, match="answers"):
        compare_models(*two, PROMPT, foils=[" Bo"])
    with pytest.raises(PromptError, match="texts"):
        compare_models(*two, PROMPT, words=[" Bo"])
    with pytest.raises(PromptError, match="texts"):
        compare_models(*two, PROMPT, ask="Ann is Ann and Bo")
    with pytest.raises(MetricError):
        swap_modules(*two, PROMPT, "loss", answers=[" Bo"])
    with pytest.raises(SiteError):
        activation_difference(*two, PROMPT, "pattern")
    with pytest.raises(SiteError):
        activation_difference(*two, PROMPT, [])
    with pytest.raises(SiteError):
        activation_difference(*two, PROMPT, "resid")
    with pytest.raises(PromptError):
        activation_difference(*two, ["we " * 30])
    with pytest.raises(ModelError):
        weight_difference(*two, top=0)
    for texts in ([], [""], [3]):
        with pytest.raises((PromptError, ArgumentError)):
            mean_difference(*two, texts)  # type: ignore[arg-type]
    for wrong in ({"tokens": 0}, {"k": 0}, {"draws": -1}, {"words": [""]}, {"tokens": 99}):
        with pytest.raises(PromptError):
            mean_difference(*two, PROMPT, **wrong)  # type: ignore[arg-type]
