"""A placed model is read from its files weight by weight: the right one each, and no other."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks import large
from interp import load_model
from interp.errors import ModelError
from interp.loading import bridge
from interp.loading.placement import Wanted
from interp.loading.quiet import quiet
from interp.loading.streaming.stream import Stream
from tests.interp.architectures import ARCHITECTURES
from tests.interp.tiny import Tiny, build_tokenizer

DISK = {"": "cpu", "model.layers": "disk"}
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
Edit = Callable[[dict[str, Tensor], dict[str, Any]], None]


def placed(folder: Path, device_map: Any, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """A Hugging Face model, and its weights that lie elsewhere."""
    with quiet():
        wanted = Wanted(device_map)
        files = str(folder), str(folder), folder, dtype, None
        hf_model, _, _, elsewhere = bridge.load_placed(*files, wanted)
    return hf_model, elsewhere


def whole(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The same as Hugging Face loads it."""
    with quiet():
        return transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation="eager"
        )


def check_same(ours: Any, theirs: Any) -> None:
    """Names, numbers, types, ties and settings of two models."""
    for kind in ("named_parameters", "named_buffers"):
        mine, other = (
            dict(getattr(model, kind)(remove_duplicate=False)) for model in (ours, theirs)
        )
        assert list(mine) == list(other)
        for name, value in other.items():
            assert mine[name].dtype == value.dtype, name
            assert torch.equal(mine[name], value), name
    assert [name for name, _ in ours.named_parameters()] == [
        n for n, _ in theirs.named_parameters()
    ]
    assert ours.config.to_dict() == theirs.config.to_dict()
    assert ours.generation_config.to_dict() == theirs.generation_config.to_dict()
    assert ours.name_or_path == theirs.name_or_path
    assert not ours.training


@pytest.fixture
def never_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hugging Face reads no file itself."""

    def refuse(*_args: Any, **_given: Any) -> None:
        raise AssertionError("Hugging Face was to load this model itself")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", refuse)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "Mixtral"])
def test_every_architecture_is_what_hugging_face_loads(
    name: str, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ARCHITECTURES[name].build().save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    theirs = whole(tmp_path, dtype)
    blocks = ARCHITECTURES[name].layout.blocks
    monkeypatch.setattr(bridge, "stripped", None)
    for device_map in (
        {"": "cpu"},
        {"": "cpu", blocks: "disk"},
        {"": "disk", f"{blocks}.0": "cpu"},
    ):
        ours, elsewhere = placed(tmp_path, device_map, dtype)
        assert (elsewhere is None) == (device_map == {"": "cpu"})
        check_same(ours, theirs)


@pytest.mark.slow
def test_only_what_stays_is_read_and_blocks_as_often_as_they_run(
    llama: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone: list[str] = []
    real = Stream.one

    def one(self: Stream, name: str, begin: int = 0) -> Tensor:
        alone.append(name)
        return real(self, name, begin)

    monkeypatch.setattr(Stream, "one", one)
    model = load_model(llama.folder, device_map=DISK)
    assert sorted(alone) == [HEAD, EMBEDDING, "model.norm.weight"]
    assert model.elsewhere is not None
    reader = model.elsewhere.reader
    assert isinstance(reader, Stream)
    # Once for all: Hugging Face's logits, the bridge's, the answers that tell the model again, the
    # numbers that are looked at and hashed. The first block is foreseen for what comes next.
    assert sorted(reader.reads.values()) == [1] * (len(reader.reads) - 1) + [2]
    del alone[:]
    assert model.fingerprint == llama.model.fingerprint
    assert alone == []


@pytest.fixture
def data_limit() -> Iterator[Callable[[int], None]]:
    """Limits how much more memory this process may have for itself."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    yield lambda more: resource.setrlimit(
        resource.RLIMIT_DATA, (large.memory()["VmData"] + more, before[1])
    )
    resource.setrlimit(resource.RLIMIT_DATA, before)


@pytest.mark.slow
def test_a_model_larger_than_the_limit_is_loaded_and_runs(
    tmp_path: Path, data_limit: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = large.Shape(layers=16, width=768, heads=4, mlp=2048, vocabulary=1200)
    large.write(tmp_path, shape)
    size = sum(file.stat().st_size for file in tmp_path.glob("*.safetensors"))
    load_model(shorter(tmp_path), device_map=DISK, dtype="bfloat16")  # modules are imported
    limit = 100 << 20
    assert size > 2 * limit
    data_limit(limit)
    model = large.on_disk(tmp_path, "bfloat16")
    assert bool(large.work_of("forward", model, 4)().isfinite().all())
    del model
    # The limit is one: Hugging Face's own way of loading does not keep to it.
    monkeypatch.setattr(bridge, "promised", lambda *_: None)
    with pytest.raises(ModelError, match="memory"):
        large.on_disk(tmp_path, "bfloat16")


def shorter(folder: Path) -> Path:
    return large.shorter(folder, 1, folder / "short")


# -- checkpoints that are not what they seem -------------------------------------------------------


def edited(tiny: Tiny, into: Path, edit: Edit) -> Path:
    """A copy of a checkpoint, its weights and configuration changed."""
    shutil.copytree(tiny.folder, into)
    weights = load_file(into / "model.safetensors")
    config = json.loads((into / "config.json").read_text())
    edit(weights, config)
    save_file(weights, into / "model.safetensors", {"format": "pt"})
    (into / "config.json").write_text(json.dumps(config))
    return into


def _tied(config: dict[str, Any]) -> None:
    config["tie_word_embeddings"] = True


def _only_the_embedding(weights: dict[str, Tensor], config: dict[str, Any]) -> None:
    _tied(config)
    del weights[HEAD]


def _only_the_head(weights: dict[str, Tensor], config: dict[str, Any]) -> None:
    _tied(config)
    del weights[EMBEDDING]


def _both_alike(weights: dict[str, Tensor], config: dict[str, Any]) -> None:
    _tied(config)
    weights[HEAD] = weights[EMBEDDING].clone()


def _both_unlike(_weights: dict[str, Tensor], config: dict[str, Any]) -> None:
    _tied(config)


def _names_of_the_base(weights: dict[str, Tensor], config: dict[str, Any]) -> None:
    _only_the_embedding(weights, config)
    for name in list(weights):
        weights[name.removeprefix("model.")] = weights.pop(name)


def _more_than_asked_for(weights: dict[str, Tensor], _config: dict[str, Any]) -> None:
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.full((4,), 7.0)
    weights["value_head.weight"] = torch.ones(3)
    weights["model.layers.0.self_attn.q_proj.weight_old"] = torch.ones(3)


def _another_type(weights: dict[str, Tensor], config: dict[str, Any]) -> None:
    config["dtype"] = "bfloat16"
    for name in list(weights):
        weights[name] = weights[name].to(torch.float64 if "q_proj" in name else torch.float16)


@pytest.mark.usefixtures("never_mapped")
@pytest.mark.parametrize(
    "edit",
    [
        _only_the_embedding,
        _only_the_head,
        _both_alike,
        _both_unlike,
        _names_of_the_base,
        _more_than_asked_for,
        _another_type,
    ],
)
@pytest.mark.parametrize("head", ["cpu", "disk"])
def test_names_ties_and_types_are_understood_as_hugging_face_does(
    llama: Tiny, tmp_path: Path, edit: Edit, head: str
) -> None:
    folder = edited(llama, tmp_path / "edited", edit)
    with quiet():
        theirs = transformers.LlamaForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        )
    ours, _ = placed(folder, DISK | {"lm_head": head, "model.embed_tokens": head})
    check_same(ours, theirs)


def _missing(weights: dict[str, Tensor], _config: dict[str, Any]) -> None:
    del weights["model.layers.1.mlp.up_proj.weight"]


def _another_shape(weights: dict[str, Tensor], _config: dict[str, Any]) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    weights[name] = weights[name].T.contiguous()


def _blocks_left_out(_weights: dict[str, Tensor], config: dict[str, Any]) -> None:
    config["num_hidden_layers"] -= 1


@pytest.mark.usefixtures("never_mapped")
@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (_missing, r"lacks 1 weights \('model\.layers\.1\.mlp\.up_proj\.weight' first\)"),
        (_another_shape, r"do not fit its config\.json \('model\.layers\.1\.mlp\.up_proj"),
        (_blocks_left_out, r"do not fit its config\.json \('model\.layers\.\d\."),
    ],
)
def test_weights_that_are_not_the_models_are_refused(
    llama: Tiny, tmp_path: Path, edit: Edit, says: str
) -> None:
    folder = edited(llama, tmp_path / "edited", edit)
    with pytest.raises(ModelError, match=says):
        placed(folder, DISK)
