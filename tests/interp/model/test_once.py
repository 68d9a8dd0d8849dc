"""What was tried on a model is tried again when it has become another one."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from interp import Intervention, applied, capture, load_model, sweep
from interp.components.components import run_parts
from interp.forward.hooks import hooked
from interp.model.model import Model
from tests.interp.architectures import ARCHITECTURES
from tests.interp.pairs import prompt_pairs
from tests.interp.tiny import Tiny, build, build_tokenizer


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    """A model of its own: it is changed here."""
    return build("llama", tmp_path)


def trials(model: Model) -> Callable[[], int]:
    """Asks for the same trial; how often it ran until now."""
    ran: list[int] = []

    def ask() -> int:
        model.once("a trial", lambda: ran.append(1))
        return len(ran)

    return ask


def hook_on_a_module(model: Model) -> Any:
    return model.bridge.blocks[1].attn.o.register_forward_hook(lambda _m, _a, value: value.tanh())


def in_place(model: Model) -> None:
    with torch.no_grad():
        model.bridge.blocks[0].mlp.out.original_component.weight[0, 0] += 1


def new_tensor(model: Model) -> None:
    weight = model.bridge.blocks[0].mlp.out.original_component.weight
    weight.data = weight.data.clone()


def other_forward(model: Model) -> None:
    module = model.bridge.blocks[0].mlp.original_component
    plain = module.forward
    module.forward = lambda *args: 2 * plain(*args)


def other_setting(model: Model) -> None:
    model.bridge.blocks[0].ln1.original_component.variance_epsilon *= 2


def other_module(model: Model) -> None:
    model.bridge.original_model.model.layers[0].mlp.act_fn = torch.nn.Tanh()


def exchanged_modules(model: Model) -> None:
    first, second, _ = model.bridge.original_model.model.layers
    first.mlp, second.mlp = second.mlp, first.mlp


class Doubled(torch.nn.Parameter):
    """Says to be what it is not."""


def other_kind_of_number(model: Model) -> None:
    held = model.bridge.blocks[0].mlp.out.original_component._parameters
    held["weight"] = held["weight"].as_subclass(Doubled)


def training(model: Model) -> None:
    model.bridge.train()


def other_attention(model: Model) -> None:
    model.bridge.original_model.config._attn_implementation = "sdpa"


def head_by_head(model: Model) -> None:
    model.bridge.cfg.use_split_qkv_input = True


@pytest.mark.slow
def test_a_trial_runs_once_for_each_name(tiny: Tiny) -> None:
    asked = trials(tiny.model)
    assert [asked(), asked()] == [1, 1]
    assert tiny.model.once("another", lambda: "found") == "found"
    assert tiny.model.once("another", lambda: "not asked") == "found"
    sweep(tiny.model, prompt_pairs(tiny), "z", by="head")  # hooks of instruments come and go
    assert asked() == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        *(hook_on_a_module, in_place, new_tensor, other_forward, other_setting, other_module),
        *(exchanged_modules, other_kind_of_number, training, other_attention, head_by_head),
    ],
)
def test_it_runs_again_when_the_model_has_changed(
    tiny: Tiny, change: Callable[[Model], Any]
) -> None:
    asked = trials(tiny.model)
    assert asked() == 1
    change(tiny.model)
    assert [asked(), asked()] == [2, 2]


@pytest.mark.slow
def test_what_pytorch_does_not_count_shows_at_the_next_look(tiny: Tiny) -> None:
    asked = trials(tiny.model)
    assert asked() == 1
    tiny.model.bridge.blocks[0].mlp.out.original_component.weight.data.mul_(2)
    tiny.model.look()
    assert asked() == 2


@pytest.mark.slow
def test_a_model_of_inference_tensors_is_tried(tmp_path: Path) -> None:
    """Of these PyTorch counts no changes at all; they too show at the next look."""
    with torch.inference_mode():
        hf = ARCHITECTURES["Llama"].build()
        model = load_model(hf, tokenizer=build_tokenizer())
        assert next(hf.parameters()).is_inference()
    asked = trials(model)
    assert [asked(), asked()] == [1, 1]
    with torch.inference_mode():
        next(hf.parameters()).mul_(2)
    model.look()
    assert asked() == 2
    silent = capture(model, ["so Fay"], "z.1", interventions=Intervention.silence("pattern.1"))
    assert not silent["z.1"].any()


@pytest.mark.slow
def test_what_was_found_is_known_again_when_a_change_is_undone(tiny: Tiny) -> None:
    asked = trials(tiny.model)
    assert asked() == 1
    handle = hook_on_a_module(tiny.model)
    assert asked() == 2
    handle.remove()
    assert asked() == 2


@pytest.mark.slow
def test_hooks_of_instruments_are_no_change_and_those_that_stay_are(tiny: Tiny) -> None:
    asked = trials(tiny.model)
    point = tiny.model.bridge.hook_dict["blocks.1.hook_out"]
    assert asked() == 1
    with hooked([(point, torch.zeros_like)]):
        assert asked() == 1
    with applied(tiny.model, Intervention.silence("mlp_out.1")):
        assert asked() == 2
    assert asked() == 2


@pytest.mark.slow
def test_a_trial_that_fails_is_not_kept(tiny: Tiny) -> None:
    def fails() -> None:
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        tiny.model.once("a trial", fails)
    assert trials(tiny.model)() == 1


@pytest.mark.slow
def test_threads_wait_for_one_trial(tiny: Tiny) -> None:
    ran: list[int] = []
    start = threading.Barrier(4)

    def trial() -> int:
        ran.append(1)
        return len(ran)

    def ask() -> None:
        start.wait()
        assert tiny.model.once("a trial", trial) == 1

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ran == [1]


def steer(model: Model) -> contextlib.AbstractContextManager[None]:
    """A change at one position, which a pass over some positions only would take for another."""
    direction = torch.randn(model.d_model, generator=torch.Generator().manual_seed(0))
    return applied(model, Intervention.add(direction, "mlp_out.1", 5.0, positions=[3]))


def bend(model: Model) -> contextlib.AbstractContextManager[None]:
    """Attention whose output is no longer a sum over heads."""
    handle = hook_on_a_module(model)
    stack = contextlib.ExitStack()
    stack.callback(handle.remove)
    return stack


@pytest.mark.slow
@pytest.mark.parametrize("change", [steer, bend])
@pytest.mark.parametrize(("site", "by"), [("z", "head"), ("resid_pre", "position")])
def test_a_sweep_of_a_changed_model_is_right_after_one_of_it_unchanged(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, change: Any, site: str, by: str
) -> None:
    pairs = prompt_pairs(tiny)
    before = sweep(tiny.model, pairs, site, "logprob_diff", by=by)["patched"]
    with change(tiny.model):
        found = sweep(tiny.model, pairs, site, "logprob_diff", by=by)["patched"]
        monkeypatch.setattr("interp.patching.runner.packs", lambda *_: False)
        whole = sweep(tiny.model, pairs, site, "logprob_diff", by=by)["patched"]
    assert float(np.abs(found - before).max()) > 0.1
    np.testing.assert_allclose(found, whole, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_a_model_that_was_never_run_shows_its_parts(tiny: Tiny) -> None:
    """The first run of the parts places hooks of its own, which the model's check must not see."""
    ids = prompt_pairs(tiny).clean.ids
    first = run_parts(tiny.model, ids)
    asked = trials(tiny.model)
    assert asked() == 1
    again = run_parts(tiny.model, ids)
    assert asked() == 1
    assert len(first.attention) == tiny.model.n_layers
    for one, other in zip(first.attention, again.attention, strict=True):
        rows = torch.arange(len(ids))
        torch.testing.assert_close(one.at(rows, len(ids)), other.at(rows, len(ids)))
