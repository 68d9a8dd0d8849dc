"""Recipes: another process gets the same model, or refuses."""

from __future__ import annotations

import gc
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from interp import load_model
from interp.errors import ModelError
from interp.execute import Executor
from interp.execute.recipe import ModelRecipe, OnModel, on_model
from interp.model.model import Model
from tests.interp import tiny as builders
from tests.interp.architectures import ARCHITECTURES
from tests.interp.tiny import Tiny

pytestmark = pytest.mark.slow


def sent(recipe: ModelRecipe) -> ModelRecipe:
    """As a worker receives it."""
    received = pickle.loads(pickle.dumps(recipe))  # noqa: S301 — our own
    assert isinstance(received, ModelRecipe)
    return received


def logits(model: Model) -> torch.Tensor:
    with torch.no_grad():
        return torch.as_tensor(model.bridge(torch.tensor([[1, 5, 9, 4]])))


def in_memory(hf: Any) -> Model:
    return load_model(hf, tokenizer=builders.build_tokenizer())


@pytest.mark.parametrize("name", ["GPT-2", "GPT-NeoX", "Mixtral", "Gemma 3", "Falcon, one key"])
def test_a_model_in_memory_comes_out_the_same(name: str) -> None:
    hf = ARCHITECTURES[name].build()
    expected = hf(torch.tensor([[1, 5, 9, 4]])).logits
    model = in_memory(hf)
    recipe = sent(ModelRecipe.of(model))
    loaded = recipe.load()
    assert loaded is not model
    assert loaded.fingerprint == model.fingerprint
    torch.testing.assert_close(logits(loaded), expected, rtol=1e-4, atol=1e-4)
    assert loaded.token_ids("we saw Ann") == model.token_ids("we saw Ann")


def test_the_saved_model_goes_with_the_one_in_memory() -> None:
    model = in_memory(builders.gpt2())
    folder = Path(ModelRecipe.of(model).source)
    assert ModelRecipe.of(model).source == str(folder)
    assert (folder / "model.safetensors").is_file()
    del model
    gc.collect()
    assert not folder.exists()


def test_weights_changed_in_memory_are_saved_anew() -> None:
    hf = builders.gpt2()
    model = in_memory(hf)
    ModelRecipe.of(model)
    with torch.no_grad():
        hf.transformer.h[0].ln_1.weight[0] += 0.5
        # TransformerLens' queries, keys and values are parts of this one.
        hf.transformer.h[0].attn._original_component.c_attn.weight += 0.1
    loaded = sent(ModelRecipe.of(model)).load()
    torch.testing.assert_close(logits(loaded), logits(model), rtol=1e-5, atol=1e-5)


def test_weights_changed_since_they_were_loaded_are_refused(gpt2: Tiny) -> None:
    model = load_model(gpt2.folder)
    with torch.no_grad():
        next(iter(model.bridge.original_model.parameters())).view(-1)[0] += 0.5
    with pytest.raises(ModelError, match="with other weights"):
        sent(ModelRecipe.of(model)).load()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_model_in_memory_keeps_its_precision(dtype: torch.dtype) -> None:
    model = in_memory(builders.llama().to(dtype))
    loaded = sent(ModelRecipe.of(model)).load()
    assert loaded.dtype == dtype
    assert loaded.fingerprint == model.fingerprint


def test_a_model_with_a_hook_of_its_own_is_refused() -> None:
    hf = builders.gpt2()
    hf.transformer.h[1].mlp.register_forward_hook(lambda module, args, output: 1.1 * output)
    model = in_memory(hf)
    with pytest.raises(ModelError, match=r"hook is placed on 'transformer.h.1.mlp'\), so workers"):
        ModelRecipe.of(model)


def test_a_copy_that_answers_otherwise_is_refused() -> None:
    model = in_memory(builders.gpt2())
    recipe = ModelRecipe.of(model)
    assert recipe.saved is not None
    saved = replace(recipe.saved, logits=tuple(1.1 * value for value in recipe.saved.logits))
    with pytest.raises(ModelError, match="computes something else than its weights"):
        sent(replace(recipe, saved=saved)).load()


def test_a_saved_model_that_is_not_there_is_told_of() -> None:
    recipe = ModelRecipe.of(in_memory(builders.gpt2()))
    with pytest.raises(ModelError, match=r"saved to '/nowhere', which this machine does not see"):
        replace(recipe, source="/nowhere").load()


def test_a_folder_is_found_from_anywhere(
    gpt2: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(gpt2.folder.parent)
    model = load_model(gpt2.folder.name, dtype="bfloat16")
    recipe = sent(ModelRecipe.of(model))
    monkeypatch.chdir(tmp_path)
    loaded = recipe.load()
    assert (loaded.fingerprint, loaded.dtype) == (model.fingerprint, torch.bfloat16)
    assert loaded.path == gpt2.folder


def test_a_bundled_model_is_known_by_name_on_every_machine() -> None:
    recipe = ModelRecipe.of(load_model("reversal-curse"))
    assert (recipe.source, recipe.dtype, recipe.device) == ("reversal-curse", "float32", "cpu")
    assert sent(recipe).load().fingerprint == recipe.fingerprint


def test_a_revision_is_part_of_the_recipe(gpt2: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(gpt2.folder)
    monkeypatch.setattr(model, "revision", "main")
    recipe = sent(ModelRecipe.of(model))
    assert recipe.revision == "main"
    with pytest.raises(ModelError, match="has no revisions; leave 'main' out"):
        recipe.load()


def test_other_weights_in_the_folder_are_refused(tmp_path: Path) -> None:
    folder = builders.save("gpt2", tmp_path / "model")
    recipe = sent(ModelRecipe.of(load_model(folder)))
    recipe.load()
    builders.save("gpt2", folder, seed=1)
    with pytest.raises(ModelError, match="with other weights or settings than"):
        recipe.load()


def test_another_tokenizer_in_the_folder_is_refused(tmp_path: Path) -> None:
    folder = builders.save("gpt2", tmp_path / "model")
    recipe = sent(ModelRecipe.of(load_model(folder)))
    path = folder / "tokenizer.json"
    text = path.read_text()
    assert '"<unk>": 2' in text
    path.write_text(text.replace('"<unk>": 2', '"<unk>": 5').replace('"Ann": 5', '"Ann": 2', 1))
    with pytest.raises(ModelError, match="with another tokenizer than"):
        recipe.load()


def test_what_was_last_asked_of_the_tokenizer_is_no_other_tokenizer(tmp_path: Path) -> None:
    folder = builders.save("gpt2", tmp_path / "model")
    path = folder / "tokenizer.json"
    path.write_text(
        path.read_text().replace(
            '"truncation": null',
            '"truncation": {"direction": "Right", "max_length": 9, "strategy": "LongestFirst", '
            '"stride": 0}',
        )
    )
    model = load_model(folder)
    model.token_ids("we saw Ann")
    sent(ModelRecipe.of(model)).load()


def test_only_other_processes_get_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    model = in_memory(builders.gpt2())
    before = set(os.listdir(Path(ModelRecipe.of(model).source).parent))
    other = in_memory(builders.gpt2())
    here = on_model(other, Executor())
    assert here()(lambda given: given is other)
    assert set(os.listdir(Path(ModelRecipe.of(model).source).parent)) == before
    there = on_model(model, Executor("processes"))
    assert there == OnModel(ModelRecipe.of(model))
    assert there()(lambda given: given.fingerprint) == model.fingerprint
