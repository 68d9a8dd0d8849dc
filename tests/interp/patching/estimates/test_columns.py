"""The method by columns: where every position is run it is the sweep, elsewhere first order."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from interp import PromptPairs, estimate, sweep
from interp.patching.estimates.both import Both
from interp.sites import Site
from tests.interp.pairs import prompt_pairs
from tests.interp.tiny import Tiny

AXES: dict[str, tuple[str, ...]] = {
    "resid_pre": ("position",),
    "resid_mid": ("span",),
    "resid_post": ("position",),
    "attn_out": ("span",),
    "mlp_out": ("position",),
    "mlp_act": ("neurons",),
    "q": ("head", "position"),
    "k": ("head",),
    "v": ("head", "span"),
    "z": ("head",),
    "pattern": ("head", "source"),
}


@pytest.mark.slow
def test_with_every_position_run_it_is_the_sweep(tiny: Tiny) -> None:
    pairs = prompt_pairs(tiny)
    noising = tiny.name == "llama"
    # Read after the prompt in one, and in one all along the answers.
    metric = "logprob_diff" if noising else "logit_diff"
    for site, by in AXES.items():
        # All sites of one architecture, and of the others one of each kind.
        if not noising and site not in ("resid_pre", "mlp_out", "k", "z", "pattern"):
            continue
        asked: dict[str, Any] = {"by": by, "direction": "noising" if noising else "denoising"}
        if site == "mlp_out":
            asked["source"] = "zero"
        if site == "mlp_act":
            asked["neurons"] = 12
        exact = sweep(tiny.model, pairs, site, metric, **asked)
        found = estimate(
            tiny.model, pairs, site, metric, method="columns", columns=99, check=0, **asked
        )
        np.testing.assert_allclose(found["patched"], exact["patched"], rtol=0, atol=2e-5)
        assert float(np.abs(exact["patched"] - exact["corrupt"]).max()) > 0.05


@pytest.mark.slow
@pytest.mark.parametrize("laid_out", ["few", "packed", "whole"])
def test_with_few_positions_run_small_changes_are_told_to_first_order(
    tiny: Tiny, laid_out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing bends, all that goes by way of the other positions must be there, once."""
    pairs = prompt_pairs(tiny)
    sites = ("resid_pre", "attn_out", "mlp_out", "q", "k", "z")
    if tiny.name != "llama":  # of the others one of each kind
        sites = ("resid_pre", "k", "z")
    if laid_out != "few":
        monkeypatch.setattr("interp.patching.estimates.columns.is_compact", lambda *_: False)
    if laid_out == "whole":
        monkeypatch.setattr("interp.patching.estimates.attended.packs_attending", lambda *_: False)
    for site in sites:
        by = AXES[site]
        whole = estimate(tiny.model, pairs, site, by=by, method="gradient", check=0)  # type: ignore[arg-type]
        found = nearly(tiny, pairs, site, by)
        scale = float(np.nanmax(np.abs(whole["patched"] - whole["corrupt"])))
        np.testing.assert_allclose(found, whole["patched"] - whole["corrupt"], atol=0.03 * scale)


STEP = 2e-3


def nearly(tiny: Tiny, pairs: PromptPairs, site: str, by: tuple[str, ...]) -> np.ndarray:
    """The estimate by columns of a small step, over that step."""
    made = Both.of

    def close(*args: Any) -> Both:
        both = made(*args)
        activations = dict(both.other.activations)
        places = both.runs.places
        for layer in both.cells.layers:
            at = Site(site, layer)
            for example, slots in enumerate(zip(places.destination, places.origin, strict=True)):
                kept = (slots[0] >= 0) & (slots[1] >= 0)
                to, origin = (torch.from_numpy(slot[kept]) for slot in slots)
                base, there = both.changed[at][example, to], activations[at][example, origin]
                activations[at][example, origin] = base + STEP * (there - base)
        return both

    with mock.patch.object(Both, "of", close):
        found = estimate(
            tiny.model,
            pairs,
            site,
            by=by,
            method="columns",
            columns=1,
            check=0,  # type: ignore[arg-type]
        )
    return np.asarray((found["patched"] - found["corrupt"]).values / STEP)
