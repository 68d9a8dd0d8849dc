"""What cannot be placed is refused in one sentence, and what lies elsewhere cannot be lost."""

from __future__ import annotations

import contextlib
import gc
import json
import re
import resource
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from interp import load_model, logits
from interp.errors import DoesNotFit, ModelError
from interp.execute.processes import Processes
from interp.execute.recipe import ModelRecipe
from interp.loading import bridge, placement, wrapping
from interp.loading.offloaded import own_folder
from interp.loading.written import from_environment, placing
from tests.interp.architectures import ARCHITECTURES
from tests.interp.tiny import Tiny, build_tokenizer, load_hugging_face

DISK = {"": "cpu", "model.layers": "disk"}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"device_map": {"": "cpu", "model.layer": "disk"}}, "did you mean 'model.layers'?"),
        ({"device_map": {"model.layers": "disk"}}, "has no place for 3 weights"),
        ({"device_map": {"": 7}}, "puts parts on '7', which is not here; there are"),
        ({"device_map": {"": "cuda:7"}}, "which is not here"),
        ({"device_map": {"": "meta"}}, "which is not here"),
        ({"device_map": "nowhere"}, "which is not here"),
        ({"device_map": DISK, "device": "cpu"}, "leave device=… out"),
        ({"device_map": {"": "cpu"}, "offload_folder": "x"}, "puts none there"),
        ({"device_map": DISK, "max_memory": {"cpu": "1GB"}}, "map that is worked out"),
        ({"device_map": "auto", "max_memory": {3: "1GB"}}, "max_memory names '3'"),
        ({"device_map": "auto", "max_memory": {"cpu": "much"}}, "is not a size"),
        ({"device_map": {"": True}}, "puts parts on 'True', which is not here"),
        ({"device_map": {"": 10**30}}, "which is not here; there are"),
        ({"device_map": {"": "hpu"}}, "puts parts on 'hpu', which is not here"),
        ({"device_map": {0: "cpu"}}, "names '0', and"),
        ({"device_map": "disk", "offload_folder": ""}, "offload_folder has no name"),
        ({"device_map": "disk", "offload_folder": "a\0b"}, "cannot be written to"),
        ({"offload_folder": "x"}, "goes with a device_map"),
        ({"max_memory": {"cpu": "1GB"}}, "goes with a device_map"),
    ],
)
def test_what_cannot_be_meant_is_refused(llama: Tiny, given: dict[str, Any], says: str) -> None:
    with pytest.raises(ModelError) as caught:
        load_model(llama.folder, **given)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_in_memory_lies_where_it_is(llama: Tiny) -> None:
    with pytest.raises(ModelError, match="lies where it is"):
        load_model(llama.hf, tokenizer=build_tokenizer(), device_map="auto")


def test_a_model_that_accelerate_has_placed_is_refused(llama: Tiny) -> None:
    from accelerate import cpu_offload

    hf = cpu_offload(load_hugging_face(llama.folder), torch.device("cpu"))
    with pytest.raises(ModelError, match=r"accelerate has placed .* with device_map=…"):
        load_model(hf, tokenizer=build_tokenizer())


def test_an_offload_folder_that_is_full_is_told(tmp_path: Path) -> None:
    folder, full = tmp_path / "model", tmp_path / "full"
    ARCHITECTURES["Mixtral"].build().save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        with pytest.raises(
            ModelError, match=r"offload_folder '.*full' \(.*\); make room there"
        ) as e:
            load_model(folder, device_map=DISK, offload_folder=full)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert "\n" not in str(e.value)


def test_the_offload_folder_must_be_writable(llama: Tiny, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match="cannot be written to"):
        load_model(llama.folder, device_map=DISK, offload_folder=tmp_path / "file")


def test_pickled_and_quantised_weights_are_not_placed(llama: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(llama.folder, folder)
    config = json.loads((folder / "config.json").read_text())
    packed = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": packed}))
    with pytest.raises(ModelError, match="quantised"):
        load_model(folder, device_map=DISK)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="only pickled weights"):
        load_model(folder, device_map=DISK)


@pytest.mark.slow
def test_experts_are_written_anew_where_a_folder_is_given(tmp_path: Path) -> None:
    folder, other = tmp_path / "model", tmp_path / "other"
    ARCHITECTURES["Mixtral"].build().save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    with pytest.raises(ModelError, match="give a folder for them"):
        load_model(folder, device_map=DISK)
    model = load_model(folder, device_map=DISK, offload_folder=other)
    assert model.fingerprint == load_model(folder).fingerprint
    again = ModelRecipe.of(model).load()
    assert again.fingerprint == model.fingerprint


@pytest.mark.slow
def test_an_offload_folder_is_shared_and_nothing_in_it_is_replaced(tmp_path: Path) -> None:
    folder, other = tmp_path / "model", tmp_path / "other"
    ARCHITECTURES["Mixtral"].build().save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    other.mkdir()
    mine = other / "model.layers.0.mlp.experts.down_proj.safetensors"
    mine.write_text("mine")
    models = [load_model(folder, device_map=DISK, offload_folder=other) for _ in range(2)]
    assert models[0].fingerprint == models[1].fingerprint
    assert mine.read_text() == "mine"
    assert len(list(other.iterdir())) == 3
    del models
    gc.collect()
    assert list(other.iterdir()) == [mine]


def test_a_load_that_fails_leaves_nothing_in_the_offload_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, other = tmp_path / "model", tmp_path / "other"
    ARCHITECTURES["Mixtral"].build().save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)

    def interrupted(*_: Any) -> None:
        assert [one.name for made in other.iterdir() for one in made.iterdir()]
        raise KeyboardInterrupt

    monkeypatch.setattr(bridge, "stripped", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_model(folder, device_map=DISK, offload_folder=other)
    assert not list(other.iterdir())


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    with contextlib.ExitStack() as written:
        used = own_folder(tmp_path, written)
        left, mine, linked = (
            tmp_path / f"obverse-offloaded-{n}" for n in ("a" * 8, "b" * 8, "c" * 8)
        )
        for folder in (left, mine, tmp_path / "obverse-offloaded"):
            folder.mkdir()
            (folder / "weights.safetensors").touch()
        (mine / "notes.txt").touch()
        linked.symlink_to(tmp_path / "obverse-offloaded")
        other = own_folder(tmp_path, written)
        assert used.is_dir()
        assert not left.exists()
        assert (mine / "notes.txt").is_file()
        assert (linked / "weights.safetensors").is_file()
        assert other != used
    assert not used.exists()
    assert not other.exists()


@pytest.mark.slow
def test_a_tied_weight_lies_in_one_place(tmp_path: Path) -> None:
    ARCHITECTURES["GPT-2"].build().save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    whole = load_model(tmp_path)
    for part in ("transformer.wte", "lm_head"):
        model = load_model(tmp_path, device_map={"": "cpu", part: "disk"})
        assert model.fingerprint == whole.fingerprint
        # A weight that begins at another address is multiplied in another order.
        torch.testing.assert_close(logits(model, ["we saw Rome"]), logits(whole, ["we saw Rome"]))


def test_what_does_not_fit_is_refused_with_the_figures_of_each_place(
    llama: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "available_memory", lambda: 1000)
    with pytest.raises(DoesNotFit) as caught:
        load_model(llama.folder, device_map={"": "cpu", "model.layers.1": "disk"})
    assert "on cpu, where 1 kB are free (besides" in str(caught.value)
    assert "on disk)" in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("can't allocate memory: 5 bytes for weights"),
    ],
)
@pytest.mark.parametrize("where", ["answers", "fixed_input", "taken_along"])
def test_memory_that_runs_out_is_not_the_models_fault(
    llama: Tiny, monkeypatch: pytest.MonkeyPatch, error: Exception, where: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(wrapping, where, fail)
    with pytest.raises(DoesNotFit, match=r"^Memory ran out while '.*' was loaded"):
        load_model(llama.folder, device_map=DISK)


@pytest.mark.slow
def test_a_device_is_given_as_pytorch_has_it(llama: Tiny) -> None:
    model = load_model(llama.folder, device_map={"": torch.device("cpu"), "lm_head": "disk"})
    assert model.fingerprint == llama.model.fingerprint


@pytest.mark.slow
def test_a_map_is_worked_out_from_what_may_be_taken(llama: Tiny) -> None:
    everything = load_model(llama.folder, device_map="auto")
    assert everything.elsewhere is None
    assert set(everything.placed.parts.values()) == {"cpu"}  # type: ignore[union-attr]
    block = llama.model.block_bytes
    some = load_model(llama.folder, device_map="sequential", max_memory={"cpu": 3 * block})
    assert set(some.placed.parts.values()) == {"cpu", "disk"}  # type: ignore[union-attr]
    assert some.fingerprint == llama.model.fingerprint


@pytest.mark.slow
@pytest.mark.parametrize(
    ("weight", "value"),
    [
        ("model.layers.1.mlp.down_proj.weight", torch.inf),
        ("model.layers.0.input_layernorm.weight", torch.nan),
        ("model.norm.weight", torch.nan),
        ("model.embed_tokens.weight", torch.nan),
    ],
)
def test_weights_that_are_not_finite_are_told_by_name(
    llama: Tiny, tmp_path: Path, weight: str, value: float
) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "model"
    shutil.copytree(llama.folder, folder)
    weights = load_file(folder / "model.safetensors")
    weights[weight].view(-1)[0] = value
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=f"^model has non-finite weights in '{re.escape(weight)}'"):
        load_model(folder, device_map=DISK)


@pytest.mark.slow
def test_a_recipe_carries_where_the_parts_lie(llama: Tiny) -> None:
    model = load_model(llama.folder, device_map=DISK)
    recipe = ModelRecipe.of(model)
    assert dict(recipe.parts) == DISK
    assert (recipe.device, recipe.gpus) == (None, 1)
    again = recipe.load()
    assert again.elsewhere is not None
    assert again.fingerprint == model.fingerprint
    # GPUs are numbered from 0 on in a worker, which sees no others.
    many = ModelRecipe("x", parts=(("a", "cuda:3"), ("b", "cuda:12"), ("c", "disk")))
    assert many.gpus == 2


def test_workers_get_as_many_gpus_as_the_model_lies_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7,8")
    assert Processes(None, 2).limit == 2
    assert Processes(None, 1).limit == 5
    assert Processes(None, 2).devices == ["4,5", "6,7"]


def test_what_is_written_on_a_command_line() -> None:
    text = '{"": 0, "model.layers": "disk"}'
    found = placing(text, "folder", "cpu=20GB, 0=70GB")
    assert found == {
        "device_map": {"": 0, "model.layers": "disk"},
        "offload_folder": "folder",
        "max_memory": {"cpu": "20GB", 0: "70GB"},
    }
    assert placing("auto") == {"device_map": "auto"}
    assert from_environment({"OBVERSE_DEVICE_MAP": "auto"}) == {"device_map": "auto"}
    assert from_environment({}) == {}
    for bad in ("{", '{"": null}', '{"": true}', '{"": [0]}', '{"": "cpu", "": "disk"}'):
        with pytest.raises(ModelError):
            placing(bad)
    for bad in ("cpu", "cpu=1GB,cpu=2GB", "0=1GB,00=2GB"):
        with pytest.raises(ModelError, match="write each device once, like"):
            placing("auto", None, bad)
    assert placing("auto", None, "9" * 5000 + "=1GB")["max_memory"] == {"9" * 5000: "1GB"}
