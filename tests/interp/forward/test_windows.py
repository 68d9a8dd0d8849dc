"""A few positions of each row, run beside the keys and values of all others, are a whole pass."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from interp import Site, load_model, record, resume
from interp.forward.windows import Window, through, through_last, windows
from interp.model.model import Model
from interp.prompts.tokens import tokenise
from tests.interp.tiny import N_LAYERS, Tiny

PROMPTS = ["we saw Ann near Rome and then", "so Fay is near the home", "who is Jo"]
ENTRY = Site("resid_pre", 0)


def both(
    model: Model, example: torch.Tensor, first: torch.Tensor, *, packed: bool = True
) -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """What is read of rows with another vector at `first`, and its slope: windows, whole runs."""
    batch = tokenise(model, PROMPTS)
    recording = record(model, batch.ids, [ENTRY], past=True)
    last = batch.lengths[example] - 1
    row = torch.arange(len(example))
    stream = recording[ENTRY]
    torch.manual_seed(0)
    vectors = torch.randn(len(example), model.d_model)
    weights = torch.randn(len(example), model.d_model)
    window = Window.of(example, first, last, int((last - first).max()) + 1)

    def slope(hidden: torch.Tensor, at: torch.Tensor, mine: torch.Tensor) -> Any:
        out = hidden[row, at]
        return out.detach(), torch.autograd.grad((out * weights).sum(), mine)[0]

    mine = vectors.clone().requires_grad_()
    hidden = window.gather(stream)
    torch.testing.assert_close(hidden, stream[example[:, None], window.position])
    hidden[row, first - window.start] = mine
    for layer in range(N_LAYERS - 1):
        hidden = through(model, recording, layer, hidden, window, packed=packed, grad=True)
    assert hidden.shape[1] == window.size
    if packed:
        hidden = through_last(model, recording, hidden, window, grad=True)
        assert hidden.shape[1] == 1
        found = slope(hidden, torch.zeros_like(last), mine)
    else:
        hidden = through(model, recording, N_LAYERS - 1, hidden, window, packed=packed, grad=True)
        found = slope(hidden, last - window.start, mine)

    mine = vectors.clone().requires_grad_()
    whole = stream[example]
    whole[row, first] = mine
    whole = resume(model, recording, whole, example, start=0, grad=True)
    return found, slope(whole, last, mine)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    ("example", "before_last"),
    [
        ([0, 1, 2, 0, 1], [3, 1, 0, 2, 3]),  # of several lengths and ends
        ([2, 0], [1, 5]),  # a text that is shorter than the window
        ([0, 1, 2], [2, 2, 2]),  # all positions changed
        ([1, 0], [0, 0]),  # one position
    ],
)
def test_windows_are_whole_passes(
    tiny: Tiny, example: list[int], before_last: list[int], packed: bool
) -> None:
    rows = torch.tensor(example)
    last = tokenise(tiny.model, PROMPTS).lengths[rows] - 1
    found, expected = both(tiny.model, rows, last - torch.tensor(before_last), packed=packed)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_the_three_architectures_have_windows(tiny: Tiny) -> None:
    assert windows(tiny.model, tokenise(tiny.model, PROMPTS).ids)


@pytest.mark.slow
def test_a_model_that_mixes_positions_elsewhere_has_none(llama: Tiny) -> None:
    model = load_model(llama.folder)
    ids = tokenise(model, PROMPTS).ids
    assert not windows(model, ids[:, :3])  # too short to tell
    mlp = model.bridge.blocks[1].mlp.original_component
    plain = mlp.forward
    mlp.forward = lambda x, *args: plain(x + x.roll(1, dims=1).cumsum(1) * 0.1, *args)
    assert not windows(model, ids)


@pytest.mark.slow
def test_blocks_that_do_not_ask_for_keys_and_values_have_none(
    llama: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(llama.folder)
    ids = tokenise(model, PROMPTS).ids
    attention = model.bridge.blocks[1].attn
    monkeypatch.setattr(
        type(attention), "_update_kv_cache", lambda self, keys, values, **_: (keys, values)
    )
    assert not windows(model, ids)


@pytest.mark.slow
def test_a_hook_that_sees_whole_activations_has_none(llama: Tiny) -> None:
    model = load_model(llama.folder)
    ids = tokenise(model, PROMPTS).ids
    assert windows(model, ids)
    point = model.bridge.hook_dict["blocks.1.hook_out"]
    point.add_hook(lambda value, hook: value * 1.01)
    assert not windows(model, ids)
    point.remove_hooks()
    assert windows(model, ids)


def test_nothing_is_left_after_an_error(llama: Tiny) -> None:
    model = llama.model
    recording = record(model, tokenise(model, PROMPTS).ids, [], past=True)
    example, last = torch.tensor([0]), torch.tensor([5])
    window = Window.of(example, last, last, 2)
    for call in (functools.partial(through, layer=0), through_last):
        with pytest.raises(RuntimeError):
            call(model, recording, hidden=torch.zeros(1, 2, model.d_model + 1), window=window)
    modules = model.bridge.blocks.modules()
    assert not any("forward" in module.__dict__ for module in modules)
