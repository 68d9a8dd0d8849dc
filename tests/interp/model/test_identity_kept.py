"""What leaves a model as it is keeps its name; what was done before it was loaded does not."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import masking_utils

from interp import Model, PromptPairs, capture, load_model, logit_diff, logit_lens, sweep
from interp.circuits import Circuit, attribute_edges, prune
from interp.errors import ModelError, ObverseError
from interp.model.digests import digest, weighted_sums
from interp.model.identity.fingerprint import fingerprint
from tests.fake_gpu import fake_gpu
from tests.interp import modifying
from tests.interp import tiny as builders
from tests.interp.modifying import WORD
from tests.interp.modifying_parts import attribute, part, plain
from tests.interp.tiny import Tiny

pytestmark = pytest.mark.slow

ROWS = torch.tensor([[1, 5, WORD, 14, 3, 8]])


@pytest.fixture
def pairs(tiny: Tiny) -> PromptPairs:
    return PromptPairs(
        tiny.model,
        clean=["we saw Ann near Rome and"],
        corrupt=["we saw Bo near Oslo and"],
        answers=[" Ann"],
        foils=[" Bo"],
    )


def test_work_on_a_model_leaves_its_name(tiny: Tiny, pairs: PromptPairs) -> None:
    model = tiny.model
    clean = model.fingerprint
    assert clean == fingerprint(tiny.hf)
    sweep(model, pairs, site="resid_pre", metric=logit_diff)
    sweep(model, pairs, site="z", by="head", metric=logit_diff)
    attribute_edges(model, pairs, method="eap-ig", steps=2)
    logit_lens(model, "we saw Ann", " Bo")
    capture(model, ROWS, ["resid_post", "pattern", "z"])
    with torch.inference_mode():
        assert model.fingerprint == clean
    model.bridge(ROWS.repeat(3, 3), use_cache=True)
    with torch.enable_grad():
        model.bridge(ROWS)
    assert model.changes == ()
    assert model.fingerprint == clean


def test_settings_of_a_process_leave_the_name(llama: Tiny) -> None:
    model = llama.model
    clean, threads = model.fingerprint, torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert model.fingerprint == clean
        with torch.inference_mode(), torch.backends.mkldnn.flags(enabled=False):
            assert model.fingerprint == clean
        torch.use_deterministic_algorithms(True)
        assert model.fingerprint == clean
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(threads)
    assert model.fingerprint == clean


def test_head_by_head_is_the_same_model(tiny: Tiny) -> None:
    model = tiny.model
    clean = model.fingerprint
    model.bridge.set_use_attn_result(True)
    try:
        assert (model.fingerprint, model.changes) == (clean, ())
    finally:
        model.bridge.set_use_attn_result(False)
    assert model.fingerprint == clean


def test_settings_of_transformer_lens_show_in_what_it_answers(gpt2: Tiny) -> None:
    model = gpt2.model
    clean = model.fingerprint
    with attribute(model.bridge.cfg, "eps", 0.5):
        assert [change.what for change in model.changes] == [
            "it answers otherwise than its weights did before"
        ]
        assert model.fingerprint != clean
    assert model.fingerprint == clean


def test_an_exchanged_bridge_is_seen(gpt2: Tiny) -> None:
    model, other = load_model(gpt2.folder), load_model(gpt2.folder)
    clean = model.fingerprint
    model.bridge = other.bridge
    assert model.changes
    assert model.fingerprint != clean


def test_looking_leaves_nothing_behind(llama: Tiny) -> None:
    model = llama.model
    fired: list[int] = []
    torch.manual_seed(3)
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    placed = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules(model))
    model.look()
    assert torch.equal(torch.get_rng_state(), state[0])
    assert random.getstate() == state[1]
    assert np.random.get_state()[1].tolist() == state[2]
    assert placed == sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules(model))
    assert all(parameter.grad is None for parameter in model.bridge.original_model.parameters())
    handle = part(model, "mlp").register_forward_hook(lambda *_: fired.append(1))
    try:
        assert len(model.changes) == 1
    finally:
        handle.remove()
    assert fired == []  # a user's hook fires when the user runs the model
    with torch.inference_mode():
        model.look()
    stream = model.bridge(torch.tensor([[1, 2]]))
    stream.sum()  # nothing that was made in inference mode is in the way of gradients


def modules(model: Model) -> list[nn.Module]:
    return [*model.bridge.modules(), *model.bridge.original_model.modules()]


def test_a_circuit_does_not_load_on_a_changed_model(llama: Tiny, tmp_path: Path) -> None:
    model = llama.model
    pairs = PromptPairs(
        model, ["we saw Ann near"], ["we saw Bo near"], answers=[" Ann"], foils=[" Bo"]
    )
    circuit = prune(attribute_edges(model, pairs, method="eap"), n_edges=20)
    circuit.save(tmp_path / "circuit.json")
    for modify in (
        modifying.one_row,
        modifying.positions,
        modifying.forward_hook,
        modifying.rare_hook,
        modifying.class_patched,
        modifying.scaling,
    ):
        with modify(model), pytest.raises(ObverseError, match="load that model"):
            Circuit.load(tmp_path / "circuit.json", model)
    Circuit.load(tmp_path / "circuit.json", model)


# -- before it was loaded --------------------------------------------------------------------------


def anew(name: str = "llama") -> Any:
    torch.manual_seed(0)
    return builders.BUILDERS[name]().eval()


def loaded(hf: Any) -> Model:
    return load_model(hf, tokenizer=builders.build_tokenizer())


class Louder(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return 2 * self.inner(*args, **kwargs)


def hook(hf: Any) -> None:
    hf.model.layers[1].register_forward_pre_hook(lambda _, args: (2 * args[0],))


def other_forward(hf: Any) -> None:
    old = hf.model.layers[1].mlp.forward
    hf.model.layers[1].mlp.forward = lambda *args: 2 * old(*args)


def other_scaling(hf: Any) -> None:
    hf.model.layers[0].self_attn.scaling = 0.01


def other_eps(hf: Any) -> None:
    hf.model.layers[0].input_layernorm.variance_epsilon = 0.5


def adapter(hf: Any) -> None:
    hf.model.layers[1].mlp.act_fn = Louder(hf.model.layers[1].mlp.act_fn)


def other_activation(hf: Any) -> None:
    hf.model.layers[1].mlp.act_fn = nn.ReLU()


@pytest.mark.parametrize(
    "change", [hook, other_forward, other_scaling, other_eps, adapter, other_activation]
)
def test_what_was_done_before_loading_is_seen(change: Callable[[Any], None]) -> None:
    clean = loaded(anew())
    assert (clean.changes, clean.fingerprint) == ((), fingerprint(anew()))
    hf = anew()
    change(hf)
    model = loaded(hf)
    assert model.changes
    assert model.fingerprint != clean.fingerprint
    again = load_model(model.bridge)
    assert again.changes
    assert again.fingerprint != clean.fingerprint


def test_frequencies_scaled_before_loading_are_another_model() -> None:
    hf = anew()
    hf.model.rotary_emb.inv_freq.mul_(3)
    model = loaded(hf)
    assert model.changes == ()  # numbers have a name
    assert model.fingerprint not in (fingerprint(hf), loaded(anew()).fingerprint)


def test_a_class_patched_before_loading_is_seen(llama: Tiny) -> None:
    kind = type(part(llama.model, "mlp"))
    old = kind.forward
    with attribute(kind, "forward", lambda self, x: 2 * old(self, x)):
        assert load_model(llama.folder).changes
    assert load_model(llama.folder).changes == ()
    assert llama.model.changes == ()


# -- precision, size, place ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_another_precision_is_another_name(dtype: torch.dtype) -> None:
    model = loaded(anew())
    clean = model.fingerprint
    model.bridge.original_model.to(dtype)
    assert model.changes == ()
    assert model.fingerprint != clean
    model.bridge.original_model.to(torch.float32)  # rounded by now
    assert model.fingerprint != clean


@pytest.mark.parametrize("n_ctx", [1, 2])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_the_shortest_models_have_a_name(name: str, n_ctx: int) -> None:
    config = anew(name).config
    settings = {"n_positions" if name == "gpt2" else "max_position_embeddings": n_ctx}
    hf = type(anew(name))(type(config)(**{**config.to_dict(), **settings})).eval()
    model = loaded(hf)
    clean = model.fingerprint
    assert model.changes == ()
    with modifying.data_added(model):
        assert model.fingerprint != clean
    assert model.fingerprint == clean


def test_weights_that_are_elsewhere_are_told_of() -> None:
    with pytest.raises(ModelError, match="'w' are not in memory"):
        digest({"w": torch.empty(3, device="meta")})


# -- the digest of a device -----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8, torch.bool])
def test_every_number_counts_on_a_device(dtype: torch.dtype) -> None:
    values = torch.arange(77).to(dtype)[1:]  # its address is no multiple of eight
    before = weighted_sums(values.clone())
    assert torch.equal(weighted_sums(values), before)
    for place in range(len(values)):
        changed = values.clone()
        changed.view(torch.uint8)[place * values.itemsize] ^= 1
        assert not torch.equal(weighted_sums(changed), before)
    if dtype != torch.bool:
        assert not torch.equal(weighted_sums(values.flip(0)), before)
        swapped = values.clone()
        swapped[[3, 50]] = swapped[[50, 3]]
        assert not torch.equal(weighted_sums(swapped), before)


@pytest.mark.parametrize("small", [1 << 16, 20, 0])
def test_every_tensor_counts_on_a_device(small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small ones, which are read as one, as those apart, on a device that is none."""
    monkeypatch.setattr("interp.model.digests.SMALL", small)
    held = {"a": torch.arange(5.0), "b": torch.arange(3).bool(), "c": torch.arange(5.0) + 1}
    with fake_gpu():
        there = {name: value.to("cuda") for name, value in held.items()}
        before = digest(there)
        assert digest({name: value.to("cuda") for name, value in held.items()}) == before
        assert digest({**there, "a": there["c"], "c": there["a"]}) != before
        for name, value in there.items():
            for place in range(len(value)):
                changed = value.clone()
                changed[place] = not changed[place]
                assert digest({**there, name: changed}) != before


def test_pieces_of_a_device_do_not_cancel(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = torch.randn(4096)
    expected = weighted_sums(whole)
    monkeypatch.setattr("interp.model.digests.PIECE", 64)
    assert torch.equal(weighted_sums(whole), expected)
    swapped = whole.view(64, 64).flip(0).reshape(-1)
    assert not torch.equal(weighted_sums(swapped), expected)


def test_what_notebooks_and_compilers_exchange_is_no_change(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = tiny.model.fingerprint
    restored = nn.Module.__setstate__
    for holder, name in (
        (torch.Tensor, "__repr__"),
        (torch, "load"),
        (nn.Module, "__setstate__"),
        (nn.Module, "__repr__"),
        (nn.Module, "__init__"),
    ):
        monkeypatch.setattr(holder, name, _wrapping(getattr(holder, name)))
    monkeypatch.setattr(torch.Tensor, "shown", lambda self: str(self), raising=False)
    assert nn.Module.__setstate__ is not restored
    with torch.device("cpu"):
        assert tiny.model.changes == ()
    assert tiny.model.fingerprint == clean
    monkeypatch.setitem(
        masking_utils.ALL_MASK_ATTENTION_FUNCTIONS._global_mapping, "mine", lambda *a, **k: None
    )
    assert tiny.model.changes == ()


def _wrapping(old: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: old(*args, **kwargs)


def test_a_sparse_weight_is_refused_in_words(llama: Tiny) -> None:
    linear = plain(part(llama.model, "mlp").up_proj)
    before = linear._parameters["weight"]
    linear._parameters["weight"] = nn.Parameter(before.data.to_sparse(), requires_grad=False)
    try:
        with pytest.raises(ModelError, match="is a sparse tensor"):
            assert llama.model.fingerprint
    finally:
        linear._parameters["weight"] = before


def test_a_forked_process_names_its_own_changes(llama: Tiny) -> None:
    model = llama.model
    with modifying.forward_hook(model):
        ours = model.fingerprint
        with attribute(os, "getpid", lambda: -1):
            assert model.fingerprint != ours
        assert model.fingerprint == ours


def test_a_training_with_checkpoints_leaves_the_name(llama: Tiny) -> None:
    model = load_model(llama.folder)
    model.bridge.original_model.gradient_checkpointing_enable()
    model.bridge.original_model.gradient_checkpointing_disable()
    assert model.changes == ()
    try:
        torch.set_default_dtype(torch.float64)
        assert model.fingerprint == llama.model.fingerprint
    finally:
        torch.set_default_dtype(torch.float32)
