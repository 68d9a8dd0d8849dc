"""Instruments read each block from the disk once, and find what they find in memory."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import xarray as xr

from interp import Model, PromptPairs, capture, estimate, load_model, logit_lens, logits, sweep
from interp.errors import ModelError
from interp.forward import together
from interp.loading.streaming.stream import Stream
from interp.model import memory
from interp.patching import runner
from tests.interp.pairs import prompt_pairs
from tests.interp.tiny import Tiny

BLOCKS = {"gpt2": "transformer.h", "llama": "model.layers", "neox": "gpt_neox.layers"}
TEXTS = ["Ann saw Bo near Rome", "Cy saw Dee"]
Instrument = Callable[[Model, PromptPairs], Any]


@pytest.fixture(scope="module")
def on_disk(tiny: Tiny) -> Tiny:
    """The same architecture with all blocks on disk."""
    model = load_model(tiny.folder, device_map={"": "cpu", BLOCKS[tiny.name]: "disk"})
    return Tiny(tiny.name, tiny.folder, tiny.hf, model)


def reader(tiny: Tiny) -> Stream:
    assert tiny.model.elsewhere is not None
    found = tiny.model.elsewhere.reader
    assert isinstance(found, Stream)
    return found


def reads(tiny: Tiny, instrument: Instrument) -> tuple[Any, list[int]]:
    """What an instrument finds, and how often it reads each block once it knows the model."""
    pairs = prompt_pairs(tiny)
    instrument(tiny.model, pairs)
    instrument(tiny.model, pairs)
    before = dict(reader(tiny).reads)
    found = instrument(tiny.model, pairs)
    return found, [n - before[name] for name, n in reader(tiny).reads.items()]


def same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, xr.Dataset):
        return bool(ours.identical(theirs))
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(map(same, ours.values(), theirs.values()))
    return torch.equal(ours.nan_to_num(7), theirs.nan_to_num(7))


INSTRUMENTS: dict[str, tuple[Instrument, int]] = {
    "forward": (lambda model, _: logits(model, TEXTS), 1),
    "lens": (lambda model, _: logit_lens(model, TEXTS), 1),
    "activations": (lambda model, _: capture(model, TEXTS, ["resid_post", "z"]), 1),
    **{
        f"sweep at {site}": (lambda model, pairs, site=site: sweep(model, pairs, site), 1)
        for site in ("resid_pre", "mlp_out", "z", "q", "pattern")
    },
    "noising": (lambda model, pairs: sweep(model, pairs, "attn_out", direction="noising"), 1),
    "ablation": (lambda model, pairs: sweep(model, pairs, "mlp_out", source="zero"), 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", INSTRUMENTS)
def test_each_block_is_read_once_and_numbers_are_those_of_memory(
    tiny: Tiny, on_disk: Tiny, name: str
) -> None:
    instrument, times = INSTRUMENTS[name]
    found, counted = reads(on_disk, instrument)
    assert same(found, instrument(tiny.model, prompt_pairs(tiny)))
    assert counted == [times] * tiny.model.n_layers


@pytest.mark.slow
def test_an_estimate_reads_each_block_up_and_down(tiny: Tiny, on_disk: Tiny) -> None:
    def instrument(model: Model, pairs: PromptPairs) -> xr.Dataset:
        return estimate(model, pairs, "resid_pre", method="gradient", check=0)

    found, counted = reads(on_disk, instrument)
    assert same(found, instrument(tiny.model, prompt_pairs(tiny)))
    # The way down is not foreseen: what was read ahead at the turn is read in vain.
    assert sum(counted) <= 2 * tiny.model.n_layers + 1


def test_a_whole_gradient_is_that_of_memory(tiny: Tiny, on_disk: Tiny) -> None:
    ids = torch.tensor([tiny.ids("Ann saw Bo near Rome")])

    def gradient(model: Model) -> torch.Tensor:
        entered: list[torch.Tensor] = []

        def hook(_module: object, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            entered.append(args[0].detach().requires_grad_())
            return (entered[0], *args[1:])

        handle = model.bridge.blocks[0].register_forward_pre_hook(hook)
        try:
            out = model.bridge(ids, use_cache=False, return_type="logits")
        finally:
            handle.remove()
        return torch.autograd.grad(out[0, -1].square().sum(), entered)[0]

    assert torch.equal(gradient(on_disk.model), gradient(tiny.model))
    assert reader(on_disk).slots.made <= 3


@pytest.mark.slow
def test_rows_that_do_not_fit_into_a_block_pass_it_in_parts(
    tiny: Tiny, on_disk: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However little memory there is for what a block computes, it is read once."""
    parts: list[int] = []
    walk = runner.walk

    def watched(*args: Any, **given: Any) -> torch.Tensor:
        if given["at_once"] is not None:
            parts.append(given["at_once"])
        return walk(*args, **given)

    monkeypatch.setattr(runner, "walk", watched)
    pairs = prompt_pairs(tiny)
    length = pairs.alignment.clean.shape[1]
    enough = 8 * tiny.model.memory_per_row(length)
    monkeypatch.setattr(memory, "memory_budget", lambda _: enough)
    monkeypatch.setattr(runner.Part, "streams", lambda _: 1)
    monkeypatch.setattr(runner.Part, "examples_that_fit", lambda _: 100)
    for site in ("resid_pre", "mlp_out", "z", "pattern"):
        found, counted = reads(on_disk, lambda model, given, site=site: sweep(model, given, site))
        assert set(parts) == {4}
        assert counted == [1] * tiny.model.n_layers
        there = sweep(tiny.model, pairs, site)
        xr.testing.assert_allclose(found.drop_attrs(), there.drop_attrs(), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_blocks_that_are_told_more_than_the_stream_are_recorded_one_run_at_a_time(
    tiny: Tiny, on_disk: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(together, "check_resumable", lambda *_: None)
    found, counted = reads(on_disk, lambda model, pairs: sweep(model, pairs, "z"))
    assert same(found, sweep(tiny.model, prompt_pairs(tiny), "z"))
    assert counted == [3] * tiny.model.n_layers


@pytest.mark.slow
def test_an_interrupt_within_a_pass_leaves_the_model_usable(
    tiny: Tiny, on_disk: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, main = os.preadv, threading.main_thread().ident
    assert main is not None

    def interrupting(*given: Any) -> int:
        monkeypatch.setattr(os, "preadv", plain)
        signal.pthread_kill(main, signal.SIGINT)
        return plain(*given)

    pairs = prompt_pairs(on_disk)
    sweep(on_disk.model, pairs, "z")
    monkeypatch.setattr(os, "preadv", interrupting)
    with pytest.raises(KeyboardInterrupt):
        sweep(on_disk.model, pairs, "z")
    assert same(sweep(on_disk.model, pairs, "z"), sweep(tiny.model, prompt_pairs(tiny), "z"))


def test_an_error_of_the_disk_is_the_error_of_the_instrument(
    tiny: Tiny, on_disk: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> int:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", broken)
        with pytest.raises(ModelError, match="the disk reports an input/output error"):
            logit_lens(on_disk.model, TEXTS)
    assert same(logit_lens(on_disk.model, TEXTS), logit_lens(tiny.model, TEXTS))


def test_two_threads_get_the_numbers_of_one(tiny: Tiny, on_disk: Tiny) -> None:
    there = logits(tiny.model, TEXTS)
    found: list[torch.Tensor] = []
    threads = [
        threading.Thread(target=lambda: found.append(logits(on_disk.model, TEXTS)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert all(torch.equal(one, there) for one in found)


def test_what_reading_takes_is_left_out_of_what_a_batch_may(
    on_disk: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 90 << 20)
    assert memory.memory_budget(on_disk.model) == 30 << 20
    monkeypatch.setattr(Stream, "to_take", 60 << 20)
    assert memory.memory_budget(on_disk.model) == 10 << 20
    assert memory.room_to_keep(on_disk.model) == 30 << 18
