"""Back-patching: each cell a whole pass, halves without shared questions, and a fair control."""

from __future__ import annotations

import numpy as np
import pytest

from interp import back_patching
from interp.errors import ArgumentError, PromptError, SiteError
from interp.model.model import Model
from interp.vectors.halves import halves, joined, partners
from tests.interp.tiny import NAMES, PLACES, words
from tests.interp.vectors.whole_passes import Built

PROMPTS = [
    f"we saw {name} near {place} and" for name, place in zip(NAMES, PLACES * 2, strict=False)
]
ANSWERS = [f" {name}" for name in reversed(NAMES)]


def greedy(built: Built, text: str, answer: str, writes: list) -> bool:  # type: ignore[type-arg]
    logits = built.logits("resid_post", built.ids(text), writes)[-1]
    return int(logits.argmax()) == words(answer)[0]


@pytest.mark.slow
def test_each_cell_is_a_whole_pass(gpt2: Built) -> None:
    spans = {"joint": ["and"] * len(PROMPTS)}
    # What each pair of layers makes of half of the prompts is what they are asked for, so that
    # some cases are mended.
    answers = list(ANSWERS)
    at = len(gpt2.ids("we saw Ann near Rome and")) - 1
    for example in range(0, len(PROMPTS), 2):
        read = gpt2.activation("resid_post", 1, PROMPTS[example])[at]
        logits = gpt2.logits("resid_post", gpt2.ids(PROMPTS[example]), [(0, at, read)])[-1]
        answers[example] = " " + gpt2.model.token_strings([int(logits.argmax())])[0].strip()
    found = back_patching(
        gpt2.model, PROMPTS, answers, at="joint", spans=spans, clusters=list(range(len(PROMPTS)))
    )
    assert found["mended"].dims == ("search", "example", "source_layer", "target_layer")
    partner = found["partner"].values
    for example, (text, answer) in enumerate(zip(PROMPTS, answers, strict=True)):
        assert bool(found["answered"][example]) == greedy(gpt2, text, answer, [])
        cells = found["mended"][:, example].values
        if found["answered"][example]:
            assert np.isnan(cells).all()
            continue
        assert np.isnan(cells).sum() == 2 * 3  # only layer 1 into 0
        for search, source in enumerate((example, partner[example])):
            read = gpt2.activation("resid_post", 1, PROMPTS[source])[at]
            assert cells[search, 1, 0] == greedy(gpt2, text, answer, [(0, at, read)])
    own = found.sel(search="own")
    cases = found["half"].values != ""
    held_out = found["half"].values == "held out"
    cell = own["mended"].values[:, 1, 0]
    assert (own["chosen_source_layer"], own["chosen_target_layer"], own["ties"]) == (1, 0, 1)
    assert float(own["held_out_rate"]) == pytest.approx(cell[held_out].mean())
    assert float(own["held_out_rate"]) > 0
    assert float(own["chosen_rate"]) == pytest.approx(cell[cases & ~held_out].mean())
    assert float(own["any_pair_rate"]) == pytest.approx(cell[cases].mean())
    assert float(own["held_out_low"]) < float(own["held_out_rate"]) < float(own["held_out_high"])
    assert found.attrs["n_cases"] == cases.sum()
    assert "mends" in found.attrs["statement"]


def test_a_mismatched_vector_is_of_another_question_of_the_same_half() -> None:
    rng = np.random.default_rng(0)
    for seed in range(50):
        clusters = np.repeat(np.arange(12), rng.integers(1, 4, 12))
        half = halves(clusters, seed)
        assert not set(clusters[half == 0]) & set(clusters[half == 1])
        assert abs((half == 0).sum() - (half == 1).sum()) <= 3
        other = partners(clusters, half, seed)
        assert sorted(other) == list(range(len(clusters)))
        assert (clusters[other] != clusters).all()
        assert (half[other] == half).all()


def test_what_is_joined_is_joined_by_any_label() -> None:
    found = joined(["a", "b", "a", "c", "d"], [1, 2, 3, 2, 4])
    assert found[0] == found[2]
    assert found[1] == found[3]
    assert len(set(found)) == 3


def test_best_of_chance_is_not_reported_as_success() -> None:
    """Where no pair does anything but by chance, any pair mends many, and the chosen one few."""
    from interp.vectors.backwards import judged

    rng = np.random.default_rng(0)
    held_out, anyhow, covered = [], [], 0
    half = np.repeat([0, 1], 50)
    for _ in range(100):
        mended = np.where(np.tri(12, k=-1, dtype=bool), rng.random((100, 12, 12)) < 0.03, np.nan)
        one = judged(mended, half, np.arange(100), range(12))
        held_out.append(one["held_out_rate"])
        anyhow.append(one["any_pair_rate"])
        covered += one["held_out_low"] <= 0.03 <= one["held_out_high"]
        assert one["chosen_rate"] >= 0.06  # the best of 66 on the half that it is chosen on
    assert np.mean(held_out) == pytest.approx(0.03, abs=0.01)
    assert np.mean(anyhow) > 0.8
    assert covered >= 90


def test_where_no_pair_mends_any_none_is_chosen() -> None:
    from interp.vectors.backwards import judged

    mended = np.where(np.tri(3, k=-1) > 0, np.zeros((8, 3, 3)), np.nan)
    mended[4:, 1, 0] = 1.0  # only of the half that is held out
    one = judged(mended, np.repeat([0, 1], 4), np.arange(8), range(3))
    assert one["chosen_rate"] == 0
    assert np.isnan([one[f"held_out_{name}"] for name in ("rate", "low", "high")]).all()
    assert one["chosen_source_layer"] == one["chosen_target_layer"] == -1
    assert one["any_pair_rate"] == 0.5


@pytest.mark.slow
def test_what_cannot_be_judged_is_refused(gpt2: Built) -> None:
    model: Model = gpt2.model
    for prompts, answers, settings, message in (
        (PROMPTS[:3], ANSWERS[:3], {}, "each half needs several"),
        (PROMPTS, [" Ann"] * len(PROMPTS), {}, "1 different questions"),
        (PROMPTS, ANSWERS, {"clusters": [0] * 8 + [1, 2, 3]}, "different questions"),
        (PROMPTS, ANSWERS, {"at": [1, 2]}, "one token of each"),
        (PROMPTS, ANSWERS, {"at": "prompt"}, "one token of each"),
        (PROMPTS, ANSWERS[:3], {}, "3 answers for"),
        (PROMPTS, ANSWERS, {"at": 50}, "no position 50"),
    ):
        with pytest.raises(PromptError, match=message) as caught:
            back_patching(model, prompts, answers, **settings)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
    for settings, message in (
        ({"layers": [1]}, "two at least"),
        ({"layers": [0, 5]}, "Layer 5"),
        ({"site": "pattern"}, "no vectors"),
    ):
        with pytest.raises(SiteError, match=message):
            back_patching(model, PROMPTS, ANSWERS, **settings)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"a whole number from 0 to .*, not -1"):
        back_patching(model, PROMPTS, ANSWERS, seed=-1)
    top = gpt2.model.token_strings(
        [int(gpt2.logits("resid_post", gpt2.ids(text), [])[-1].argmax()) for text in PROMPTS]
    )
    with pytest.raises(PromptError, match="nothing to mend"):
        back_patching(model, PROMPTS, [f" {one.strip()}" for one in top])
