"""A model has one identity, and computes the same, wherever it comes from."""

from __future__ import annotations

import copy
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from interp import Model, capture, load_model
from interp.errors import ModelError
from interp.model.identity.fingerprint import Outline, fingerprint, outline, twin
from tests.interp import tiny as builders
from tests.interp.folders import configured, copied, reweighted
from tests.interp.tiny import D_MODEL, N_CTX, N_HEADS, N_LAYERS, VOCABULARY, Tiny

pytestmark = pytest.mark.slow


def test_attributes_are_those_of_the_configuration(tiny: Tiny) -> None:
    model = tiny.model
    assert (model.n_layers, model.n_heads, model.d_model) == (N_LAYERS, N_HEADS, D_MODEL)
    assert (model.d_vocab, model.n_ctx) == (len(VOCABULARY), N_CTX)
    assert model.n_key_value_heads == (2 if tiny.name == "llama" else N_HEADS)
    assert model.parallel_blocks == (tiny.name == "neox")
    assert model.n_parameters == sum(p.numel() for p in tiny.hf.parameters())
    assert (model.dtype, model.device) == (torch.float32, torch.device("cpu"))
    assert (model.source, model.path, model.name) == (str(tiny.folder), tiny.folder, tiny.name)
    assert repr(model).startswith(f"Model({tiny.name!r}, 3 layers, 4 heads, d_model 32, float32")


def test_what_was_built_before_loading_is_not_built_again(tiny: Tiny) -> None:
    """And is what the class makes of the configuration now, wrapped or not."""
    original: Any = load_model(tiny.folder).bridge.original_model
    noted = outline(original)
    assert outline(original) is noted
    assert noted == Outline.of(twin(original))
    assert noted.weights == sum(
        w.numel() for w in builders.load_hugging_face(tiny.folder).parameters()
    )
    original.config.vocab_size += 1
    assert outline(original) == Outline.of(twin(original))
    assert outline(original).weights > noted.weights


def test_token_strings_are_the_words(tiny: Tiny) -> None:
    assert tiny.model.token_strings(builders.words("we saw Ann")) == ["we", "saw", "Ann"]
    assert tiny.model.decode(builders.words("<bos> we saw Ann <pad>")).split() == [
        "we",
        "saw",
        "Ann",
    ]


def test_a_model_is_returned_as_it_is(llama: Tiny) -> None:
    assert load_model(llama.model) is llama.model


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", torch.bfloat16])
def test_the_dtype_is_the_one_asked_for(llama: Tiny, dtype: str | torch.dtype) -> None:
    model = load_model(llama.folder, dtype=dtype)
    expected = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    assert {p.dtype for p in model.bridge.original_model.parameters()} == {expected}
    found = capture(model, ["we saw Ann"], "resid_post.2")["resid_post.2"]
    whole = capture(llama.model, ["we saw Ann"], "resid_post.2")["resid_post.2"]
    assert found.dtype == expected
    assert float((found.float() - whole).norm() / whole.norm()) < 0.05


def test_half_precision_checkpoints_are_computed_in_float32(llama: Tiny, tmp_path: Path) -> None:
    folder = copied(llama, tmp_path)
    reweighted(folder, lambda w: w.update({k: v.half() for k, v in w.items()}))
    assert load_model(configured(folder, dtype="float16")).dtype == torch.float32


def test_the_fingerprint_does_not_depend_on_where_the_model_comes_from(
    tiny: Tiny, tmp_path: Path
) -> None:
    hf = builders.load_hugging_face(tiny.folder)
    before = fingerprint(hf)
    assert len(before) == 32
    assert set(before) <= set("0123456789abcdef")
    in_memory = load_model(hf, tokenizer=builders.build_tokenizer())
    assert in_memory.fingerprint == before
    assert fingerprint(hf) == before  # wrapped by now
    assert tiny.model.fingerprint == before
    hf.config.use_cache = not hf.config.use_cache
    assert fingerprint(hf) == before
    folder = configured(copied(tiny, tmp_path), transformers_version="4.0.0", _name_or_path="x")
    assert load_model(folder).fingerprint == before
    assert load_model(tiny.model.bridge).fingerprint == before


def test_in_memory_and_from_a_folder_compute_the_same(tiny: Tiny) -> None:
    hf = builders.load_hugging_face(tiny.folder)
    model = load_model(hf, tokenizer=builders.build_tokenizer())
    assert model.path is None
    assert model.tokenizer.bos_token == "<bos>"
    ours, theirs = (capture(m, ["we saw Ann", "so"], "resid_post") for m in (model, tiny.model))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


def test_a_model_in_training_is_measured_without_dropout() -> None:
    torch.manual_seed(0)
    hf = builders.gpt2()
    assert hf.training
    model = load_model(hf, tokenizer=builders.build_tokenizer())
    first, again = (capture(model, ["we saw Ann"], "resid_post.2") for _ in range(2))
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    model.bridge.train()
    assert not any(module.training for module in load_model(model.bridge).bridge.modules())


@pytest.mark.parametrize("architecture", ["Qwen2", "Olmo"])
def test_a_model_in_memory_keeps_its_own_tokenizer_and_class(architecture: str) -> None:
    """Qwen2 has a tokenizer class of its own, and Olmo is found by its class's name only."""
    import transformers

    config = getattr(transformers, f"{architecture}Config")(
        vocab_size=len(VOCABULARY),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    hf = getattr(transformers, f"{architecture}ForCausalLM")(config)
    model = load_model(hf, tokenizer=builders.build_tokenizer())
    assert model.token_ids("we saw Ann")[-3:] == builders.words("we saw Ann")


def test_a_model_may_be_smaller_than_the_first_look_at_it() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    size = {"vocab_size": 5, "n_positions": 4, "n_embd": 8, "n_layer": 1, "n_head": 2}
    model = load_model(GPT2LMHeadModel(GPT2Config(**size)), tokenizer=builders.build_tokenizer())
    assert capture(model, torch.tensor([[1, 2, 3]]), "resid_post")["resid_post.0"].shape == (
        1,
        3,
        8,
    )


def test_float64_models_in_memory_work(llama: Tiny) -> None:
    hf = builders.load_hugging_face(llama.folder).double()
    model = load_model(hf, tokenizer=builders.build_tokenizer())
    found = capture(model, ["we saw Ann"], "resid_post.2")["resid_post.2"]
    assert found.dtype == torch.float64
    expected = capture(llama.model, ["we saw Ann"], "resid_post.2")["resid_post.2"]
    torch.testing.assert_close(found.float(), expected, rtol=1e-4, atol=1e-4)


def test_every_weight_is_part_of_the_fingerprint(tiny: Tiny) -> None:
    hf = builders.load_hugging_face(tiny.folder)
    seen = {fingerprint(hf)}
    for number, parameter in enumerate(hf.parameters()):
        with torch.no_grad():
            parameter.view(-1)[-1] += 1e-3
        seen.add(fingerprint(hf))
        assert len(seen) == number + 2
    seen.add(fingerprint(hf.half()))
    assert len(seen) == number + 3


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("llama", {"rms_norm_eps": 1e-3}),
        ("gpt2", {"layer_norm_epsilon": 1e-3}),
        ("gpt2", {"activation_function": "relu"}),
        ("neox", {"use_parallel_residual": False}),
    ],
)
def test_settings_that_change_the_function_change_the_fingerprint(
    zoo: Callable[[str], Tiny], tmp_path: Path, name: str, setting: dict[str, Any]
) -> None:
    folder = configured(copied(zoo(name), tmp_path), **setting)
    assert load_model(folder).fingerprint != zoo(name).model.fingerprint


def test_shards_are_the_same_model(llama: Tiny, tmp_path: Path) -> None:
    llama.hf.save_pretrained(tmp_path, max_shard_size="20KB")
    builders.build_tokenizer().save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert load_model(tmp_path).fingerprint == llama.model.fingerprint


def test_the_lock_may_be_taken_twice_by_one_thread(llama: Tiny) -> None:
    with llama.model.lock, llama.model.lock:
        assert capture(llama.model, ["we saw"], "resid_pre.0")


def test_loading_leaves_the_users_logging_as_it_was(llama: Tiny) -> None:
    from transformers.utils import logging as hf_logging

    hf_logging.set_verbosity_info()
    before = (hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled())
    level = logging.getLogger().level
    try:
        assert isinstance(load_model(llama.folder), Model)
        assert (hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()) == before
        assert logging.getLogger().level == level
    finally:
        hf_logging.set_verbosity_warning()


def test_a_model_is_neither_copied_nor_pickled(gpt2: Tiny) -> None:
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(ModelError, match="load_model"):
            attempt(gpt2.model)
