"""Activations from a store are those of the model, and of nothing but the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from cache import ActivationStore
from interp import Model, capture, load_model
from interp.errors import ModelError, SiteError
from interp.forward.source import ModelSource
from tests.interp.tiny import N_LAYERS, Tiny

PROMPTS = ["we saw Ann near Rome and then", "so Fay is", "the friend of Bo Cy is near home and"]

SITES = ["resid_pre", "resid_post.1", "mlp_act.0", "z", "k.1", "q.0.h1"]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ActivationStore]:
    with ActivationStore(tmp_path / "store") as opened:
        yield opened


def no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def observe(*_: object) -> None:
        raise AssertionError("the model was run")

    monkeypatch.setattr("interp.forward.source.observe", observe)
    monkeypatch.setattr("interp.forward.capture.observe", observe)


@pytest.mark.slow
@pytest.mark.parametrize("positions", ["all", "last"])
def test_what_is_stored_is_what_is_computed(
    tiny: Tiny, store: ActivationStore, positions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sites = SITES if positions == "last" else [*SITES, "pattern.1"]
    run = capture(tiny.model, PROMPTS, sites, positions=positions)
    stored = capture(tiny.model, PROMPTS, sites, positions=positions, store=store)
    assert list(stored) == list(run)
    torch.testing.assert_close(stored, run, equal_nan=True)
    lengths = [len(ids) for ids in tiny.model.activation_source().rows(PROMPTS)]
    for name, value in run.items():
        for row, length in zip(value, lengths, strict=True):
            real = torch.ones(row.shape, dtype=torch.bool)
            if positions == "all":
                for axis in (-1, -2) if name.startswith("pattern") else (0,):
                    real.narrow(axis, length, row.shape[axis] - length).fill_(False)
            assert torch.equal(row.isfinite(), real)
    no_run(monkeypatch)
    again = [site for site in sites if not site.startswith("pattern")]
    capture(tiny.model, PROMPTS, again, positions=positions, store=store)
    capture(tiny.model, PROMPTS[1:], ["z.1.h0"], positions=positions, store=store)


def test_the_environment_names_a_store(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OBVERSE_CACHE", str(tmp_path / "named"))
    first = capture(tiny.model, PROMPTS, "resid_post")
    no_run(monkeypatch)
    again = capture(tiny.model, PROMPTS, "resid_post")
    torch.testing.assert_close(again, first, equal_nan=True)


def test_the_model_runs_no_deeper_than_asked(tiny: Tiny) -> None:
    ran: list[int] = []
    handles = [
        block.register_forward_hook(lambda *_, layer=layer: ran.append(layer))
        for layer, block in enumerate(tiny.model.bridge.blocks)
    ]
    try:
        capture(tiny.model, PROMPTS[:1], ["z.0", "resid_post.1"])
        assert ran == [0, 1]
        capture(tiny.model, PROMPTS[:1], f"resid_post.{N_LAYERS - 1}")
        assert ran == [0, 1, *range(N_LAYERS)]
    finally:
        for handle in handles:
            handle.remove()


def fold(model: Model) -> None:
    model.bridge.enable_compatibility_mode()


def shift(model: Model) -> None:
    with torch.no_grad():
        next(model.bridge.original_model.parameters()).add_(0.5)


@pytest.mark.slow
@pytest.mark.parametrize("change", [fold, shift])
def test_changed_weights_are_another_key(
    store: ActivationStore, change: Callable[[Model], None]
) -> None:
    model = load_model("reversal-curse")
    prompts = ["Tom Cruise's mother is"]
    store.get(model, prompts, "resid_post")
    before = model.fingerprint
    assert store.missing(model, prompts, "resid_post") == 0
    change(model)
    assert model.fingerprint != before
    assert store.missing(model, prompts, "resid_post") == 1
    found = store.get(model, prompts, "resid_post.1")
    torch.testing.assert_close(found, capture(model, prompts, "resid_post.1"))


@pytest.mark.slow
def test_a_bos_token_in_front_is_another_key(
    store: ActivationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundled = load_model("reversal-curse")
    ids = torch.tensor([[3, 4, 5]])
    store.get(bundled, ids, "resid_post.0")
    monkeypatch.setattr(type(bundled), "prepends_bos", not bundled.prepends_bos)
    assert store.missing(bundled, ids, "resid_post.0") == 1


def test_hooked_activations_never_enter_a_store(tiny: Tiny, store: ActivationStore) -> None:
    point = tiny.model.bridge.hook_dict["blocks.0.hook_resid_post"]
    handle = point.add_hook(lambda value, hook: torch.zeros_like(value))
    try:
        with pytest.raises(ModelError, match="remove them"):
            store.get(tiny.model, PROMPTS, "resid_post")
        found = capture(tiny.model, PROMPTS, "resid_post.0", store=store)
        assert not found["resid_post.0"].nan_to_num().any()
        assert store.usage() == []
    finally:
        point.remove_hooks()
    assert handle is not None


def test_what_cannot_be_stored_is_refused(tiny: Tiny, store: ActivationStore) -> None:
    with pytest.raises(SiteError, match="capture them instead"):
        store.get(tiny.model, PROMPTS, "pattern")
    with pytest.raises(SiteError, match=r"ask for 'z\.0'"):
        store.get(tiny.model, PROMPTS, "z.0.h1")
    with pytest.raises(ModelError, match="Cannot store 'int8'"):
        store.get(tiny.model, PROMPTS, "z.0", dtype="int8")


def test_batches_do_not_change_keys(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    source = ModelSource(tiny.model)
    rows = source.rows(PROMPTS)
    together = dict(zip(source.space().keys(rows), rows, strict=True))
    for text in PROMPTS:
        (key,) = source.space().keys(source.rows([text]))
        assert key in together
