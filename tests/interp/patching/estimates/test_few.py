"""Estimates by columns that lay out only the positions that are run, against those of all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from interp import PromptPairs, estimate, load_model
from interp.patching.estimates.compact import is_compact, through
from tests.interp.architectures import ARCHITECTURES
from tests.interp.tiny import build_tokenizer


@pytest.mark.slow
@pytest.mark.parametrize("name", ["GPT-2", "Llama", "Gemma 2"])
@pytest.mark.parametrize("saturated", [False, True])
def test_nothing_is_laid_out_and_the_numbers_are_the_same(
    name: str, saturated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rotation, keys that heads share, a window, scores that are capped; patterns of one token."""
    hf = ARCHITECTURES[name].build()
    if saturated:
        with torch.no_grad():
            for key, weight in hf.named_parameters():
                if key.endswith(("q_proj.weight", "c_attn.weight")):
                    weight.mul_(12)
    model = load_model(hf, tokenizer=build_tokenizer())
    ids = torch.randint(3, 20, (2, 9), generator=torch.Generator().manual_seed(1))
    other = ids.clone()
    other[:, 2], other[:, 5] = torch.tensor([5, 6]), 21
    pairs = PromptPairs(model, ids, other, torch.tensor([4, 5]), torch.tensor([8, 9]))
    asked: Any = [("resid_mid", ("position",)), ("z", ("head", "position")), ("k", ("head",))]
    ran: list[object] = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        ran.append(args)
        return through(*args, **kwargs)

    monkeypatch.setattr("interp.patching.estimates.columns.through", counted)
    for site, by in asked:
        ran.clear()
        few = estimate(model, pairs, site, by=by, method="columns", check=0)
        assert ran
        with monkeypatch.context() as patched:
            patched.setattr("interp.patching.estimates.columns.is_compact", lambda *_: False)
            ran.clear()
            whole = estimate(model, pairs, site, by=by, method="columns", check=0)
        assert not ran
        np.testing.assert_allclose(few["patched"], whole["patched"], rtol=0, atol=5e-5)
        assert float(np.abs(few["patched"] - few["corrupt"]).max()) > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("name", ["GPT-NeoX", "OPT", "BLOOM"])
def test_attention_that_hides_what_it_compares_is_laid_out(name: str) -> None:
    model = load_model(ARCHITECTURES[name].build(), tokenizer=build_tokenizer())
    assert not is_compact(model, torch.arange(3, 12)[None])
