"""The estimate is the derivative of the metric along the patch, by finite differences on Hugging
Face's own model, and its agreement with exact sweeps is measured rightly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from interp import sweep
from interp.errors import SiteError
from interp.patching import agreement, estimate
from tests.interp import reference
from tests.interp.pairs import CASES, prompt_pairs
from tests.interp.tiny import Tiny

STEP = 1e-2


def slope(
    tiny: Tiny, example: int, site: str, layer: int, where: tuple[int, ...], toward: Tensor
) -> float:
    """Change of the logit difference per step from one corrupted activation toward another."""
    case = CASES[example]
    ids = tuple(case.ids(tiny, "corrupt"))
    answer, foil = tiny.ids(case.answer)[len(tiny.bos)], tiny.ids(case.foil)[len(tiny.bos)]
    values = []
    for step in (STEP, -STEP):

        def move(value: Tensor, step: float = step) -> None:
            value[where] += step * (toward - value[where])

        with reference.intervened(tiny, site, layer, move):
            last = reference.logits(tiny, ids)[-1]
        values.append(float(last[answer] - last[foil]))
    return (values[0] - values[1]) / (2 * STEP)


@pytest.mark.parametrize("site", [*reference.STREAMS, *reference.HEADS])
def test_an_estimate_is_the_slope_along_the_patch(tiny: Tiny, site: str) -> None:
    if site not in reference.sites(tiny):
        pytest.skip("parallel blocks have no such stream")
    pairs = prompt_pairs(tiny)
    by = ("head", "position") if site in reference.HEADS else "position"
    found = estimate(tiny.model, pairs, site, by=by)
    change = found["patched"] - found["corrupt"]
    scale = float(np.abs(change).max())
    assert scale > 0.05
    for example, case in enumerate(CASES):
        clean = tuple(case.ids(tiny, "clean"))
        slots = zip(pairs.alignment.clean[example], pairs.alignment.corrupt[example], strict=True)
        for slot, (origin, destination) in enumerate(slots):
            for layer in range(tiny.model.n_layers):
                ours = change.values[example, layer, slot]
                if origin < 0:
                    assert np.isnan(ours).all()
                    continue
                source = reference.activation(tiny, clean, site, layer)[int(origin)]
                for head in range(len(source)) if site in reference.HEADS else [None]:
                    where = (int(destination),) if head is None else (int(destination), head)
                    toward = source if head is None else source[head]
                    expected = slope(tiny, example, site, layer, where, toward)
                    got = float(ours if head is None else ours[head])
                    assert got == pytest.approx(expected, abs=5e-3 * scale + 2e-3)


def test_the_last_stream_is_estimated_exactly_where_the_rest_is_linear(llama: Tiny) -> None:
    """Cells add up: all heads of all positions are the sum of single heads and positions."""
    pairs = prompt_pairs(llama)
    single = estimate(llama.model, pairs, "z", by=("head", "position"))
    whole = estimate(llama.model, pairs, "z", by="head")
    summed = (single["patched"] - single["corrupt"]).sum("position", skipna=True)
    np.testing.assert_allclose(whole["patched"] - whole["corrupt"], summed, atol=1e-4)


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_unpatched_metrics_are_those_of_a_sweep(llama: Tiny, direction: str) -> None:
    pairs = prompt_pairs(llama)
    guess = estimate(llama.model, pairs, "mlp_out", "logprob_diff", direction=direction)  # type: ignore[arg-type]
    exact = sweep(llama.model, pairs, "mlp_out", "logprob_diff", direction=direction)  # type: ignore[arg-type]
    for run in ("clean", "corrupt"):
        np.testing.assert_allclose(guess[run], exact[run], atol=1e-4)
    assert guess["patched"].dims == exact["patched"].dims
    measured = agreement(guess, exact)
    changes = [
        d["patched"] - d["clean" if direction == "noising" else "corrupt"] for d in (guess, exact)
    ]
    for layer in range(llama.model.n_layers):
        a, b = (c.isel(layer=layer).values.ravel() for c in changes)
        kept = np.isfinite(a)
        expected = np.corrcoef(a[kept], b[kept])[0, 1]
        assert float(measured["correlation"][layer]) == pytest.approx(expected)


def test_agreement_is_perfect_with_itself_and_counts_flips(llama: Tiny) -> None:
    exact = sweep(llama.model, prompt_pairs(llama), "mlp_out")
    same = agreement(exact, exact)
    np.testing.assert_allclose(same["correlation"], 1.0)
    np.testing.assert_allclose(same["sign_flips"], 0.0)
    mirrored = exact.assign(patched=2 * exact["corrupt"] - exact["patched"])
    np.testing.assert_allclose(agreement(mirrored, exact)["sign_flips"], 1.0)


def test_weights_stay_frozen_and_free_of_gradients(llama: Tiny) -> None:
    estimate(llama.model, prompt_pairs(llama), "resid_mid")
    for parameter in llama.model.bridge.original_model.parameters():
        assert not parameter.requires_grad
        assert parameter.grad is None
    assert torch.is_grad_enabled()


def test_a_rank_cannot_be_estimated(llama: Tiny) -> None:
    with pytest.raises(SiteError, match="no gradient"):
        estimate(llama.model, prompt_pairs(llama), "mlp_out", "rank")
