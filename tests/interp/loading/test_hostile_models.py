"""A folder that lies about its model is refused at once, in one sentence and little memory."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import resource
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from interp import load_model
from interp.errors import ModelError, ObverseError
from interp.loading.bridge import modules_at_most
from interp.loading.configuration import weights_in
from tests.interp.folders import WEIGHTS, configured, copied, reweighted
from tests.interp.tiny import VOCABULARY, Tiny, build_tokenizer

SECONDS, MEMORY = 20, 1 << 30


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Inside, no more memory may be asked for than `MEMORY`, nor more than some seconds pass."""

    def stop(*_: object) -> None:
        raise TimeoutError

    before = resource.getrlimit(resource.RLIMIT_AS)
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
    handler = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)


def refused(folder: Path, message: str) -> None:
    with bounded(), pytest.raises(ModelError, match=message) as caught:
        load_model(folder)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 500


SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "no layers": ({"num_hidden_layers": 0}, "num_hidden_layers as 0"),
    "layers below none": ({"num_hidden_layers": -1}, "num_hidden_layers as -1"),
    "a million layers": ({"num_hidden_layers": 10**6}, "asks for 1,000,000 layers"),
    "layers in a list": ({"num_hidden_layers": [3]}, "num_hidden_layers as .3."),
    "true layers": ({"num_hidden_layers": True}, "num_hidden_layers as True"),
    "half a layer": ({"num_hidden_layers": 2.5}, "num_hidden_layers as 2.5"),
    "layers of a part": ({"text_config": {"num_hidden_layers": 10**9}}, "asks for 1,000,000,000"),
    "a huge vocabulary": ({"vocab_size": 10**9}, "do not fit its config.json"),
    "a huge stream": ({"hidden_size": 10**6}, "do not fit its config.json"),
    "an overflowing stream": ({"hidden_size": 10**11}, "cannot be loaded|do not fit"),
    "a huge MLP": ({"intermediate_size": 10**9}, "do not fit its config.json"),
    "no vocabulary": ({"vocab_size": 0}, "vocab_size as 0"),
    "a context below none": ({"max_position_embeddings": -5}, "max_position_embeddings as -5"),
    "heads that do not divide": ({"num_attention_heads": 5}, "."),
    "keys that do not divide": ({"num_key_value_heads": 3}, "."),
    "no heads": ({"num_attention_heads": 0}, "num_attention_heads as 0"),
    "a word for heads": ({"num_attention_heads": "four"}, "'four', which is not an integer"),
    "no rotation": ({"rope_theta": 0}, "rope_theta as 0"),
    "a rotation of NaN": ({"rope_theta": float("nan")}, "rope_theta as nan"),
    "an endless rotation": ({"rope_theta": float("inf")}, "rope_theta as inf"),
    "a rotation backwards": ({"rope_theta": -1e4}, "rope_theta as -10000"),
    "a rotation inside": (
        {"rope_parameters": {"rope_type": "default", "rope_theta": 0.0}},
        "rope_theta as 0.0",
    ),
    "a norm of NaN": ({"rms_norm_eps": float("nan")}, "rms_norm_eps as nan"),
    "a norm below none": ({"rms_norm_eps": -1.0}, "rms_norm_eps as -1.0"),
    "a norm in words": ({"rms_norm_eps": "1e-5"}, "rms_norm_eps as '1e-5'"),
    "other weight files": ({"transformers_weights": "../x.safetensors"}, "other weight files"),
    "a name for each of a billion labels": ({"num_labels": 10**9}, "not at most 65,536"),
    "layers written out": (
        {"attention_types": [[["global", "local"], 10**10]]},
        "at most 4,096 layers",
    ),
    "a window of nothing": ({"sliding_window": 0}, "sliding_window as 0"),
    "another architecture": ({"model_type": "mistral"}, "'mistral' and the .*'LlamaForCausalLM'"),
    "a hundred thousand settings": ({f"s{i}": i for i in range(10**5)}, "more than 20,000"),
    "outputs as tuples": ({"return_dict": False}, "computes nothing with the settings"),
    "an unknown activation": ({"hidden_act": "evil"}, "'evil' is not known"),
    "a model type in a list": ({"model_type": ["llama"]}, "names no model_type"),
    "a number in a million": ({"attention_bias": "yes" * 10**6}, "."),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_a_configuration_that_cannot_be_meant_is_refused(
    llama: Tiny, tmp_path: Path, case: str
) -> None:
    changes, message = SETTINGS[case]
    refused(configured(copied(llama, tmp_path), **changes), message)


class Intruder:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def indexed(folder: Path, name: str) -> None:
    """Put an index in the place of the weights, which points to `name`."""
    names = weights_in([folder / WEIGHTS])
    (folder / WEIGHTS).rename(folder / "other.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, name)}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))


def to_a_pickle(folder: Path) -> None:
    (folder / "evil.bin").write_bytes(pickle.dumps(Intruder(folder / "left behind")))
    indexed(folder, "evil.bin")


def to_a_neighbour(folder: Path) -> None:
    indexed(folder, "../other.safetensors")


def to_a_place(folder: Path) -> None:
    indexed(folder, str(folder / "other.safetensors"))


def to_a_number(folder: Path) -> None:
    indexed(folder, 5)  # type: ignore[arg-type]


def with_an_adapter(folder: Path) -> None:
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "/elsewhere"}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Intruder(folder / "left behind")))


def deep(folder: Path) -> None:
    text = (folder / "config.json").read_text().rstrip()[:-1]
    (folder / "config.json").write_text(f'{text}, "x": {"[" * 900}{"]" * 900}}}')


def endless_number(folder: Path) -> None:
    text = (folder / "config.json").read_text().rstrip()[:-1]
    (folder / "config.json").write_text(f'{text}, "num_hidden_layers": {"9" * 5000}}}')


def large(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        with (folder / name).open("wb") as file:
            file.truncate(4 << 30)

    spoil.__name__ = f"large {name}"
    return spoil


def piped(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    spoil.__name__ = f"piped {name}"
    return spoil


def to_a_device(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to("/dev/zero")

    spoil.__name__ = f"device {name}"
    return spoil


def a_long_header(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((1 << 62).to_bytes(8, "little") + b"{}")


def weights_that_claim_more(folder: Path) -> None:
    header = b'{"a":{"dtype":"F32","shape":[1000000,1000000],"data_offsets":[0,4]}}'
    (folder / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 4)


def weights_in_bytes(folder: Path) -> None:
    reweighted(folder, lambda w: w.update({n: one.to(torch.int8) for n, one in w.items()}))


def weights_in_two_files(folder: Path) -> None:
    names = list(weights_in([folder / WEIGHTS]))
    shutil.copy(folder / WEIGHTS, folder / "a.safetensors")
    (folder / WEIGHTS).rename(folder / "b.safetensors")
    parts = {name: "ab"[i % 2] + ".safetensors" for i, name in enumerate(names)}
    index = {"metadata": {}, "weight_map": parts}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))


def a_deep_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"model": ' + "[" * 10**6)


def a_tokenizer_of_its_own(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    own = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    path.write_text(json.dumps({**json.loads(path.read_text()), **own}))
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text("{}")
    (folder / "own.py").write_text(f"open({str(folder / 'left behind')!r}, 'w')\n")


FILES: dict[Callable[[Path], None], str] = {
    to_a_pickle: "points to 'evil.bin', which is no safetensors file",
    to_a_neighbour: r"points to '\.\./other",
    to_a_place: "which is no safetensors file beside it",
    to_a_number: "damaged",
    with_an_adapter: "holds an adapter of another model",
    deep: "nested more than 32 deep|cannot be read as JSON",
    endless_number: "cannot be read as JSON|num_hidden_layers",
    large("config.json"): "bytes, more than any",
    large("tokenizer.json"): "bytes, more than any",
    large("generation_config.json"): "bytes, more than any",
    piped("config.json"): "no regular file",
    piped("tokenizer_config.json"): "no regular file",
    piped("special_tokens_map.json"): "no regular file",
    piped(WEIGHTS): "no regular file",
    piped("additional_chat_templates/x.jinja"): "no regular file",
    to_a_device("config.json"): "no regular file",
    to_a_device("generation_config.json"): "no regular file",
    to_a_device(f"{WEIGHTS}.index.json"): "no regular file",
    a_long_header: "truncated or damaged",
    weights_that_claim_more: "truncated or damaged",
    weights_in_bytes: "stored as I8",
    weights_in_two_files: "stands in another of the model's files too",
    a_deep_tokenizer: "cannot be loaded",
    a_tokenizer_of_its_own: "cannot be loaded",
}


@pytest.mark.parametrize("spoil", FILES, ids=lambda spoil: spoil.__name__)
def test_a_file_that_cannot_be_meant_is_not_opened(
    llama: Tiny, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    folder = copied(llama, tmp_path)
    spoil(folder)
    refused(folder, FILES[spoil])
    assert not (folder / "left behind").exists()


@pytest.mark.slow
def test_code_that_a_configuration_asks_for_is_not_fetched(
    llama: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers.modeling_utils as loading

    asked: list[str] = []
    monkeypatch.setattr(
        loading, "lazy_import_flash_attention", lambda name, **_: asked.append(name)
    )
    folder = copied(llama, tmp_path)
    configured(folder, _attn_implementation="someone/kernel", attn_implementation="someone/kernel")
    assert load_model(folder).token_ids("we saw") == llama.ids("we saw")
    assert asked == []


def test_tables_of_positions_are_bounded_by_the_weights(tmp_path: Path) -> None:
    from transformers import GPTJConfig, GPTJForCausalLM

    sizes = {"vocab_size": len(VOCABULARY), "n_embd": 32, "n_layer": 2, "n_head": 4}
    model = GPTJForCausalLM(GPTJConfig(**sizes, n_positions=24, rotary_dim=4))
    model.save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    refused(configured(tmp_path, n_positions=2**31), "asks for tables of 17,179,869,184 numbers")
    refused(
        configured(tmp_path, n_positions=24, rotary_dim=3), "computes nothing with the settings"
    )


@pytest.mark.slow
def test_settings_that_make_finite_weights_compute_nothing_are_refused(
    llama: Tiny, tmp_path: Path
) -> None:
    folder = copied(llama, tmp_path)
    reweighted(folder, lambda w: w["lm_head.weight"].fill_(1e30))
    assert load_model(folder)
    reweighted(folder, lambda w: w["model.norm.weight"].fill_(1e30))
    with pytest.raises(ModelError, match="no finite logits from finite weights"):
        load_model(folder)


@pytest.mark.slow
def test_links_of_a_hub_cache_are_followed(llama: Tiny, tmp_path: Path) -> None:
    folder = copied(llama, tmp_path)
    blobs = tmp_path / "blobs"
    folder.rename(blobs)
    folder.mkdir()
    for path in blobs.iterdir():
        (folder / path.name).symlink_to(path)
    assert load_model(folder).fingerprint == llama.model.fingerprint


@pytest.mark.slow
def test_a_chat_template_is_not_run(llama: Tiny, tmp_path: Path) -> None:
    folder = copied(llama, tmp_path)
    (folder / "chat_template.jinja").write_text("{% for i in range(10**12) %}{% endfor %}")
    with bounded():
        assert load_model(folder).token_ids("we saw") == llama.ids("we saw")


def test_a_skeleton_is_not_built_beyond_its_files() -> None:
    with pytest.raises(ModelError, match="more than 10 modules"), modules_at_most(10):
        torch.nn.ModuleList(torch.nn.Identity() for _ in range(10**9))
    assert len(torch.nn.ModuleList(torch.nn.Identity() for _ in range(20))) == 20


@pytest.mark.parametrize("name", ["~nosuchuser/x", "x" * 5000, "./a\0b", "/" + "x" * 300])
def test_names_that_no_file_can_have_are_refused(name: str) -> None:
    with pytest.raises(ObverseError) as caught:
        load_model(name)
    assert "\n" not in str(caught.value)
