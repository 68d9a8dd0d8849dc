"""Weights that lie elsewhere cannot be changed, by whatever route: it is told, and nothing is lost.

So it is told when the files change that they are read from.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from interp import Model, load_model, logits
from interp.errors import ModelError
from interp.loading import load as loading
from tests.interp.tiny import Tiny

DISK = {"": "cpu", "model.layers": "disk"}
CHANGED = "was changed in memory, but lies elsewhere"
PROMPTS = ["we saw Rome"]


@pytest.mark.slow
def test_weights_elsewhere_are_not_changed(llama: Tiny) -> None:
    model = load_model(llama.folder, device_map=DISK)
    out = model.bridge.blocks[1].mlp.out.original_component
    with pytest.raises(ModelError, match="was changed in memory, but lies elsewhere"):
        out.weight = torch.nn.Parameter(torch.zeros_like(out.weight))
    with torch.no_grad():
        out.weight.add_(1)
    with pytest.raises(ModelError, match="was changed in memory, but lies elsewhere"):
        _ = model.fingerprint


@pytest.mark.slow
def test_an_edit_behind_the_back_of_pytorch_is_told_while_it_lives(tiny: Tiny) -> None:
    blocks = {"gpt2": "transformer.h", "llama": "model.layers", "neox": "gpt_neox.layers"}
    model = load_model(tiny.folder, device_map={"": "cpu", blocks[tiny.name]: "disk"})
    for part in ("mlp.out", "attn.q"):
        weight = model.bridge.blocks[1].get_submodule(part).original_component.weight
        weight.data.mul_(3)
        with pytest.raises(ModelError, match="was changed in memory, but lies elsewhere"):
            _ = model.fingerprint
        del weight
        assert model.fingerprint == tiny.model.fingerprint


@pytest.mark.slow
def test_a_file_that_changes_is_told(llama: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(llama.folder, folder)
    model = load_model(folder, device_map=DISK)
    before = model.fingerprint
    assert before == llama.model.fingerprint
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"abcd")
    with pytest.raises(ModelError, match="load the model again"):
        _ = model.fingerprint


@pytest.fixture(scope="module")
def on_disk(llama: Tiny) -> Model:
    return load_model(llama.folder, device_map=DISK)


def out(model: Model, block: int = 1) -> Any:
    """The last matrix of an MLP."""
    return model.bridge.blocks[block].mlp.out.original_component


def _other_data(model: Model) -> None:
    out(model).weight.data = torch.zeros_like(out(model).weight)


def _by_name(model: Model) -> None:
    for name, weight in model.bridge.original_model.named_parameters():
        if "layers.1.mlp.down_proj" in name.replace("_original_component.", ""):
            weight.data.mul_(2)


def _vector(model: Model) -> None:
    block = model.bridge.blocks[1].mlp.original_component
    n = sum(weight.numel() for weight in block.parameters())
    nn.utils.vector_to_parameters(torch.zeros(n), block.parameters())


def _held(model: Model) -> list[Tensor]:
    views = [out(model, block).weight.data for block in range(3)]
    for view in views:  # when the model holds none of them any longer
        view.zero_()
    return views


EDITS: dict[str, Callable[[Model], Any]] = {
    "data": lambda m: out(m).weight.data.zero_(),
    "one number": lambda m: out(m).weight.data[3, 5].add_(1),
    "the last block": lambda m: out(m, 2).weight.data.zero_(),
    "every block": lambda m: [out(m, block).weight.data.zero_() for block in range(3)],
    "other data": _other_data,
    "by name": _by_name,
    "NumPy": lambda m: out(m).weight.detach().numpy().fill(0),
    "TransformerLens' name": lambda m: m.bridge.blocks[1].mlp.W_out.data.zero_(),
    "a vector": _vector,
    "views": _held,
    "another type": lambda m: m.bridge.blocks.half(),
    "a dictionary": lambda m: out(m)._parameters.update(weight=nn.Parameter(torch.zeros(1))),
    "a dictionary that is cleared": lambda m: out(m)._parameters.clear(),
}


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("first", ["look", "run"])
def test_no_edit_is_dropped_silently(llama: Tiny, on_disk: Model, edit: str, first: str) -> None:
    def attempt() -> None:
        kept = EDITS[edit](on_disk)
        _ = on_disk.fingerprint if first == "look" else logits(on_disk, PROMPTS)
        del kept

    with pytest.raises(ModelError, match=CHANGED) as caught:
        attempt()
    assert "\n" not in str(caught.value)
    del caught
    assert on_disk.fingerprint == llama.model.fingerprint
    assert torch.equal(logits(on_disk, PROMPTS), logits(llama.model, PROMPTS))


@pytest.mark.slow
def test_a_weight_that_is_changed_while_somebody_holds_it_is_not_computed_with(
    llama: Tiny,
) -> None:
    model = load_model(llama.folder, device_map=DISK)
    weight = out(model).weight
    _ = out(model, 2).weight  # the block is let go
    weight.data.zero_()
    with pytest.raises(ModelError, match=CHANGED), torch.no_grad():
        model.bridge(torch.tensor([[1, 2, 3]]), use_cache=False)


def test_looking_at_weights_changes_nothing(llama: Tiny, on_disk: Model) -> None:
    held = [out(on_disk, block).weight.data.sum() for block in range(3)]
    assert held == [out(llama.model, block).weight.sum() for block in range(3)]
    on_disk.bridge.blocks.to("cpu")
    assert on_disk.fingerprint == llama.model.fingerprint


@pytest.mark.slow
def test_a_file_that_is_written_to_is_told_whatever_its_times_say(
    llama: Tiny, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(llama.folder, folder)
    model = load_model(folder, device_map=DISK)
    path = folder / "model.safetensors"
    before = path.stat()
    with path.open("r+b") as file:  # as an unpacked archive in which all files are of one time
        file.seek(-4000, os.SEEK_END)
        file.write(bytes(4000))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    for ask in (lambda: model.fingerprint, lambda: logits(model, PROMPTS)):
        with pytest.raises(ModelError, match="load the model again"):
            ask()


@pytest.mark.slow
def test_what_was_answered_while_it_was_loaded_is_of_that_moment_alone(llama: Tiny) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model = load_model(llama.folder, device_map=DISK)
    found, expected = model.look().answers, llama.model.look().answers
    assert found is not None
    assert expected is not None
    assert all(map(torch.equal, found, expected))


def test_models_are_loaded_one_at_a_time(llama: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    inside: list[str] = []
    second: list[threading.Thread] = []

    def load(*_: Any) -> None:
        inside.append("in")
        if not second:
            second.append(threading.Thread(target=attempt))
            second[0].start()
            second[0].join(timeout=0.3)
        assert inside == ["in"]
        inside.clear()
        raise ModelError("Stop.")

    def attempt() -> None:
        with pytest.raises(ModelError, match="Stop"):
            load_model(llama.folder)

    monkeypatch.setattr(loading, "load_hugging_face", load)
    attempt()
    second[0].join(timeout=10)
    assert not inside
    assert not second[0].is_alive()
