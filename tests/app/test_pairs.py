"""Pairs on the screen are the pairs of the run, and typed prompts align by what differs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import pairs
from app.engine import Engine, ModelSpec
from experiments.records import RunRecord
from interp.errors import PromptError


@pytest.mark.parametrize(
    ("clean", "corrupt", "expected"),
    [
        ("Tom Cruise's mother is", "Brad Pitt's mother is", ("Tom Cruise", "Brad Pitt")),
        ("The Eiffel Tower is in", "The Colosseum is in", ("Eiffel Tower", "Colosseum")),
        ("It is a cat", "It is a dog", ("cat", "dog")),
        ("Ann is old", "Bob is new", ("Ann is old", "Bob is new")),
        # One has nothing where the other has a word: the word before it comes along.
        ("He is very tall", "He is tall", ("is very", "is")),
        # "a" stands earlier too; it is made longer until it is found in the right place.
        ("a b a", "a b c", ("b a", "b c")),
    ],
)
def test_the_words_that_differ_are_found(
    clean: str, corrupt: str, expected: tuple[str, str]
) -> None:
    assert pairs.changed_words(clean, corrupt) == expected


words = st.lists(st.sampled_from(["a", "b", "cc", "d's", "e."]), min_size=1, max_size=6)


@given(words, words)
def test_outside_of_the_words_that_differ_the_prompts_are_the_same(
    left: list[str], right: list[str]
) -> None:
    clean, corrupt = " ".join(left), " ".join(right)
    if clean == corrupt:
        return
    found = pairs.changed_words(clean, corrupt)
    starts = [text.find(word) for text, word in zip((clean, corrupt), found, strict=True)]
    assert min(starts) >= 0
    assert clean[: starts[0]] == corrupt[: starts[1]]
    assert clean[starts[0] + len(found[0]) :] == corrupt[starts[1] + len(found[1]) :]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (("", "b", "c", "d"), "clean prompt is empty"),
        (("a", " ", "c", "d"), "corrupted prompt is empty"),
        (("a", "b", "", "d"), "answer is empty"),
        (("a", "b", "c", "\n"), "foil is empty"),
        (("a b", "a b ", "c", "d"), "are the same"),
    ],
)
def test_what_is_missing_is_told(texts: tuple[str, str, str, str], message: str) -> None:
    with pytest.raises(PromptError, match=message):
        pairs.typed(*texts)


def test_answers_get_the_space_between_words() -> None:
    pair = pairs.typed("It is ", "It was ", "Paris", " Rome ")
    assert (pair.clean, pair.corrupt) == ("It is", "It was")
    assert (pair.answer, pair.foil) == (" Paris", " Rome")
    assert pairs.typed("a", "b", ".", "!").answer == "."


@pytest.mark.parametrize("way", ["forward", "reverse"])
@pytest.mark.parametrize("site", ["resid_pre", "z"])
def test_sweeping_a_stored_pair_again_gives_what_the_run_stored(
    record: RunRecord, engine: Engine, spec: ModelSpec, way: str, site: str
) -> None:
    stored = record.dataset(f"patching_{way}_{site}")
    facts = record.table("facts")
    for example in range(stored.sizes["example"]):
        pair = pairs.stored(stored, example, facts, way)
        again = engine.sweep(spec, pair, site)
        one = stored.isel(example=example)
        for name in ("clean", "corrupt"):
            np.testing.assert_allclose(again[name][0], one[name], atol=1e-4)
        axis = "head" if site == "z" else "position_label"
        for column, label in enumerate(again[axis].values):
            there = list(one[axis].values).index(label)
            np.testing.assert_allclose(
                again["patched"].values[0, :, column], one["patched"].values[:, there], atol=1e-4
            )


def test_a_fact_the_run_did_not_patch_gets_a_partner_like_the_others(
    record: RunRecord, engine: Engine, spec: ModelSpec
) -> None:
    facts = record.table("facts")
    pair = engine.pair(spec, facts, 5, "reverse", 0)
    assert pair.clean == "Ida Jade's son is"
    assert pair.answer == " Hal Iris"
    assert pair.words[0] == "Ida Jade"
    assert pair.words[1] in pair.corrupt
    other = facts[facts["reverse_prompt"] == pair.corrupt].iloc[0]
    assert pair.foil == other["reverse_answer"]
