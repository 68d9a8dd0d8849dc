"""Pairs on the screen are the pairs of the run, and typed prompts align by what differs."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from app.compute import pairs
from app.compute.engine import Engine, ModelSpec
from experiments.explorer import Examples, Way
from experiments.records import RunRecord
from interp.errors import PromptError
from interp.figures import patching_map
from interp.prompts.pairs import occurrences


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
        # It stands again later: looked for by its words alone, it would be refused.
        ("Bo and Al met, Al left", "Bo and Cy met, Al left", ("and Al", "and Cy")),
        ("Al saw Bo, Al left", "Cy saw Bo, Al left", ("Al saw", "Cy saw")),
        ("a a", "a a a", ("a a", "a a a")),
        (
            "When Mary and John went to the store, John gave a drink to",
            "When Mary and John went to the store, Mary gave a drink to",
            (", John", ", Mary"),
        ),
        (
            "When Mary and John went to the store, John gave a drink to",
            "When John and Mary went to the store, Mary gave a drink to",
            ("Mary and John went to the store, John", "John and Mary went to the store, Mary"),
        ),
    ],
)
def test_the_words_that_differ_are_found(
    clean: str, corrupt: str, expected: tuple[str, str]
) -> None:
    assert pairs.changed_words(clean, corrupt) == expected


words = st.lists(st.sampled_from(["a", "b", "cc", "d's", "e."]), min_size=1, max_size=6)


@pytest.mark.slow
@given(words, words)
def test_outside_of_the_words_that_differ_the_prompts_are_the_same(
    left: list[str], right: list[str]
) -> None:
    clean, corrupt = " ".join(left), " ".join(right)
    if clean == corrupt:
        return
    found = pairs.changed_words(clean, corrupt)
    places = [occurrences(text, word) for text, word in zip((clean, corrupt), found, strict=True)]
    # As `PromptPairs` wants it: each stands in its prompt, and only once.
    assert [len(place) for place in places] == [1, 1]
    starts = [place[0] for place in places]
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
        (("a", "b" * 2001, "c", "d"), "corrupted prompt has 2,001 characters; at most 2,000"),
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


@pytest.mark.slow
@pytest.mark.parametrize("way", ["forward", "reverse"])
@pytest.mark.parametrize("site", ["resid_pre", "z"])
def test_sweeping_a_stored_pair_again_gives_what_the_run_stored(
    record: RunRecord,
    engine: Engine,
    spec: ModelSpec,
    ways: dict[str, Way],
    way: str,
    site: str,
) -> None:
    stored = record.dataset(f"patching_{way}_{site}")
    facts = record.table("facts")
    for example in range(stored.sizes["example"]):
        pair = pairs.stored(stored, example, facts, ways[way])
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
    record: RunRecord,
    engine: Engine,
    spec: ModelSpec,
    examples: Examples,
    ways: dict[str, Way],
) -> None:
    facts = record.table("facts")
    pair = engine.pair(spec, examples, facts, 5, ways["reverse"], {"seed": 0})
    assert pair.clean == "Ida Jade's son is"
    assert pair.answer == " Hal Iris"
    assert pair.words[0] == "Ida Jade"
    assert pair.words[1] in pair.corrupt
    other = facts[facts["reverse_prompt"] == pair.corrupt].iloc[0]
    assert pair.foil == other["reverse_answer"]


def test_of_examples_that_ask_the_same_a_pair_has_its_own_answer(
    engine: Engine, spec: ModelSpec, examples: Examples, ways: dict[str, Way], record: RunRecord
) -> None:
    """A mother of two is asked for her son: each of the two facts has another right answer."""
    facts = record.table("facts").copy()
    mother, sons = str(facts.loc[1, "object"]), [str(facts.loc[i, "subject"]) for i in (1, 3)]
    facts.loc[3, ["object", "split"]] = [mother, facts.loc[1, "split"]]
    for name in ("prompt", "answer"):
        facts[f"reverse_{name}"] = facts[f"reverse_{name}"].astype(object)
    facts.loc[3, "reverse_prompt"] = facts.loc[1, "reverse_prompt"]
    facts.loc[3, "forward_answer"] = facts.loc[1, "forward_answer"]
    for row, son in zip((1, 3), sons, strict=True):
        pair = engine.pair(spec, examples, facts, row, ways["reverse"], {"seed": 0})
        assert (pair.clean, pair.answer) == (f"{mother}'s son is", f" {son}")
        # And so it is found again for a map that was stored of it, the foil's row too.
        for turn in (1, -1):
            model_pairs = [pair.clean, pair.corrupt][::turn], [pair.answer, pair.foil][::turn]
            (clean, corrupt), (answer, foil) = model_pairs
            coords = {"clean_prompt": clean, "corrupt_prompt": corrupt}
            coords |= {"answer": answer.strip(), "foil": foil.strip()}
            stored = xr.Dataset(coords={name: ("example", [v]) for name, v in coords.items()})
            again = pairs.stored(stored, 0, facts, ways["reverse"])
            assert (again.answer, again.foil) == (answer, foil)


@pytest.mark.parametrize("turned", [False, True])
def test_an_indirect_object_sentence_can_be_patched(
    engine: Engine, spec: ModelSpec, turned: bool
) -> None:
    """The name that gives stands there twice, so by its word alone it cannot be found."""
    clean, corrupt = "Mary Tom's mother Tom is", "Mary Ann's mother Tom is"
    pair = pairs.typed(*((corrupt, clean) if turned else (clean, corrupt)), "Mary", "Tom")
    swept = engine.sweep(spec, pair, "resid_pre")
    assert np.isfinite(swept["patched"]).all()
    assert swept.sizes["position"] == len(engine.aligned(spec, pair).clean)


def test_a_map_has_a_column_for_every_token(engine: Engine, spec: ModelSpec) -> None:
    pair = pairs.typed("Mary Lee Pfeiffer's son is", "Bea Stone's son is", "Tom", "Ann")
    aligned, swept = engine.aligned(spec, pair), engine.sweep(spec, pair, "resid_pre")
    shown, slots = pairs.every_token(swept, aligned)
    assert list(shown["clean_token"].values[0]) == list(aligned.clean)
    lone = aligned.clean.index("Mary")
    assert np.isnan(shown["patched"].values[0, :, lone]).all()
    assert list(slots.values()) == list(range(len(aligned.clean)))
    kept = [i for i in range(len(aligned.clean)) if i != lone]
    np.testing.assert_array_equal(shown["patched"].values[:, :, kept], swept["patched"].values)
    drawn = patching_map(shown, example=0, value="change")
    assert "Mary" in drawn.layout.xaxis.ticktext
    (cells,) = (trace for trace in drawn.data if trace.name == "cells")
    assert "no token stands for it" in " ".join(cells.text)


def test_names_are_swapped_in_sentences_that_hold_both() -> None:
    said = "When Mary and John went to the store, John gave a drink to"
    other = "When John and Mary went to the store, Mary gave a drink to"
    assert pairs.swapped(said, " Mary", "John") == other
    assert pairs.swapped(other, "Mary", "John") == said
    # Johnson is not John, and one name may be a part of the other.
    assert pairs.swapped("Johnson saw Mary", "Mary", "John") is None
    assert pairs.swapped("Ann Lee met Ann", "Ann Lee", "Ann") == "Ann met Ann Lee"
    for answer, foil in (("Mary", ""), ("Mary", "Mary"), ("", "")):
        assert pairs.swapped(said, answer, foil) is None
    pair = pairs.typed(said, other, "Mary", "John")
    assert pair.words == (
        "Mary and John went to the store, John",
        "John and Mary went to the store, Mary",
    )
