"""Attention to spans is Hugging Face's; heads and detectors are those that were planted."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import xarray as xr
from sklearn.metrics import roc_auc_score

from interp import (
    FocusDetector,
    evaluate_detector,
    fit_focus_detector,
    instruction_focus,
    select_heads,
)
from interp.errors import PromptError, SiteError, StatisticsError
from interp.loading.load import load_model
from tests.interp.tiny import Tiny, build_tokenizer

PROMPTS = ["we saw Ann . near Rome and then", "who is Bo . so Fay"]
TASKS, DATA = ["we saw Ann", "who is Bo"], ["near Rome and", "so Fay"]


@pytest.mark.slow
def test_focus_is_hugging_faces_attention_from_the_last_token(tiny: Tiny) -> None:
    found = instruction_focus(tiny.model, PROMPTS, TASKS, DATA)
    for example, text in enumerate(PROMPTS):
        with torch.no_grad():
            out = tiny.hf(
                torch.tensor([tiny.ids(text)]), use_cache=False, output_attentions=True
            ).attentions
        last = torch.cat(out)[:, :, -1]  # [layer, head, source]
        first = len(tiny.bos)
        task = last[..., first : first + 3].sum(-1).numpy()
        words = len(DATA[example].split())
        data = last[..., first + 4 : first + 4 + words].sum(-1).numpy()
        here = found.isel(example=example)
        np.testing.assert_allclose(here["attention"].sel(span="instruction"), task, atol=1e-5)
        np.testing.assert_allclose(here["attention"].sel(span="data"), data, atol=1e-5)
        np.testing.assert_allclose(here["focus"], task / (task + data), atol=1e-5)


def test_weighted_attention_is_that_times_the_length_of_what_is_written(llama: Tiny) -> None:
    from interp import attention_patterns

    found = instruction_focus(llama.model, PROMPTS, TASKS, DATA, weighted=True)
    moved = attention_patterns(llama.model, PROMPTS, weighted=True)["moved"].values
    for example, words in enumerate(DATA):
        n = len(llama.ids(PROMPTS[example]))
        last = moved[example, :, :, n - 1]
        task, data = last[..., 1:4].sum(-1), last[..., 5 : 5 + len(words.split())].sum(-1)
        here = found.isel(example=example)
        np.testing.assert_allclose(here["moved"].sel(span="instruction"), task, rtol=1e-4)
        np.testing.assert_allclose(here["moved_focus"], task / (task + data), rtol=1e-4)


def test_masks_are_the_words_they_cover_and_the_batch_does_not_matter(
    llama: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = instruction_focus(llama.model, PROMPTS, TASKS, DATA)
    task, data = torch.zeros(2, 9, dtype=torch.bool), torch.zeros(2, 9, dtype=torch.bool)
    task[:, 1:4] = True
    data[0, 5:8] = data[1, 5:7] = True
    monkeypatch.setattr("interp.model.memory.memory_budget", lambda model: 1)
    seen: list[tuple[int, int]] = []
    pieces = instruction_focus(
        llama.model, PROMPTS, task, data, progress=lambda *done: seen.append(done)
    )
    assert seen == [(1, 2), (2, 2)]
    np.testing.assert_allclose(pieces["attention"], whole["attention"], atol=1e-6)


@pytest.mark.slow
def test_other_number_formats_give_the_same(llama: Tiny) -> None:
    whole = instruction_focus(llama.model, PROMPTS, TASKS, DATA)["focus"]
    for dtype, tolerance in ((torch.float64, 1e-5), (torch.bfloat16, 0.05)):
        model = load_model(copy.deepcopy(llama.hf).to(dtype), tokenizer=build_tokenizer())
        found = instruction_focus(model, PROMPTS, TASKS, DATA)["focus"]
        np.testing.assert_allclose(found, whole, atol=tolerance)


def test_spans_that_mean_nothing_are_refused(llama: Tiny) -> None:
    mask = torch.zeros(2, 9, dtype=torch.bool)
    for task, data, said in (
        (["we saw", "Bo . so"], DATA, "share a token"),
        (["Lima", "who"], DATA, "not in the prompt"),
        (["we"], DATA, "each of the 2 prompts"),
        (mask, DATA, "this mask has not"),
        (mask[:, :4], DATA, "for each token"),
        (~mask, DATA, "this mask has not"),
    ):
        with pytest.raises(PromptError, match=said):
            instruction_focus(llama.model, PROMPTS, task, data)


def planted(n: int, fall: float, seed: int) -> tuple[xr.Dataset, xr.Dataset]:
    """Results in which head 1.2 looks less at the instruction, by a fall of standard deviations."""
    rng = np.random.default_rng(seed)
    focus = rng.normal(0.5, 0.05, (2, n, 3, 4))
    focus[1, :, 1, 2] -= fall * 0.05
    one, other = (
        xr.Dataset(
            {
                "focus": (("example", "layer", "head"), values),
                "attention": (
                    ("example", "layer", "head", "span"),
                    np.stack([values, 1 - values], -1),
                ),
            },
            {"layer": np.arange(3), "head": np.arange(4), "span": ["instruction", "data"]},
            {"instrument": "instruction focus", "fingerprint": "a"},
        )
        for values in focus
    )
    return one, other


def test_the_planted_head_is_chosen_and_found_again_on_other_prompts() -> None:
    clean, attacked = planted(30, 8, 0)
    selected = select_heads(clean, attacked)
    first, second = clean["focus"].values, attacked["focus"].values
    difference = first.mean(0) - second.mean(0)
    spread = first.std(0) + second.std(0)
    taken = selected.attrs["n"]
    assert 3 < taken < 5
    np.testing.assert_array_equal(selected["chosen"], difference - taken * spread > 0)
    assert not (difference - (taken + 0.1) * spread > 0).any()
    three = select_heads(clean, attacked, least=3)
    assert (
        int(three["chosen"].sum()) >= 3 > (difference - (three.attrs["n"] + 0.1) * spread > 0).sum()
    )
    assert int((select_heads(clean, attacked, n=0)["chosen"]).sum()) == int((difference > 0).sum())
    detector = fit_focus_detector(clean, attacked)
    assert detector.heads == ((1, 2),)
    # Its fall is 8 standard deviations: two classes apart, half way between them.
    clean, attacked = planted(50, 3, 1)
    found = evaluate_detector(detector, clean, attacked, draws=50)
    scores = np.concatenate([clean["focus"].values[:, 1, 2], attacked["focus"].values[:, 1, 2]])
    labels = np.repeat([0, 1], 50)
    assert float(found["auroc"]) == pytest.approx(roc_auc_score(labels, -scores))
    assert float(found["low"]) < float(found["auroc"]) < float(found["high"])
    assert float(found["found"]) == np.mean(scores[50:] < detector.threshold)
    assert float(found["false_alarms"]) == np.mean(scores[:50] < detector.threshold)
    others = np.array([[roc_auc_score(labels, -np.concatenate([clean["focus"][:, i, j],
        attacked["focus"][:, i, j]])) for j in range(4)] for i in range(3)])  # fmt: skip
    np.testing.assert_allclose(found["by_head"], others)
    assert set(np.round(found["random"].values, 9)) <= set(np.round(others.ravel(), 9))
    np.testing.assert_array_equal(detector.flags(attacked), scores[50:] < detector.threshold)


def test_several_heads_are_averaged_and_chance_is_a_half() -> None:
    clean, attacked = planted(200, 0, 2)
    detector = FocusDetector(((0, 1), (2, 3)), 0.5, 0)
    expected = (clean["focus"].values[:, 0, 1] + clean["focus"].values[:, 2, 3]) / 2
    np.testing.assert_allclose(detector.score(clean), expected)
    found = evaluate_detector(detector, clean, attacked, draws=10)
    assert float(found["low"]) < 0.5 < float(found["high"])


def test_what_does_not_go_together_is_refused() -> None:
    clean, attacked = planted(10, 2, 3)
    other = attacked.assign_attrs(fingerprint="b")
    with pytest.raises(PromptError, match="two models"):
        select_heads(clean, other)
    with pytest.raises(PromptError, match="two or more"):
        select_heads(clean.isel(example=[0]), attacked)
    for n in (-1.0, float("nan")):
        with pytest.raises(StatisticsError, match="standard deviations"):
            select_heads(clean, attacked, n=n)
    with pytest.raises(StatisticsError, match="cannot be chosen"):
        select_heads(clean, attacked, least=13)
    with pytest.raises(PromptError, match="In no head"):
        fit_focus_detector(clean, attacked, n=50)
    with pytest.raises(SiteError, match="not among these"):
        FocusDetector(((7, 0),), 0.5, 1).score(clean)
    with pytest.raises(PromptError, match="different heads"):
        select_heads(clean, attacked.isel(head=[0, 1]))
