"""Sweeps: labels, batches, layers, progress, normalising, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from interp import capture, normalised, sweep
from interp.errors import SiteError
from interp.sites import Site
from tests.interp import brute_force
from tests.interp.pairs import CASES, prompt_pairs, slots
from tests.interp.tiny import Tiny


def test_labels_name_the_tokens_that_were_replaced(tiny: Tiny) -> None:
    found = sweep(tiny.model, prompt_pairs(tiny), "resid_pre")
    expected = slots(tiny)
    assert list(found["position_label"].values) == [label for label, _ in expected]
    for example, case in enumerate(CASES):
        for run, side in (("clean", 0), ("corrupt", 1)):
            prompt = [*(["<bos>"] if tiny.bos else []), *case.text(run).split()]
            tokens = [
                "" if at[example] is None else prompt[at[example][side]] for _, at in expected
            ]
            assert list(found[f"{run}_token"].values[example]) == tokens
        assert found["clean_prompt"].values[example] == case.text("clean")
        assert found["corrupt_prompt"].values[example] == case.text("corrupt")


@pytest.mark.parametrize("size", [1, 9, 1000])
def test_the_batch_size_does_not_matter(tiny: Tiny, size: int) -> None:
    pairs = prompt_pairs(tiny)
    for site, by, metric in (
        ("mlp_out", "position", "logit_diff"),
        ("k", ("head", "span"), "logprob_diff"),
    ):
        whole = sweep(tiny.model, pairs, site, metric, by=by)
        cut = sweep(tiny.model, pairs, site, metric, by=by, batch_size=size)
        np.testing.assert_allclose(cut["patched"], whole["patched"], rtol=0, atol=1e-5)


def test_recording_pairs_one_by_one_does_not_matter(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So little memory that every pair is recorded, and every cell patched, on its own."""
    pairs = prompt_pairs(tiny)
    whole = sweep(tiny.model, pairs, "z", "logprob_diff", by=("head", "span"))
    monkeypatch.setattr("interp.batching.memory_budget", lambda model: 1)
    alone = sweep(tiny.model, pairs, "z", "logprob_diff", by=("head", "span"))
    for name in ("patched", "clean", "corrupt"):
        np.testing.assert_allclose(alone[name], whole[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("layers", [[1], [2, 0], [0, 0, 2]])
def test_some_layers_alone_are_those_of_the_whole(tiny: Tiny, layers: list[int]) -> None:
    pairs = prompt_pairs(tiny)
    for site in ("resid_pre", "resid_post", "q"):
        whole = sweep(tiny.model, pairs, site)
        some = sweep(tiny.model, pairs, site, layers=layers)
        assert list(some["layer"]) == sorted(set(layers))
        np.testing.assert_allclose(
            some["patched"], whole["patched"].sel(layer=sorted(set(layers))), rtol=0, atol=1e-5
        )


def test_progress_counts_every_cell_once(llama: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp.batching.memory_budget", lambda model: 1)
    seen: list[tuple[int, int]] = []
    found = sweep(
        llama.model,
        prompt_pairs(llama),
        "z",
        "logprob_diff",
        progress=lambda done, total: seen.append((done, total)),
    )
    total = 2 * int(np.isfinite(found["patched"]).sum())  # two terms: the answer's and the foil's
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_normalised_is_the_share_of_the_effect(llama: Tiny) -> None:
    found = sweep(llama.model, prompt_pairs(llama), "resid_post")
    clean, corrupt = brute_force.unpatched(llama, "clean"), brute_force.unpatched(llama, "corrupt")
    expected = brute_force.patched(llama, "resid_post", "denoising", ("position",))
    for example in range(len(CASES)):
        share = (expected[example] - corrupt[example]) / (clean[example] - corrupt[example])
        np.testing.assert_allclose(normalised(found, minimum=0.0)[example], share, atol=1e-3)
    gaps = np.abs(np.array(clean) - np.array(corrupt))
    middle = float(np.sort(gaps)[:2].mean())
    kept = normalised(found, minimum=middle)
    small = int(np.argmin(gaps))
    assert bool(kept[small].isnull().all())
    assert not bool(kept.drop_isel(example=small).isnull().all("position").any())


@pytest.mark.parametrize(
    ("site", "options", "message"),
    [
        ("resid_pre", {"by": "head"}, "no heads"),
        ("z", {"by": "layer"}, "cannot run by"),
        ("z", {"by": ("position", "span")}, "cannot run by"),
        ("z", {"by": ()}, "cannot run by"),
        ("pattern", {"by": "position"}, "'head', 'destination', 'source'"),
        ("mlp_act", {"by": "head"}, "no heads"),
        ("resid_per", {}, "resid_pre"),
        ("resid_pre", {"layers": []}, "no layers"),
        ("resid_pre", {"layers": [3]}, "Layer 3"),
        ("resid_pre", {"layers": [-1]}, "Layer -1"),
        ("resid_pre", {"direction": "both"}, "both"),
    ],
)
def test_what_cannot_be_swept_is_refused(
    llama: Tiny, site: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(SiteError, match=message):
        sweep(llama.model, prompt_pairs(llama), site, **options)


def test_parallel_blocks_have_no_stream_in_the_middle(zoo: Callable[[str], Tiny]) -> None:
    neox = zoo("neox")
    with pytest.raises(SiteError, match="parallel"):
        sweep(neox.model, prompt_pairs(neox), "resid_mid")
    with pytest.raises(SiteError, match="parallel"):
        capture(neox.model, ["we saw"], [Site("resid_mid", 0)])
