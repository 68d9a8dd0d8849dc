"""A model is what it computes: whatever is done to it shows before a store is read or written."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cache import ActivationStore
from interp import Model, capture
from interp.errors import ModelError, ObverseError
from interp.forward.passes import observe
from interp.forward.source import is_hooked
from interp.harvest import harvest
from tests.interp.modifying import (
    CODE,
    HOOKS,
    WEIGHTS,
    WORD,
    Modification,
    block_training,
    code_exchanged,
    restoring,
    scaling,
    setting,
)
from tests.interp.tiny import Tiny

pytestmark = pytest.mark.slow

IDLE = (block_training, code_exchanged, scaling, setting)
ROWS = torch.tensor([[1, 5, WORD, 14, 3, 8, 20, 4, 11, 7, 6, 10]])


@pytest.fixture(params=["gpt2", "llama"])
def model(request: pytest.FixtureRequest, zoo: object) -> Model:
    tiny: Tiny = zoo(request.param)  # type: ignore[operator]
    return tiny.model


def run(model: Model) -> dict[str, Tensor]:
    return capture(model, ROWS, "resid_post")


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return all(torch.allclose(ours[n], theirs[n], rtol=1e-3, atol=1e-4) for n in theirs)


@pytest.mark.parametrize("modify", WEIGHTS)
def test_changed_numbers_have_a_name_of_their_own(
    model: Model, modify: Modification, tmp_path: Path
) -> None:
    clean, before = model.fingerprint, run(model)
    with ActivationStore(tmp_path / "store") as store:
        store.get(model, ROWS, "resid_post")
        with modify(model):
            changed = run(model)
            assert not same(changed, before)
            assert model.fingerprint != clean
            assert not model.changes
            assert store.missing(model, ROWS, "resid_post") == 1
            name = model.fingerprint
            assert same(capture(model, ROWS, "resid_post", store=store), changed)
            assert store.missing(model, ROWS, "resid_post") == 0
        assert model.fingerprint == clean
        assert same(store.get(model, ROWS, "resid_post"), before)
        with modify(model):
            assert model.fingerprint == name


@pytest.mark.parametrize("modify", HOOKS)
def test_with_a_hook_nothing_is_read_or_stored(
    model: Model, modify: Modification, tmp_path: Path
) -> None:
    clean, before = model.fingerprint, run(model)
    assert not is_hooked(model)
    with ActivationStore(tmp_path / "store") as store:
        store.get(model, ROWS, "resid_post")
        with modify(model):
            assert is_hooked(model)
            assert model.fingerprint != clean
            changed = run(model)
            assert not same(changed, before)
            assert same(capture(model, ROWS, "resid_post", store=store), changed)
            with pytest.raises(ModelError, match="Hooks are placed on"):
                store.get(model, ROWS, "resid_post")
        assert not is_hooked(model)
        assert model.fingerprint == clean
        assert same(store.get(model, ROWS, "resid_post"), before)


@pytest.mark.parametrize("modify", CODE)
def test_with_other_code_or_settings_a_store_is_refused(
    model: Model, modify: Modification, tmp_path: Path
) -> None:
    clean, before = model.fingerprint, run(model)
    with ActivationStore(tmp_path / "store") as store:
        store.get(model, ROWS, "resid_post")
        with modify(model):
            # Of some of these TransformerLens has its own in GPT-2; dropout may have no effect.
            assert not same(run(model), before) or modify in IDLE
            assert not is_hooked(model)
            assert model.fingerprint != clean
            for use in (store.get, store.rows, store.missing):
                with pytest.raises(ModelError, match=r"more than its weights|in training mode"):
                    use(model, ROWS, "resid_post")
            with pytest.raises(ModelError, match="more than its weights"):
                capture(model, ROWS, "resid_post", store=store)
        assert model.fingerprint == clean
        assert same(store.get(model, ROWS, "resid_post"), before)


@pytest.mark.parametrize("modify", [WEIGHTS[0], HOOKS[0]])
def test_a_model_changed_meanwhile_commits_nothing(
    model: Model, modify: Modification, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, clean = run(model), observe
    with ActivationStore(tmp_path / "store") as store, contextlib.ExitStack() as stack:

        def changing(*given: Any) -> Any:
            stack.enter_context(modify(model))
            return clean(*given)

        monkeypatch.setattr("interp.forward.source.observe", changing)
        with pytest.raises(ObverseError, match=r"was changed while|Hooks are placed"):
            store.get(model, ROWS, "resid_post")
        monkeypatch.setattr("interp.forward.source.observe", clean)
        stack.close()
        assert store.usage() == []
        assert same(store.get(model, ROWS, "resid_post"), before)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("interp.forward.source.observe", changing)
            texts = ["we saw Ann near Rome and then so Fay is"]
            with pytest.raises(ObverseError, match=r"was changed while|Hooks are placed"):
                harvest(model, texts, "resid_post", store)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_every_number_of_a_model_is_in_its_name(name: str, zoo: Callable[[str], Tiny]) -> None:
    model = zoo(name).model
    clean = model.fingerprint
    original = model.bridge.original_model
    held = {**dict(original.named_parameters()), **dict(original.named_buffers())}
    assert len(held) > 20
    for path, value in held.items():
        with restoring(value):
            value.data[(-1,) * value.ndim] += 1
            assert model.fingerprint != clean, path
    assert model.fingerprint == clean
