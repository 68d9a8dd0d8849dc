"""Recomputing only what a patch can have reached gives the numbers of whole passes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from interp import PromptPairs, Site, load_model, record, resume, sweep
from interp.forward.packing import Active
from interp.forward.passes import packs, readout
from interp.model.model import Model
from interp.prompts.tokens import tokenise
from tests.interp import reference
from tests.interp.pairs import prompt_pairs
from tests.interp.tiny import N_LAYERS, Tiny

pytestmark = pytest.mark.slow

PROMPTS = ["we saw Ann near Rome and then", "so Fay is near the home"]
ENTRY = Site("resid_pre", 0)


def test_active_positions_are_listed_row_by_row() -> None:
    active = Active.between(torch.tensor([1, 3, 0]), torch.tensor([2, 3, 1]), length=4)
    assert active.row.tolist() == [0, 0, 1, 2, 2]
    assert active.position.tolist() == [1, 2, 3, 0, 1]
    full = torch.arange(12.0).reshape(3, 4, 1)
    gathered = active.gather(full)
    assert gathered.flatten().tolist() == [1, 2, 7, 8, 9]
    written = active.scatter(-gathered, full.clone())
    assert written.flatten().tolist() == [0, -1, -2, 3, 4, 5, 6, -7, -8, -9, 10, 11]


def whole_passes(model: Model, pairs: PromptPairs, site: str, **options: Any) -> np.ndarray:
    """The sweep without packing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("interp.patching.runner.packs", lambda *_: False)
        return sweep(model, pairs, site, "logprob_diff", **options)["patched"].values


@pytest.mark.parametrize("site", ["resid_pre", "resid_post", "mlp_out", "v"])
def test_packed_sweeps_are_those_of_whole_passes(tiny: Tiny, site: str) -> None:
    pairs = prompt_pairs(tiny)
    for options in ({"by": "position"}, {"by": "span", "direction": "noising"}):
        expected = whole_passes(tiny.model, pairs, site, **options)
        found = sweep(tiny.model, pairs, site, "logprob_diff", **options)
        assert packs(tiny.model, pairs.clean.ids)
        np.testing.assert_allclose(found["patched"], expected, rtol=0, atol=1e-4)


def test_a_span_computes_what_the_whole_pass_computes_there(tiny: Tiny) -> None:
    batch = tokenise(tiny.model, PROMPTS)
    assert packs(tiny.model, batch.ids)
    recording = record(tiny.model, batch.ids, [ENTRY], for_packing=True)
    rows, first, last = (
        torch.tensor([0, 1, 0]),
        torch.tensor([2, 1, 4]),
        batch.lengths[[0, 1, 0]] - 1,
    )
    width = batch.ids.shape[1]
    stream = recording[ENTRY][rows]
    noise = torch.randn(stream.shape, generator=torch.Generator().manual_seed(0))
    changed = torch.arange(width)[None, :] >= first[:, None]
    stream = stream + noise * changed[..., None]
    whole = resume(tiny.model, recording, stream, rows, start=0)
    span = (Active.between(first, last, width), Active.between(last, last, width))
    # What stands before the span is not read: the recorded keys and values are.
    packed = resume(tiny.model, recording, stream * changed[..., None], rows, start=0, span=span)
    at = (torch.arange(3), last)
    torch.testing.assert_close(packed[at], whole[at], rtol=1e-4, atol=1e-4)
    unchanged = reference.logits(tiny, tiny.ids(PROMPTS[0]))[-1]
    assert (readout(tiny.model, packed[at])[0] - unchanged).abs().max() > 0.1


def test_a_model_that_mixes_positions_elsewhere_is_not_packed(tiny: Tiny) -> None:
    """Here the MLP reads the position before as well, which keys and values do not tell."""
    model = load_model(tiny.folder)
    mlp = model.bridge.blocks[1].mlp.original_component
    plain = mlp.forward
    mlp.forward = lambda x, *args: plain(x + x.roll(1, dims=1).cumsum(1) * 0.1, *args)
    pairs = PromptPairs(model, ["we saw Ann near Rome"], ["we saw Bo near Rome"], [" Jo"], [" Cy"])
    found = sweep(model, pairs, "attn_out", "logprob_diff")["patched"].values
    assert not packs(model, pairs.clean.ids)
    np.testing.assert_array_equal(found, whole_passes(model, pairs, "attn_out"))


def test_one_token_is_too_short_to_try(llama: Tiny) -> None:
    model = load_model(llama.folder)
    assert packs(model, torch.tensor([[1]])) is False
    assert packs(model, torch.tensor([[1, 5]]))  # the next prompt may be longer
    assert packs(model, tokenise(model, PROMPTS).ids) is True


@pytest.mark.parametrize("error", [KeyError, RuntimeError, TypeError])
def test_blocks_that_cannot_run_packed_run_whole(
    llama: Tiny, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    model = load_model(llama.folder)

    def fails(*_args: Any, **_kwargs: Any) -> Any:
        raise error("not here")

    monkeypatch.setattr("interp.forward.packing.Active.gather", fails)
    found = sweep(model, prompt_pairs(llama), "mlp_out")["patched"].values
    assert not packs(model, prompt_pairs(llama).clean.ids)
    monkeypatch.undo()
    whole = sweep(llama.model, prompt_pairs(llama), "mlp_out")["patched"].values
    np.testing.assert_allclose(found, whole, rtol=0, atol=1e-4)
    for layer in range(N_LAYERS):
        modules = model.bridge.blocks[layer].modules()
        assert not any("forward" in module.__dict__ for module in modules)
