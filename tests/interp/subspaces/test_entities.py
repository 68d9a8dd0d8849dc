"""Pairs are held out by what they are about."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from interp import PromptPairs
from interp.errors import PromptError
from interp.subspaces.entities import arbitrary, groups_of, split
from tests.interp.subspaces.planted import Kind, Planted
from tests.interp.tiny import NAMES, Tiny


def of(made: Planted, entities: list[tuple[int, int]]) -> PromptPairs:
    return PromptPairs(
        made.model,
        [f"e{a} is" for a, _ in entities],
        [f"e{b} is" for _, b in entities],
        [f" a{a}" for a, _ in entities],
        [f" a{b}" for _, b in entities],
    )


def test_pairs_that_share_an_entity_are_one_group(model_of: Callable[[Kind], Planted]) -> None:
    chain = [(0, 1), (2, 3), (1, 4), (5, 6), (6, 5), (7, 8), (9, 10)]
    codes = groups_of(of(model_of("variable"), chain), None)
    assert codes.tolist() == [0, 1, 0, 2, 2, 3, 4]


def test_pairs_that_cannot_be_split_are_refused(model_of: Callable[[Kind], Planted]) -> None:
    circle = [(i, (i + 1) % 20) for i in range(20)]
    pairs = of(model_of("variable"), circle)
    with pytest.raises(PromptError, match=r"make 1 group .* name groups="):
        groups_of(pairs, None)
    assert len(set(groups_of(pairs, [i // 4 for i in range(20)]).tolist())) == 5
    with pytest.raises(PromptError, match="3 groups"):
        groups_of(pairs, [i % 3 for i in range(20)])


def test_a_name_that_stands_in_another_prompt_joins(llama: Tiny) -> None:
    # Of the first pair only the second word differs, and the last pair holds it among others.
    clean = ["Ann Bo is", "Cy Dee is", "Eve Fay is", "Gus Hal is", "Ida Bo is"]
    corrupt = ["Ann Jo is", "Anna Dee is", "Rome Oslo is", "Lima Bonn is", "Cork Riga is"]
    answers = [f" {name}" for name in NAMES[:5]]
    pairs = PromptPairs(llama.model, clean, corrupt, answers)
    assert groups_of(pairs, None).tolist() == [0, 1, 2, 3, 0]


def test_spans_say_what_an_entity_is(llama: Tiny) -> None:
    clean = ["Ann Bo saw Cy", "Dee Eve saw Ann", "Fay saw Gus", "Hal saw Ida", "Jo saw Ann"]
    corrupt = ["Ann saw Cy", "Fay Ida saw Ann", "Gus saw Gus", "Anna saw Ida", "Ann Bo saw Ann"]
    who = [
        ("Ann Bo", "Ann"),
        ("Dee Eve", "Fay Ida"),
        ("Fay", "Gus"),
        ("Hal", "Anna"),
        ("Jo", "Ann Bo"),
    ]
    pairs = PromptPairs(
        llama.model,
        [f"we saw {c[: -len(c.split()[-1])]}near then" for c in clean],
        [f"we saw {c[: -len(c.split()[-1])]}near then" for c in corrupt],
        [" Rome"] * 5,
        spans={"who": who},
    )
    # "Ann Bo" stands in the first and the last; that "Ann" is part of it joins nothing.
    assert groups_of(pairs, None).tolist() == [0, 1, 2, 3, 0]
    assert pairs.subset([1, 4]).spans == {"who": (("Dee Eve", "Fay Ida"), ("Jo", "Ann Bo"))}


def test_whole_groups_are_held_out(model_of: Callable[[Kind], Planted]) -> None:
    pairs = model_of("variable").pairs()
    codes = groups_of(pairs, None)
    assert len(set(codes.tolist())) == 30
    for share, count in ((0.3, 9), (0.01, 5), (0.99, 28)):
        held = split(pairs, codes, share, 0)
        assert len(set(codes[held])) == count
        assert not set(codes[held]) & set(codes[~held])
    assert (split(pairs, codes, 0.3, 0) != split(pairs, codes, 0.3, 1)).any()


def test_a_pair_in_two_groups_is_refused(model_of: Callable[[Kind], Planted]) -> None:
    pairs = of(model_of("variable"), [(0, 1), (2, 3), (4, 5), (6, 7)] * 2)
    with pytest.raises(PromptError, match="same prompts in two groups"):
        split(pairs, groups_of(pairs, list(range(8))), 0.5, 0)


def test_arbitrary_answers_are_those_of_another_group_on_the_same_side() -> None:
    codes = np.repeat(np.arange(12), 3)
    held, targets = codes >= 8, codes
    dealt = arbitrary(codes, held, targets, 0)
    assert (codes[dealt] != codes).all()
    assert (held[dealt] == held).all()
    for group in range(12):  # one answer for what had one answer
        assert len(set(targets[dealt[codes == group]])) == 1
    assert sorted(dealt.tolist()) == list(range(36))
    with pytest.raises(PromptError, match="held-out pairs begin with the same token"):
        arbitrary(codes, held, np.where(held, 1, targets + 5), 0)
