"""What a model is asked before its first answer reads each block once, and still refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from interp import Model, load_model, logit_lens, sweep
from interp.errors import ModelError
from interp.forward import passes
from interp.loading import wrapping
from interp.loading.streaming.stream import Stream
from tests.interp.pairs import prompt_pairs
from tests.interp.tiny import Tiny

BLOCKS = {"gpt2": "transformer.h", "llama": "model.layers", "neox": "gpt_neox.layers"}


def loaded(tiny: Tiny) -> Tiny:
    model = load_model(tiny.folder, device_map={"": "cpu", BLOCKS[tiny.name]: "disk"})
    return Tiny(tiny.name, tiny.folder, tiny.hf, model)


def stream(model: Model) -> Stream:
    assert model.elsewhere is not None
    found = model.elsewhere.reader
    assert isinstance(found, Stream)
    return found


@pytest.mark.slow
def test_a_first_lens_and_a_first_sweep_read_blocks_once_more_than_later_ones(tiny: Tiny) -> None:
    on_disk = loaded(tiny)
    pairs, reads = prompt_pairs(on_disk), stream(on_disk.model).reads
    last = list(reads)[-1]  # which nobody foresees
    assert reads[last] == 1
    lens = logit_lens(on_disk.model, ["Ann saw Bo near Rome"])
    # Once to try that blocks can be resumed, whole and in part, and once for the lens.
    assert reads[last] == 3
    found = sweep(on_disk.model, pairs, "resid_pre")
    assert reads[last] == 4
    assert lens.equals(logit_lens(tiny.model, ["Ann saw Bo near Rome"]))
    assert found.identical(sweep(tiny.model, prompt_pairs(tiny), "resid_pre"))


@pytest.mark.slow
def test_hashes_of_what_was_brought_are_those_of_the_model_in_memory(tiny: Tiny) -> None:
    on_disk = loaded(tiny)
    assert on_disk.model.elsewhere is not None
    hashes = on_disk.model.elsewhere.hashes
    assert len(hashes) > 10
    assert on_disk.model.fingerprint == tiny.model.fingerprint
    name = next(iter(hashes))
    changed = loaded(tiny)
    assert changed.model.elsewhere is not None
    changed.model.elsewhere.hashes[name] = bytes(32)
    assert changed.model.fingerprint != tiny.model.fingerprint


@pytest.mark.slow
def test_a_bridge_that_computes_something_else_is_refused(
    llama: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = wrapping.answers

    def others(bridge: Any, **given: Any) -> Any:
        *streams, logits = real(bridge, **given)
        return (*streams, logits.roll(1, -1))

    monkeypatch.setattr(wrapping, "answers", others)
    with pytest.raises(ModelError, match="computes other logits"):
        loaded(llama)


@pytest.mark.slow
def test_a_model_that_cannot_be_resumed_is_refused(
    llama: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_disk = loaded(llama)
    real = passes.resume

    def other(*args: Any, **given: Any) -> torch.Tensor:
        return real(*args, **given).roll(1, -1)

    monkeypatch.setattr(passes, "resume", other)
    with pytest.raises(ModelError, match="does not reproduce its own logits"):
        logit_lens(on_disk.model, ["Ann saw Bo near Rome"])
