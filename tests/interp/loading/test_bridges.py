"""A TransformerLens bridge that the user already has is the model that its folder would give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

from cache import ActivationStore
from interp import capture, load_model, sweep
from interp.errors import ModelError
from interp.execute.recipe import ModelRecipe
from tests.interp.pairs import prompt_pairs
from tests.interp.tiny import Tiny

PROMPTS = ["we saw Ann near Rome and then", "so Fay is near the home"]


def booted(tiny: Tiny, **settings: Any) -> TransformerBridge:
    return TransformerBridge.boot_transformers(str(tiny.folder), device="cpu", **settings)


@pytest.mark.slow
def test_it_is_the_model_of_its_folder(tiny: Tiny) -> None:
    model = load_model(booted(tiny))
    assert model.fingerprint == tiny.model.fingerprint
    assert model.name == tiny.model.name
    assert model.changes == ()
    assert model.prepends_bos == tiny.model.prepends_bos
    assert model.encode(PROMPTS) == tiny.model.encode(PROMPTS)
    assert not any(p.requires_grad for p in model.bridge.original_model.parameters())
    for site in ("resid_pre", "resid_post", "z", "mlp_out"):
        ours = sweep(model, prompt_pairs(tiny), site)["patched"]
        theirs = sweep(tiny.model, prompt_pairs(tiny), site)["patched"]
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_it_keeps_its_dtype(llama: Tiny, dtype: str) -> None:
    model = load_model(booted(llama, dtype=getattr(torch, dtype)))
    same = load_model(llama.folder, dtype=dtype, device="cpu")
    assert model.dtype == same.dtype == getattr(torch, dtype)
    assert model.fingerprint == same.fingerprint
    ours, theirs = (capture(m, PROMPTS, ["resid_post.2"]) for m in (model, same))
    torch.testing.assert_close(ours, theirs, equal_nan=True)
    with pytest.raises(ModelError, match="has its dtype"):
        load_model(booted(llama), dtype=dtype)


@pytest.mark.slow
def test_flags_of_transformerlens_change_no_number(llama: Tiny) -> None:
    bridge = booted(llama)
    bridge.set_use_attn_result(True)
    bridge.set_use_split_qkv_input(True)
    ours = sweep(load_model(bridge), prompt_pairs(llama), "z", by="head")["patched"]
    theirs = sweep(llama.model, prompt_pairs(llama), "z", by="head")["patched"]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_hooks_that_were_placed_act_and_are_told_of(llama: Tiny, tmp_path: Any) -> None:
    bridge = booted(llama)
    bridge.blocks[1].hook_out.add_hook(lambda value, hook: value * 0)
    model = load_model(bridge)
    assert [change.hook for change in model.changes] == [True]
    assert model.fingerprint != llama.model.fingerprint
    assert not capture(model, PROMPTS, ["resid_pre.2"])["resid_pre.2"].nan_to_num().any()
    with pytest.raises(ModelError, match="Hooks are placed"):
        ActivationStore(tmp_path).get(model, PROMPTS, ["resid_post"])
    bridge.reset_hooks()
    assert model.changes == ()
    assert model.fingerprint == llama.model.fingerprint


@pytest.mark.slow
def test_compatibility_mode_is_refused(gpt2: Tiny) -> None:
    bridge = booted(gpt2)
    bridge.enable_compatibility_mode(disable_warnings=True)
    with pytest.raises(ModelError, match="compatibility mode"):
        load_model(bridge)


@pytest.mark.slow
def test_it_is_not_moved(llama: Tiny) -> None:
    bridge = booted(llama)
    assert load_model(bridge, device="cpu").device.type == "cpu"
    with pytest.raises(ModelError, match="is on cpu"):
        load_model(bridge, device="meta")


@pytest.mark.slow
def test_one_without_a_tokenizer_needs_one(llama: Tiny) -> None:
    bridge = booted(llama)
    bridge.tokenizer = None
    with pytest.raises(ModelError, match="no tokenizer"):
        load_model(bridge)
    model = load_model(bridge, tokenizer=llama.model.tokenizer)
    assert model.tokenizer_fingerprint == llama.model.tokenizer_fingerprint


@pytest.mark.slow
def test_workers_can_have_it(llama: Tiny) -> None:
    model = load_model(booted(llama))
    again = ModelRecipe.of(model).load()
    assert again.fingerprint == model.fingerprint
