"""Sweeps: labels, batches, layers, progress, normalising, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import xarray as xr

from interp import capture, normalised, sweep
from interp.errors import ArgumentError, MetricError, SiteError
from interp.sites import Site
from tests.interp.pairs import CASES, clear_cases, prompt_pairs, slots
from tests.interp.tiny import Tiny

pytestmark = pytest.mark.slow


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


def test_the_batch_size_does_not_matter(tiny: Tiny) -> None:
    # Rows one by one are run on the other architectures too by the next test.
    sizes = (1, 9, 1000) if tiny.name == "llama" else (9,)
    pairs = prompt_pairs(tiny)
    for site, by, metric in (
        ("mlp_out", "position", "logit_diff"),
        ("k", ("head", "span"), "logprob_diff"),
    ):
        whole = sweep(tiny.model, pairs, site, metric, by=by)
        for size in sizes:
            cut = sweep(tiny.model, pairs, site, metric, by=by, batch_size=size)
            np.testing.assert_allclose(cut["patched"], whole["patched"], rtol=0, atol=1e-5)


def test_recording_pairs_one_by_one_does_not_matter(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So little memory that every pair is recorded, and every cell patched, on its own."""
    pairs = prompt_pairs(tiny)
    asked: dict[str, Any] = {"by": ("head", "span"), "layers": [0, 2]}
    whole = sweep(tiny.model, pairs, "z", "logprob_diff", **asked)
    monkeypatch.setattr("interp.model.memory.memory_budget", lambda model: 1)
    alone = sweep(tiny.model, pairs, "z", "logprob_diff", **asked)
    for name in ("patched", "clean", "corrupt"):
        np.testing.assert_allclose(alone[name], whole[name], rtol=0, atol=1e-5)


def test_some_layers_alone_are_those_of_the_whole(tiny: Tiny) -> None:
    pairs = prompt_pairs(tiny)
    for site in ("resid_pre", "resid_post", "q"):
        whole = sweep(tiny.model, pairs, site)
        for layers in ([1], [2, 0], [0, 0, 2]):
            some = sweep(tiny.model, pairs, site, layers=layers)
            assert list(some["layer"]) == sorted(set(layers))
            np.testing.assert_allclose(
                some["patched"], whole["patched"].sel(layer=sorted(set(layers))), rtol=0, atol=1e-5
            )


def test_progress_counts_every_cell_once(llama: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp.model.memory.memory_budget", lambda model: 1)
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
    found = sweep(llama.model, prompt_pairs(llama, clear_cases(llama)), "resid_post")
    patched, clean, corrupt = (found[name].values for name in ("patched", "clean", "corrupt"))
    gaps = clean - corrupt
    shares = normalised(found, minimum=0.0)
    assert shares.attrs["clear"] == 1
    assert shares.attrs["effect"] == pytest.approx(float(gaps.mean()))
    expected = (patched - corrupt[:, None, None]) / gaps[:, None, None]
    np.testing.assert_allclose(shares, expected, rtol=1e-5)
    kept = normalised(found, minimum=float(np.sort(gaps)[:2].mean()))
    small = int(np.argmin(gaps))
    assert bool(kept[small].isnull().all())
    assert not bool(kept.drop_isel(example=small).isnull().all("position").any())
    assert (shares.attrs["left_out"], kept.attrs["left_out"]) == (0, 1)


def _shared_out(clean: list[float], corrupt: list[float], metric: str = "logit_diff") -> xr.Dataset:
    patched = np.array(corrupt)[:, None] + [[0.5, 1.0]]
    return xr.Dataset(
        {
            "patched": (("example", "layer"), patched),
            "clean": ("example", clean),
            "corrupt": ("example", corrupt),
        },
        attrs={"metric": metric, "unit": "logits"},
    )


def test_there_is_no_share_of_an_effect_that_is_not_clear() -> None:
    clean, zeros = [2.0, 3.0, 2.5, 4.0, 1.0, 2.0], [0.0] * 6
    assert normalised(_shared_out(clean, zeros)).notnull().all()
    for left, right, reason in (
        (clean[:1], zeros[:1], "2.00 logits, no interval: 1 independent pair,"),
        (clean[:4], zeros[:4], "at least 5 are needed"),
        (zeros, clean, "has the wrong sign, −2.42 logits [−3."),
        ([2.0, -2.0, 1.0, -1.0, 0.5, 0.3], zeros, "could be none"),
        ([2.0] * 6, zeros, "the same value"),
    ):
        found = normalised(_shared_out(left, right))
        assert found.isnull().all()
        assert found.attrs["clear"] == 0
        assert reason in found.attrs["reason"]
    # Of ranks, less is better.
    assert normalised(_shared_out(zeros, clean, "rank")).notnull().all()
    assert normalised(_shared_out(clean, zeros, "rank")).isnull().all()


def test_a_pair_that_goes_the_wrong_way_has_no_share_of_its_own() -> None:
    found = normalised(_shared_out([2.0, 3.0, 2.5, 4.0, 1.0, 3.0, 2.0, -1.0], [0.0] * 8))
    assert found[:-1].notnull().all()
    assert found[-1].isnull().all()
    assert found.attrs["left_out"] == 1


def test_pairs_that_ask_the_same_are_one() -> None:
    clean, questions = [2.0, 3.0, 2.5, 4.0, 1.0, 2.0], [*"aabbcc"]
    found = normalised(_shared_out(clean, [0.0] * 6), clusters=questions)
    assert found.isnull().all()
    assert "3 independent pairs" in found.attrs["reason"]
    # Those with one clean prompt do, if nobody says otherwise.
    again = _shared_out(clean, [0.0] * 6).assign_coords(clean_prompt=("example", questions))
    assert "3 independent pairs" in normalised(again).attrs["reason"]
    assert normalised(again, clusters=range(6)).notnull().all()
    with pytest.raises(MetricError, match="is a number, not nan"):
        normalised(again, minimum=float("nan"))


@pytest.mark.parametrize(
    ("site", "options", "message"),
    [
        ("resid_pre", {"by": "head"}, "no heads"),
        ("z", {"by": "layer"}, "Unknown by 'layer'"),
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
    with pytest.raises((ArgumentError, SiteError), match=message):
        sweep(llama.model, prompt_pairs(llama), site, **options)


def test_parallel_blocks_have_no_stream_in_the_middle(zoo: Callable[[str], Tiny]) -> None:
    neox = zoo("neox")
    with pytest.raises(SiteError, match="parallel"):
        sweep(neox.model, prompt_pairs(neox), "resid_mid")
    with pytest.raises(SiteError, match="parallel"):
        capture(neox.model, ["we saw"], [Site("resid_mid", 0)])
