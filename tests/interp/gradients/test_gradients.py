"""Products of gradients, against whole gradients of Hugging Face's own model, prompt by prompt."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from interp import load_model
from interp.errors import ModelError, PromptError
from interp.gradients.factors import mlp_matrices, traffic
from interp.gradients.products import gradient_products
from tests.interp.architectures import ARCHITECTURES
from tests.interp.tiny import BOS, VOCABULARY, build_tokenizer, words

pytestmark = pytest.mark.slow

PROMPTS = ["we saw Ann near Rome and then", "so Fay is", "Ann is the friend of"]
ANSWERS = [" Gus", " Jo", " Ida"]
NAMES = ["GPT-2", "Llama", "OPT", "Gemma 2", "GPT-NeoX", "Cohere"]


@functools.cache
def built(name: str) -> tuple[Any, Any]:
    architecture = ARCHITECTURES[name]
    return architecture.build(), load_model(architecture.build(), tokenizer=build_tokenizer())


def whole(name: str, wanted: Callable[[str, Any], bool]) -> np.ndarray:
    """Inner products of Hugging Face's gradients, one prompt after the other."""
    hf, model = built(name)
    parameters = [p for n, p in hf.named_parameters() if wanted(n, p)]
    rows = []
    for prompt, answer in zip(PROMPTS, ANSWERS, strict=True):
        bos = [VOCABULARY.index(BOS)] if model.prepends_bos else []
        logits = hf(torch.tensor([[*bos, *words(prompt)]])).logits[0, -1]
        value = logits.log_softmax(-1)[words(answer)[0]]
        found = torch.autograd.grad(value, parameters, allow_unused=True)
        rows.append(torch.cat([g.reshape(-1) for g in found if g is not None]).double())
    table = torch.stack(rows)
    return (table @ table.T).numpy()


def of_mlp(name: str, parameter: Any) -> bool:
    return parameter.ndim == 2 and any(part in name for part in (".mlp.", ".fc1.", ".fc2."))


@pytest.mark.parametrize("name", NAMES)
def test_factors_make_the_products_of_whole_gradients(name: str) -> None:
    expected = whole(name, of_mlp)
    found = gradient_products(built(name)[1], PROMPTS, ANSWERS)
    np.testing.assert_allclose(found["product"], expected, rtol=1e-3, atol=1e-4 * expected.max())
    size = np.sqrt(expected.diagonal())
    np.testing.assert_allclose(found["cosine"], expected / np.outer(size, size), atol=1e-4)


@pytest.mark.parametrize("name", ["GPT-2", "Mixtral"])
def test_all_parameters_with_tied_ones_and_experts(name: str) -> None:
    expected = whole(name, lambda *_: True)
    found = gradient_products(built(name)[1], PROMPTS, ANSWERS, parameters="all")
    np.testing.assert_allclose(found["product"], expected, rtol=1e-3, atol=1e-4 * expected.max())


@pytest.mark.parametrize("parameters", ["mlp", "all"])
def test_little_memory_changes_nothing(parameters: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = built("Llama")[1]
    plenty = gradient_products(model, PROMPTS, ANSWERS, parameters=parameters)
    largest = max(p.numel() for p in model.bridge.original_model.parameters())
    monkeypatch.setattr(
        "interp.gradients.products.room_to_keep", lambda _: len(PROMPTS) * largest * 4
    )
    monkeypatch.setattr("interp.gradients.products.rows_that_fit", lambda *_: 1)
    tight = gradient_products(model, PROMPTS, ANSWERS, parameters=parameters)
    np.testing.assert_allclose(tight["product"], plenty["product"], rtol=1e-4)
    if parameters == "all":
        monkeypatch.setattr("interp.gradients.products.room_to_keep", lambda _: 1000)
        with pytest.raises(ModelError, match="of memory"):
            gradient_products(model, PROMPTS, ANSWERS, parameters="all")


def test_the_model_is_left_as_it_was() -> None:
    model = built("Llama")[1]
    parameters = list(model.bridge.original_model.parameters())
    before, state = model.fingerprint, torch.get_rng_state()
    parameters[3].requires_grad_(True)
    try:
        for which in ("mlp", "all"):
            gradient_products(model, PROMPTS, ANSWERS, parameters=which)
        assert [p.requires_grad for p in parameters].count(True) == 1
        assert parameters[3].requires_grad
    finally:
        parameters[3].requires_grad_(False)
    assert all(p.grad is None for p in parameters)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.fingerprint == before
    assert not any(module._forward_hooks for module in mlp_matrices(model))


def test_hooks_are_taken_away_after_an_error() -> None:
    model = built("Llama")[1]
    modules = mlp_matrices(model)
    with pytest.raises((IndexError, RuntimeError)):
        traffic(model, modules, torch.full((1, 2), 9999), torch.tensor([2]), torch.tensor([3]))
    assert not any(module._forward_hooks for module in modules)
    assert torch.is_grad_enabled()


def test_a_nearly_certain_answer_still_has_a_direction() -> None:
    """Its gradient is tiny: products of it would be nothing in float32."""
    model = load_model(ARCHITECTURES["Llama"].build(), tokenizer=build_tokenizer())
    ids = torch.tensor([model.token_ids("so Fay is")])
    unembedding = model.bridge.original_model.lm_head.weight
    for _ in range(40):
        best = model.bridge(ids)[0, -1].log_softmax(-1).max(-1)
        if float(best.values) > -1e-5:
            break
        with torch.no_grad():
            unembedding.mul_(1.3)
    assert -1e-5 < float(best.values) < 0
    answer = torch.tensor([int(best.indices)] * 2)
    found = gradient_products(model, ids.expand(2, -1), answer)
    assert 0 < float(found["product"][0, 0]) < 1e-3
    assert float(found["cosine"][0, 1]) == pytest.approx(1, abs=1e-5)


def test_what_cannot_be_read_is_refused_in_a_sentence() -> None:
    with pytest.raises(ModelError, match="parameters='all'"):
        gradient_products(built("Mixtral")[1], PROMPTS, ANSWERS)
    model = built("Llama")[1]
    with pytest.raises(PromptError, match="2 answers for 3 prompts"):
        gradient_products(model, PROMPTS, ANSWERS[:2])
    with pytest.raises(PromptError, match="one answer"):
        gradient_products(model, PROMPTS, [[" Gus", " Jo"]] * 3)
