"""A model has one identity wherever it comes from, and a bad one is refused in one sentence."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from interp import Model, capture, load_model
from interp.errors import ModelError
from tests.interp import tiny as builders
from tests.interp.tiny import D_MODEL, N_CTX, N_HEADS, N_LAYERS, VOCABULARY, Tiny

WEIGHTS = "model.safetensors"


def copied(tiny: Tiny, to: Path) -> Path:
    """A folder of one's own to spoil."""
    shutil.copytree(tiny.folder, to / "model")
    return to / "model"


def configured(folder: Path, **changes: Any) -> Path:
    """Change settings in config.json; None takes one away."""
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    return folder


def reweighted(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    return folder


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


# Identity


def test_the_fingerprint_does_not_depend_on_where_the_model_comes_from(
    tiny: Tiny, tmp_path: Path
) -> None:
    from interp.fingerprint import fingerprint

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
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


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
    from interp.fingerprint import fingerprint

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


# Refusals


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
    monkeypatch.setattr("interp.sources.entry_points", lambda group: [Bundled(llama.folder)])
    model = load_model("some-organism")
    assert (model.name, model.path) == ("some-organism", llama.folder)
    assert model.fingerprint == llama.model.fingerprint
    refused("some-organsm", "did you mean 'some-organism'")
    refused("elephant", "bundled are: some-organism")


def test_a_revision_is_asked_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def from_pretrained(name: str, **options: Any) -> None:
        asked.update(options, name=name)
        raise OSError("not today")

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", from_pretrained)
    refused("some-org/some-model", "not today", revision="v2")
    assert (asked["name"], asked["revision"]) == ("some-org/some-model", "v2")
    assert asked["trust_remote_code"] is False


def test_the_lock_may_be_taken_twice_by_one_thread(llama: Tiny) -> None:
    with llama.model.lock, llama.model.lock:
        assert capture(llama.model, ["we saw"], "resid_pre.0")


def test_loading_leaves_the_users_logging_as_it_was(llama: Tiny) -> None:
    import logging

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
