"""Blocks without their wrappers: only where nobody listens, and only as long as it takes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from interp import Intervention, Model, generate, load_model
from interp.forward.hooks import hooked
from interp.forward.packing import runs_as
from interp.forward.plain import PlainBlocks
from interp.model.identity.structure import walk
from tests.interp.architectures import ARCHITECTURES
from tests.interp.tiny import build_tokenizer

PROMPTS = ["we saw Ann near Rome and then", "so Fay is"]


@pytest.fixture(scope="module")
def gpt2() -> Model:
    return load_model(ARCHITECTURES["GPT-2"].build(), tokenizer=build_tokenizer())


def wrapped(model: Model) -> list[bool]:
    """Of each block, whether TransformerLens' wrapper stands there."""
    return [type(block).__module__.startswith("transformer_lens") for block in model.bridge.blocks]


def written(model: Model, **options: Any) -> Any:
    return generate(model, PROMPTS, max_new_tokens=5, stop_at_eos=False, **options).tokens


@pytest.mark.slow
def test_wrappers_come_back_whatever_happens(gpt2: Model) -> None:
    before = walk(gpt2.bridge)
    blocks = gpt2.bridge.original_model.transformer.h

    def interrupted() -> None:
        with PlainBlocks.of(gpt2).in_place():
            assert wrapped(gpt2) == [False, False]
            for block in blocks:
                for module in block.modules():
                    assert not type(module).__module__.startswith("transformer_lens")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    after = walk(gpt2.bridge)
    assert after.keys() == before.keys()
    assert all(after[path] is module for path, module in before.items())


def test_blocks_with_hooks_keep_their_wrappers(gpt2: Model) -> None:
    plain = PlainBlocks.of(gpt2)
    for point in ("hook_out", "attn.q.hook_out", "mlp.out.hook_in", "ln1.hook_scale"):
        found = gpt2.bridge.blocks[1]
        for part in point.split("."):
            found = getattr(found, part)
        with hooked([(found, lambda value: None)]), plain.in_place():
            assert wrapped(gpt2) == [False, True]
    handle = gpt2.bridge.blocks[0].attn.register_forward_hook(lambda *_: None)
    with plain.in_place():
        assert wrapped(gpt2) == [True, False]
    handle.remove()
    with plain.in_place():
        assert wrapped(gpt2) == [False, False]


@pytest.mark.slow
def test_what_is_changed_or_kept_is_so_at_each_step(
    gpt2: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    steer = Intervention.add(torch.arange(32.0) % 5 - 2, "mlp_out.1", 8.0)
    found = generate(
        gpt2,
        PROMPTS,
        max_new_tokens=5,
        sites="resid_post.0",
        interventions=steer,
        stop_at_eos=False,
    )
    monkeypatch.setattr(Model, "is_as_built", lambda self: False)
    expected = generate(
        gpt2,
        PROMPTS,
        max_new_tokens=5,
        sites="resid_post.0",
        interventions=steer,
        stop_at_eos=False,
    )
    assert found.texts == expected.texts
    torch.testing.assert_close(
        found.activations["resid_post.0"], expected.activations["resid_post.0"]
    )
    assert found.texts != generate(gpt2, PROMPTS, max_new_tokens=5, stop_at_eos=False).texts


@pytest.mark.slow
def test_a_matrix_that_was_copied_to_be_divided_is_the_one_that_counts() -> None:
    """GPT-NeoX has its queries among others; TransformerLens computes with a copy of them."""
    model = load_model(ARCHITECTURES["GPT-NeoX"].build(), tokenizer=build_tokenizer())
    with PlainBlocks.of(model).in_place():
        assert wrapped(model) == [True, True]


@pytest.mark.slow
def test_weights_that_somebody_puts_into_a_wrapper_count() -> None:
    model = load_model(ARCHITECTURES["GPT-2"].build(), tokenizer=build_tokenizer())
    written(model)
    value = model.bridge.blocks[0].attn.v
    value.weight.data = -3 * value.weight.data  # behind PyTorch's back
    with PlainBlocks.of(model).in_place():
        assert wrapped(model) == [True, False]


@pytest.mark.slow
def test_code_that_somebody_puts_into_a_wrapper_runs_at_each_step() -> None:
    model = load_model(ARCHITECTURES["GPT-2"].build(), tokenizer=build_tokenizer())
    written(model)
    mlp = model.bridge.blocks[0].mlp
    forward, calls = mlp.forward, []

    def counting(stream: Tensor, *args: Any, **kwargs: Any) -> Any:
        calls.append(stream.shape[1])
        return forward(stream, *args, **kwargs)

    with runs_as(mlp, counting):
        assert not model.is_as_built()
        written(model)  # tries it, too
        calls.clear()
        written(model)
        assert calls.count(1) == 4
    assert model.is_as_built()
