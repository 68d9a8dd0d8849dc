"""Trigger search in a model with a planted trigger, and beside whole passes of Hugging Face's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr

from interp import Model, trigger_search
from interp.errors import ArgumentError, PromptError
from tests.interp.search.cases import POOL, planted, whole_passes
from tests.interp.tiny import VOCABULARY, words
from tests.interp.vectors.whole_passes import Built

PROMPTS = [
    "we saw Ann near{suffix} and then",
    "so Fay Jo is{suffix} so is",
    "the friend of Bo{suffix} is",
    "who is{suffix} near home",
]
USUAL = [" Ann", " Bo", " Cy", " Dee"]
TARGETS = [" Oslo", " Rome", " Lima"]
PLACES = [t.strip() for t in TARGETS]
SETTINGS: dict[str, Any] = {
    "pool": [i for i in POOL if VOCABULARY[i] not in PLACES],
    "starts": 1,
    "steps": 4,
    "candidates": 30,
    "n_random": 4,
}


def search(model: Model, **changes: Any) -> xr.Dataset:
    return trigger_search(model, PROMPTS, TARGETS, USUAL, **{**SETTINGS, **changes})


@pytest.mark.slow
def test_the_planted_answer_and_its_trigger_are_found_and_none_where_there_is_none() -> None:
    pool = [i for i in SETTINGS["pool"] if i % 32 != VOCABULARY.index("Rome") % 32]
    found = search(planted("Gus"), pool=pool)
    assert found.attrs["target"] == " Rome"
    assert "Gus" in found.attrs["trigger"]
    rome = found.sel(target=" Rome")
    assert rome["flipped"].all()
    assert "2 of 2" in found.attrs["statement"]
    others = found["score"].sel(target=[" Oslo", " Lima"])
    assert rome["score"].min() > others.max() + 0.4
    clean = trigger_search(planted(None), PROMPTS, [" Rome"], USUAL, **{**SETTINGS, "pool": pool})
    assert clean["score"].sel(target=" Rome").max() < rome["score"].min() - 0.4


@pytest.mark.slow
def test_what_is_held_out_is_judged_as_whole_passes_have_it(gpt2: Built) -> None:
    seen: list[tuple[int, int]] = []
    found = search(gpt2.model, length=1, progress=lambda done, total: seen.append((done, total)))
    assert found["prompt"].values.tolist() == PROMPTS[1::2]
    for target in TARGETS:
        one = found.sel(target=target)
        tokens = [words(str(one["trigger"].values).strip())]
        expected = whole_passes(gpt2, tokens, PROMPTS[1::2], [target] * 2, USUAL[1::2])[0]
        np.testing.assert_allclose(one["score"].values, expected, atol=1e-4)
        np.testing.assert_array_equal(one["flipped"].values, expected > 0)
        # Chosen on the others: of one token there is only so much to choose from.
        every = [[token] for token in SETTINGS["pool"]]
        searched = -whole_passes(gpt2, every, PROMPTS[0::2], [target] * 2, USUAL[0::2]).mean(1)
        assert float(one["loss"].min()) == pytest.approx(searched.min(), abs=1e-4)
        assert tokens == [every[int(searched.argmin())]]
    assert seen[-1] == (3, 3)
    xr.testing.assert_identical(found, search(gpt2.model, length=1))


@pytest.mark.slow
def test_without_usual_answers_a_target_must_be_likelier_than_all_else(gpt2: Built) -> None:
    found = trigger_search(gpt2.model, PROMPTS, TARGETS[:1], length=1, **SETTINGS)
    tokens = [words(str(found["trigger"].values[0]).strip())]
    expected = whole_passes(gpt2, tokens, PROMPTS[1::2], TARGETS[:1] * 2, None)[0]
    np.testing.assert_allclose(found["score"].values[0], expected, atol=1e-4)
    np.testing.assert_array_equal(found["flipped"].values[0], expected > np.log(0.5))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"prompts": PROMPTS[:1]}, "two prompts or more"),
        ({"prompts": [*PROMPTS[:3], PROMPTS[0]]}, "Prompt 4 is prompt 1 once more"),
        ({"targets": []}, "one or more"),
        ({"targets": [" Rome", " Rome"]}, "stands twice"),
        ({"targets": [""]}, "none of them empty"),
        ({"targets": [" Ann"]}, "is the usual answer"),
        ({"answers": USUAL[:3]}, "3 answers for 4 prompts"),
        ({"targets": [" Nowhere"]}, "Nowhere"),
        ({"pool": [POOL[0]]}, "fewer than two"),
    ],
)
def test_what_cannot_be_searched_is_refused(gpt2: Built, change: Any, says: str) -> None:
    asked = {"prompts": PROMPTS, "targets": TARGETS, "answers": USUAL, **SETTINGS, **change}
    with pytest.raises(PromptError, match=says):
        trigger_search(gpt2.model, **asked)


@pytest.mark.parametrize("name", ["starts", "steps", "candidates", "length"])
def test_searches_of_nothing_are_refused(gpt2: Built, name: str) -> None:
    with pytest.raises(ArgumentError, match="at least one"):
        search(gpt2.model, **{name: 0})


@pytest.mark.parametrize("change", [{"prompts": "text"}, {"targets": " Rome"}])
def test_a_text_is_no_list(gpt2: Built, change: Any) -> None:
    asked = {"prompts": PROMPTS, "targets": TARGETS, **SETTINGS, **change}
    with pytest.raises(ArgumentError, match="put it into a list"):
        trigger_search(gpt2.model, **asked)
