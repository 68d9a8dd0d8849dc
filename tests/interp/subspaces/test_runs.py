"""A changed run is a whole forward pass of Hugging Face's model, and so is its gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from interp import PromptPairs, record
from interp.forward.passes import Recording
from interp.model.model import Model
from interp.subspaces.runs import Rows, Runs
from tests.interp import reference
from tests.interp.pairs import CASES, prompt_pairs
from tests.interp.tiny import N_LAYERS, VOCABULARY, Tiny

SITES = (*reference.STREAMS, "mlp_act")
TARGET = VOCABULARY.index("Ida")


def loss(tiny: Tiny, ids: list[int], site: str, layer: int, at: int, vector: torch.Tensor) -> float:
    """Cross-entropy of the target after a prompt in which one activation is another."""

    def change(value: torch.Tensor) -> None:
        value[at] = vector

    with reference.intervened(tiny, site, layer, change):
        return -float(reference.logprobs(tiny, ids)[-1, TARGET])


@pytest.mark.slow
@pytest.mark.parametrize("site", SITES)
def test_a_row_is_a_whole_pass_and_its_gradient_the_slope(tiny: Tiny, site: str) -> None:
    if site == "resid_mid" and tiny.parallel:
        pytest.skip("no such stream")
    pairs = prompt_pairs(tiny)
    layers, slots = (0, N_LAYERS - 1), tuple(range(len(pairs.positions)))
    runs = Runs(tiny.model, pairs, "denoising", site, layers, slots)
    place, example = np.nonzero(runs.present)
    few = np.random.default_rng(0).permutation(len(place))[:12]
    few.sort()
    rows = Rows(place[few], example[few])
    torch.manual_seed(0)
    vectors = runs.source[rows.place, rows.example] + 0.3 * torch.randn(len(rows), runs.width)
    losses, slopes = runs.gradient(rows, vectors, torch.full((len(rows),), TARGET))
    step = 0.002 * torch.randn_like(vectors)
    for row, (where, which) in enumerate(zip(rows.place, rows.example, strict=True)):
        ids, layer = CASES[which].ids(tiny, "corrupt"), int(runs.layer[where])
        at = int(pairs.alignment.corrupt[which, runs.slot[where]])
        ahead, behind, here = (
            loss(tiny, ids, site, layer, at, vectors[row] + sign * step[row]) for sign in (1, -1, 0)
        )
        assert abs(float(losses[row]) - here) < 1e-4
        slope = float(slopes[row] @ step[row])
        assert abs(slope - (ahead - behind) / 2) < 0.02 * abs(slope) + 1e-5


def test_what_is_read_is_what_stands_in_both_runs(llama: Tiny) -> None:
    pairs = prompt_pairs(llama)
    runs = Runs(llama.model, pairs, "noising", "resid_post", (1,), (2, 4))
    for place, slot in enumerate((2, 4)):
        for i, case in enumerate(CASES):
            for run, found in (("clean", runs.base), ("corrupt", runs.source)):
                at = getattr(pairs.alignment, run)[i, slot]
                assert (at >= 0) == runs.present[place, i]
                if at < 0:
                    assert not found[place, i].any()
                    continue
                expected = reference.activation(llama, tuple(case.ids(llama, run)), "resid_post", 1)
                torch.testing.assert_close(found[place, i], expected[at], rtol=1e-4, atol=1e-5)


def test_a_couple_that_is_asked_both_ways_is_recorded_once(
    llama: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other, third = (f"we saw {name} near Rome" for name in ("Ann", "Fay", "Jo"))
    pairs = PromptPairs(
        llama.model,
        [one, other, third],
        [other, one, one],
        [" Ann", " Fay", " Jo"],
        [" Fay", " Ann", " Ann"],
    )
    seen: list[int] = []

    def counted(model: Model, ids: torch.Tensor, *args: Any, **kwargs: Any) -> Recording:
        seen.append(len(ids))
        return record(model, ids, *args, **kwargs)

    slot = len(pairs.positions) - 1
    monkeypatch.setattr("interp.subspaces.runs.record", counted)
    runs = Runs(llama.model, pairs, "denoising", "resid_post", (1,), (slot,))
    assert seen == [3, 1]  # those that are changed, and of the sources the third
    for i in range(3):
        for run, found in (("corrupt", runs.base), ("clean", runs.source)):
            batch, at = getattr(pairs, run), getattr(pairs.alignment, run)[i, slot]
            ids = tuple(batch.ids[i, : batch.lengths[i]].tolist())
            expected = reference.activation(llama, ids, "resid_post", 1)[at]
            torch.testing.assert_close(found[0, i], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_prompts_that_do_not_fit_together_are_run_again(
    gpt2: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = prompt_pairs(gpt2)
    target = torch.tensor([TARGET, 5, 7])

    def found() -> tuple[torch.Tensor, torch.Tensor]:
        runs = Runs(gpt2.model, pairs, "denoising", "resid_post", (0, 1), (1, 3))
        place, example = np.nonzero(runs.present)
        rows = Rows(place, example)
        return runs.gradient(rows, runs.source[place, example], target[example])

    whole = found()
    monkeypatch.setattr("interp.subspaces.runs.memory_budget", lambda model: 1)
    monkeypatch.setattr("interp.subspaces.runs.available_memory", lambda: None)
    for one, other in zip(found(), whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("site", ["resid_post", "mlp_out"])
def test_a_model_without_windows_is_run_whole(
    tiny: Tiny, site: str, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = prompt_pairs(tiny)
    target = torch.tensor([TARGET, 5, 7])

    def found() -> tuple[torch.Tensor, torch.Tensor]:
        runs = Runs(tiny.model, pairs, "denoising", site, (0, 1), (1, 3))
        place, example = np.nonzero(runs.present)
        rows = Rows(place, example)
        return runs.gradient(rows, runs.source[place, example], target[example])

    few = found()
    monkeypatch.setattr("interp.subspaces.runs.windows", lambda *_: False)
    if not packed:
        monkeypatch.setattr("interp.subspaces.runs.packs", lambda *_: False)
    for one, other in zip(few, found(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_an_answer_that_shares_the_first_place_has_not_come_out(gpt2: Tiny) -> None:
    pairs = prompt_pairs(gpt2)
    runs = Runs(gpt2.model, pairs, "denoising", "resid_post", (0,), (1,))
    last = [reference.logits(gpt2, case.ids(gpt2, "corrupt"))[-1] for case in CASES]
    best = torch.tensor([int(row.argmax()) for row in last])
    assert runs.right_unchanged(best).all()
    assert not runs.right_unchanged((best + 1) % len(VOCABULARY)).any()
    worst = torch.tensor([int(row.argmin()) for row in last])
    among = Runs(
        gpt2.model, pairs, "denoising", "resid_post", (0,), (1,), torch.cat([worst, best]).unique()
    )
    assert among.right_unchanged(best).all()
    alone = Runs(gpt2.model, pairs, "denoising", "resid_post", (0,), (1,), worst.unique())
    assert alone.right_unchanged(worst).any()


def test_nothing_is_left_on_the_model(gpt2: Tiny) -> None:
    pairs, bridge = prompt_pairs(gpt2), gpt2.model.bridge
    runs = Runs(gpt2.model, pairs, "denoising", "mlp_out", (0, 1), (1,))
    rows = Rows.grid(np.array([0, 1]), np.array([0, 1, 2]))
    with pytest.raises(IndexError):
        runs.gradient(rows, runs.source.flatten(0, 1), torch.tensor([10**6] * 6))
    assert not any(point.fwd_hooks for point in bridge.hook_dict.values())
    for parameter in bridge.original_model.parameters():
        assert parameter.grad is None
        assert not parameter.requires_grad
