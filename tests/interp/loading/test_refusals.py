"""A model that is incomplete, damaged or unknown is refused in one sentence."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from cache.sizes import show_size
from interp import load_model
from interp.errors import DoesNotFit, ModelError
from interp.loading import bridge, load
from interp.loading.where import bundled_models
from tests.interp import tiny as builders
from tests.interp.folders import WEIGHTS, configured, copied, reweighted
from tests.interp.tiny import D_MODEL, N_LAYERS, Tiny

pytestmark = pytest.mark.slow


def refused(source: Any, message: str, **options: Any) -> str:
    """The message of the ModelError: one line that fits on a screen."""
    with pytest.raises(ModelError, match=message) as caught:
        load_model(source, **options)
    text = str(caught.value)
    assert "\n" not in text
    assert 20 < len(text) < 500
    assert "Error" not in text.split(":")[0]
    return text


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def no_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def no_tokenizer(folder: Path) -> None:
    for path in folder.glob("*token*"):
        path.unlink()


def cut_short(folder: Path) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: len(whole) // 2])


def empty_weights(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"")


def damaged_config(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(path.read_text()[:-20])


def binary_config(folder: Path) -> None:
    (folder / "config.json").write_bytes(b"\xff\xfe\x00{")


def endless_config(folder: Path) -> None:
    (folder / "config.json").write_text("[" * 100_000)


def list_config(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def no_model_type(folder: Path) -> None:
    configured(folder, model_type=None)


def damaged_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")


def unknown_architecture(folder: Path) -> None:
    configured(folder, model_type="nonsense")


def wrong_type(folder: Path) -> None:
    configured(folder, num_attention_heads="four")


def wider(folder: Path) -> None:
    configured(folder, hidden_size=2 * D_MODEL)


def deeper(folder: Path) -> None:
    configured(folder, num_hidden_layers=N_LAYERS + 1)


def shallower(folder: Path) -> None:
    configured(folder, num_hidden_layers=N_LAYERS - 1)


def one_weight_missing(folder: Path) -> None:
    reweighted(folder, lambda w: w.pop("model.layers.1.mlp.up_proj.weight"))


def not_a_number(folder: Path) -> None:
    reweighted(folder, lambda w: w["model.layers.1.mlp.up_proj.weight"][3, 4].fill_(float("nan")))


def infinite(folder: Path) -> None:
    reweighted(folder, lambda w: w["lm_head.weight"][0, 0].fill_(float("inf")))


def shard_missing(folder: Path) -> None:
    index = {"weight_map": {"lm_head.weight": "model-00002-of-00002.safetensors"}}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))


def damaged_index(folder: Path) -> None:
    (folder / f"{WEIGHTS}.index.json").write_text("[]")


SPOILT: dict[Callable[[Path], object], str] = {
    no_config: "no config.json",
    no_weights: "no weights",
    no_tokenizer: "no tokenizer",
    cut_short: "truncated or damaged",
    empty_weights: "truncated or damaged",
    damaged_config: "cannot be read as JSON",
    binary_config: "cannot be read as JSON",
    endless_config: "cannot be read as JSON",
    list_config: "names no model_type",
    no_model_type: "names no model_type",
    damaged_tokenizer: "cannot be loaded",
    unknown_architecture: "nonsense",
    wrong_type: "num_attention_heads.*int",
    wider: "do not fit its config.json",
    deeper: r"lacks 9 weights \('model.layers.3",
    shallower: r"do not fit its config.json \('model.layers.2",
    one_weight_missing: "lacks 1 weights .'model.layers.1.mlp.up_proj.weight'",
    not_a_number: "non-finite weights in 'model.layers.1.mlp.up_proj.weight'",
    infinite: "non-finite weights in 'lm_head.weight'",
    shard_missing: "lacks the weight file 'model-00002-of-00002.safetensors'",
    damaged_index: "index.json' is damaged",
}


@pytest.mark.parametrize("spoil", SPOILT, ids=lambda spoil: spoil.__name__)
def test_a_spoilt_folder_is_refused(
    llama: Tiny, tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    folder = copied(llama, tmp_path)
    assert load_model(folder).fingerprint == llama.model.fingerprint
    spoil(folder)
    refused(folder, SPOILT[spoil])


class Intruder:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_pickled_weights_are_neither_read_nor_run(llama: Tiny, tmp_path: Path) -> None:
    folder = copied(llama, tmp_path)
    no_weights(folder)
    left_behind = tmp_path / "intruder"
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Intruder(left_behind)))
    refused(folder, "pickled weights, which can run code")
    assert not left_behind.exists()


def test_code_that_comes_with_a_model_is_not_run(llama: Tiny, tmp_path: Path) -> None:
    left_behind = tmp_path / "intruder"
    folder = configured(
        copied(llama, tmp_path),
        model_type="intruder",
        auto_map={"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"},
    )
    (folder / "code.py").write_text(f"open({str(left_behind)!r}, 'w')\n")
    refused(folder, "cannot be loaded")
    assert not left_behind.exists()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("./no/such/folder", "There is no folder"),
        ("/no/such/folder", "There is no folder"),
        ("no such model", "There is no folder"),
        ("no-such-org/no-such-model", "Unknown model"),
        (None, "NoneType is not a model"),
        (42, "int is not a model"),
    ],
)
def test_an_unknown_source_is_refused(source: Any, message: str) -> None:
    refused(source, message)


def test_a_file_is_not_a_model(llama: Tiny) -> None:
    refused(llama.folder / "config.json", "is a file")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float31"}, "Unknown dtype 'float31'"),
        ({"dtype": torch.int8}, "Unknown dtype"),
        ({"device": "toaster"}, "no device 'toaster'"),
        ({"device": "cuda:99"}, "no device 'cuda:99'"),
    ],
)
def test_unknown_devices_and_dtypes_are_refused(
    llama: Tiny, options: dict[str, Any], message: str
) -> None:
    refused(llama.folder, message, **options)


def test_a_model_in_memory_needs_its_tokenizer(llama: Tiny) -> None:
    refused(builders.load_hugging_face(llama.folder), "needs its tokenizer")


def test_a_bridge_whose_weights_were_changed_is_refused(gpt2: Tiny) -> None:
    bridge = load_model(gpt2.folder).bridge
    bridge.enable_compatibility_mode()
    refused(bridge, "compatibility mode")


class Bundled:
    """An entry point of a package that brings a model along."""

    name = "some-organism"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self) -> Callable[[], Path]:
        return lambda: self.folder


def test_bundled_models_are_found_by_name(llama: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp.loading.where.entry_points", lambda group: [Bundled(llama.folder)])
    model = load_model("some-organism")
    assert (model.name, model.path) == ("some-organism", llama.folder)
    assert model.fingerprint == llama.model.fingerprint
    refused("some-organsm", "did you mean 'some-organism'")
    refused("elephant", "bundled are: some-organism")


def test_a_package_that_is_installed_later_is_found(
    llama: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "late_organism.py").write_text(f"def folder():\n    return {str(llama.folder)!r}\n")
    os.utime(tmp_path, ns=(0, 0))  # long before the next installation
    assert "late" not in bundled_models()
    about = tmp_path / "late_organism-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: late-organism\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[obverse.models]\nlate = late_organism:folder\n")
    assert bundled_models()["late"] == llama.folder
    shutil.rmtree(about)
    os.utime(tmp_path, ns=(0, 0))
    assert "late" not in bundled_models()


def test_a_revision_is_asked_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def from_pretrained(name: str, **options: Any) -> None:
        asked.update(options, name=name)
        raise OSError("not today")

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", from_pretrained)
    refused("some-org/some-model", "not today", revision="v2")
    assert (asked["name"], asked["revision"]) == ("some-org/some-model", "v2")
    assert asked["trust_remote_code"] is False


def test_a_model_that_does_not_fit_is_refused_with_the_figures(
    llama: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything of it is loaded; of a hub's model too, whose files are not here yet."""
    n = sum(weight.numel() for weight in builders.load_hugging_face(llama.folder).parameters())
    monkeypatch.setattr(bridge, "available_memory", lambda: 4 * n - 1)
    monkeypatch.setattr(
        transformers.AutoModelForCausalLM,
        "from_pretrained",
        lambda *_, **__: pytest.fail("it was loaded"),
    )
    said = refused(llama.folder, "does not fit into the memory of this computer")
    assert f"{n:,} parameters take {show_size(4 * n)} in float32" in said
    assert f"{show_size(4 * n - 1)} are free" in said
    assert "bfloat16, which takes half" in said
    with pytest.raises(DoesNotFit):
        load_model(llama.folder)
    with monkeypatch.context() as patch:
        patch.setattr(load, "locate", lambda source: (str(source), None))
        refused(llama.folder, f"{n:,} parameters take")
    monkeypatch.undo()
    monkeypatch.setattr(bridge, "available_memory", lambda: 2 * n + 100_000)
    load_model(llama.folder, dtype="bfloat16")
