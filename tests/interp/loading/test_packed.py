"""Weights that torchao has packed: the model's own numbers, its name, and what refuses them."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from interp import PromptPairs, Weights, attention_patterns, estimate, load_model, logits, sweep
from interp.comparison import weight_difference
from interp.errors import ModelError
from interp.gradients.products import gradient_products
from interp.loading import packing
from interp.model.model import Model
from interp.model.packed import packed_weights, unpacked
from tests.conftest import missing
from tests.interp import tiny

CLEAN, CORRUPT = ["Ann saw Bo near Rome"], ["Cy saw Bo near Oslo"]


@pytest.fixture(scope="module")
def torchao() -> Any:
    if not find_spec("torchao"):
        missing("torchao is not installed", "REQUIRE_QUANTISED")
    import torchao.quantization

    return torchao.quantization


def pack(folder: Path, how: Any, dtype: torch.dtype = torch.float32) -> Path:
    """A tiny Llama, packed and saved by Hugging Face."""
    from transformers import AutoModelForCausalLM, TorchAoConfig

    plain = tiny.save("llama", folder / "plain")
    packed = AutoModelForCausalLM.from_pretrained(
        plain, quantization_config=TorchAoConfig(how), dtype=dtype
    )
    packed.save_pretrained(folder / "packed")
    tiny.build_tokenizer().save_pretrained(folder / "packed")
    return folder / "packed"


@pytest.fixture(scope="module")
def folder(torchao: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack(tmp_path_factory.mktemp("packed"), torchao.Int8WeightOnlyConfig())


@pytest.fixture(scope="module")
def packed(folder: Path) -> Model:
    return load_model(folder, device="cpu")


def pairs_of(model: Model) -> PromptPairs:
    return PromptPairs(model, CLEAN, CORRUPT, [" Ann"], [" Cy"])


def test_logits_are_hugging_faces_to_the_last_bit(folder: Path, packed: Model) -> None:
    ids = torch.arange(1, 9)[None]
    hf = tiny.load_hugging_face(folder)
    assert packed_weights(packed.bridge.original_model)
    with torch.no_grad():
        expected = hf(ids).logits
    assert torch.equal(logits(packed, ids, positions="all"), expected)


def test_its_name_is_that_of_its_numbers(folder: Path, packed: Model) -> None:
    other = load_model(folder, device="cpu")
    assert other.fingerprint == packed.fingerprint
    assert not packed.changes
    assert packed.fingerprint != load_model(folder.parent / "plain", device="cpu").fingerprint
    weight = dict(other.bridge.original_model.named_parameters())[
        packed_weights(other.bridge.original_model)[0]
    ]
    with torch.no_grad():
        weight.qdata[0, 0] += 1  # one packed number
    assert other.fingerprint != packed.fingerprint


def test_sweeps_and_estimates_are_those_of_the_unpacked_weights(packed: Model) -> None:
    """The same numbers in a model of plain weights, which is all that int8 weights stand for."""
    hf = tiny.llama().eval()
    held = {
        name.replace("_original_component.", ""): unpacked(value.detach())
        for name, value in packed.bridge.original_model.named_parameters()
    }
    hf.load_state_dict({name: held[name] for name in hf.state_dict()})
    plain = load_model(hf, tokenizer=tiny.build_tokenizer(), device="cpu")
    for measure in (sweep, estimate):
        for site in ("resid_pre", "z"):
            found, expected = (measure(m, pairs_of(m), site) for m in (packed, plain))
            np.testing.assert_allclose(found["patched"], expected["patched"], atol=1e-4)
    a, b = (Weights(m).ov(0, 0) for m in (packed, plain))
    torch.testing.assert_close(a.AB, b.AB, atol=1e-5, rtol=1e-4)
    a, b = (attention_patterns(m, CLEAN, weighted=True)["moved"] for m in (packed, plain))
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_what_needs_the_weights_themselves_refuses(folder: Path, packed: Model) -> None:
    with pytest.raises(ModelError, match="Gradients here are those of weights, and 21 weights"):
        gradient_products(packed, CLEAN, [" Ann"])
    with pytest.raises(ModelError, match="compared weight by weight"):
        weight_difference(packed, load_model(folder, device="cpu"))


def test_numbers_that_are_none_are_found_in_what_is_packed(folder: Path, tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    held = load_file(path)
    name = next(name for name in held if name.endswith("_weight_scale"))
    held[name][0] = torch.nan
    with safe_open(path, "pt") as file:
        told = file.metadata()
    for other in folder.iterdir():
        (tmp_path / other.name).write_bytes(other.read_bytes())
    save_file(held, tmp_path / "model.safetensors", told)
    with pytest.raises(ModelError, match="non-finite weights in"):
        load_model(tmp_path, device="cpu")


def test_another_precision_is_another_model(torchao: Any, tmp_path: Path) -> None:
    folder = pack(tmp_path, torchao.Int8WeightOnlyConfig(), torch.bfloat16)
    model, ids = load_model(folder, device="cpu"), torch.arange(1, 9)[None]
    from transformers import AutoModelForCausalLM

    with torch.no_grad():
        hf = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
        expected = hf(ids).logits.float()
    assert torch.equal(logits(model, ids, positions="all"), expected)
    with pytest.raises(ModelError, match="packed for bfloat16"):
        load_model(folder, device="cpu", dtype="float32")


def test_rounded_activations_pass_no_gradient(torchao: Any, tmp_path: Path) -> None:
    folder = pack(tmp_path, torchao.Int8DynamicActivationInt8WeightConfig(), torch.bfloat16)
    with pytest.raises(ModelError, match="No gradient passes through"):
        load_model(folder, device="cpu")


def test_four_bits_of_bitsandbytes_are_hugging_faces_too(tmp_path: Path) -> None:
    if not find_spec("bitsandbytes"):
        missing("bitsandbytes is not installed", "REQUIRE_BITSANDBYTES")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    four = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    plain = tiny.save("llama", tmp_path / "plain")
    hf = AutoModelForCausalLM.from_pretrained(
        plain, quantization_config=four, dtype=torch.float32, device_map="cpu"
    )
    hf.save_pretrained(tmp_path / "four")
    tiny.build_tokenizer().save_pretrained(tmp_path / "four")
    model, ids = load_model(tmp_path / "four", device="cpu"), torch.arange(1, 9)[None]
    with torch.no_grad():
        expected = tiny.load_hugging_face(tmp_path / "four")(ids).logits
    assert torch.equal(logits(model, ids, positions="all"), expected)
    # Code of bitsandbytes is none that a name can stand for.
    assert next(change.what for change in model.changes).startswith("it is made of bitsandbytes")
    assert np.isfinite(estimate(model, pairs_of(model), "z")["patched"]).all()
    with pytest.raises(ModelError, match="compared weight by weight"):
        weight_difference(model, load_model(tmp_path / "four", device="cpu"))


def test_eight_bits_of_bitsandbytes_are_refused(tmp_path: Path) -> None:
    folder = tiny.save("llama", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="rounds activations too"):
        load_model(folder)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("gptq", "packed by 'gptq', and only those of bitsandbytes and torchao"),
        ("torchao", "packed by torchao, which is not installed"),
        ("bitsandbytes", r'pip install "obverse\[quantised\]"'),
    ],
)
def test_without_the_library_it_is_one_sentence(
    method: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny.save("llama", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": method, "load_in_4bit": True}
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(packing, "installed", lambda name: False)
    with pytest.raises(ModelError, match=message) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)


def test_pickled_packed_weights_are_not_read(tmp_path: Path) -> None:
    folder = tiny.save("llama", tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="only pickled weights, which can run code"):
        load_model(folder)
