"""Aligned slots point at tokens of the right piece, matched from the right."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp import PromptPairs, load_model
from interp.errors import PromptError
from interp.prompts.alignment import Alignment, by_index, by_spans, token_range
from tests.interp.pairs import CASES, prompt_pairs, slots
from tests.interp.tiny import NAMES, PLACES, WORDS, Tiny

SIDES = ("clean", "corrupt")


def test_equal_lengths_are_aligned_token_by_token() -> None:
    found = by_index([3, 5, 1])
    assert found.labels == ("0", "1", "2", "3", "4")
    expected = [[0, 1, 2, -1, -1], [0, 1, 2, 3, 4], [0, -1, -1, -1, -1]]
    np.testing.assert_array_equal(found.clean, expected)
    np.testing.assert_array_equal(found.corrupt, expected)
    assert not np.shares_memory(found.clean, found.corrupt)


def test_pieces_are_aligned_from_the_right_by_hand() -> None:
    found = by_spans(
        clean_lengths=[7, 4],
        corrupt_lengths=[6, 6],
        clean_spans=[{"who": (1, 4)}, {"who": (1, 2)}],
        corrupt_spans=[{"who": (1, 3)}, {"who": (2, 5)}],
    )
    assert found.labels == (
        "start -1",
        "who -2",
        "who -1",
        "end -3",
        "end -2",
        "end -1",
    )
    assert found.spans == ("start", "who", "who", "end", "end", "end")
    np.testing.assert_array_equal(found.clean, [[0, 2, 3, 4, 5, 6], [0, -1, 1, -1, -1, 3]])
    np.testing.assert_array_equal(found.corrupt, [[0, 1, 2, 3, 4, 5], [1, -1, 4, -1, -1, 5]])


def test_two_spans_leave_a_named_piece_between_them() -> None:
    spans = [{"place": (5, 6), "who": (1, 3)}]  # given in another order than they stand in
    found = by_spans([8], [8], spans, spans)
    assert found.labels == (
        "start -1",
        "who -2",
        "who -1",
        "who+ -2",
        "who+ -1",
        "place -1",
        "end -2",
        "end -1",
    )
    np.testing.assert_array_equal(found.clean, [range(8)])


def test_empty_pieces_have_no_slots() -> None:
    found = by_spans([3], [3], [{"a": (0, 2), "b": (2, 3)}], [{"a": (0, 2), "b": (2, 3)}])
    assert found.labels == ("a -2", "a -1", "b -1")


def test_overlapping_spans_are_refused() -> None:
    spans = [{"a": (0, 2), "b": (1, 3)}]
    with pytest.raises(PromptError, match="overlaps"):
        by_spans([4], [4], spans, spans)


def test_spans_in_another_order_are_refused() -> None:
    one, other = {"a": (0, 1), "b": (2, 3)}, {"b": (0, 1), "a": (2, 3)}
    with pytest.raises(PromptError, match="same order"):
        by_spans([4], [4], [one], [other])
    with pytest.raises(PromptError, match="same order"):
        by_spans([4, 4], [4, 4], [one, other], [one, other])


@st.composite
def layouts(draw: st.DrawFn) -> tuple[list[str], list[list[list[int]]]]:
    """Names of spans, and for each example and run the sizes of all pieces, outer ones too."""
    names = draw(st.lists(st.sampled_from("abcd"), min_size=1, max_size=3, unique=True))
    n_examples = draw(st.integers(1, 4))
    size = st.integers(0, 4)
    sizes = [
        [
            [draw(size if piece % 2 == 0 else st.integers(1, 4)) for piece in range(2 * n + 1)]
            for _ in SIDES
        ]
        for n in itertools.repeat(len(names), n_examples)
    ]
    return names, sizes


def cut(names: list[str], sizes: list[int]) -> tuple[int, dict[str, tuple[int, int]]]:
    """Length and spans of one prompt; every second piece is a span."""
    edges = np.cumsum([0, *sizes])
    spans = {name: (int(edges[2 * i + 1]), int(edges[2 * i + 2])) for i, name in enumerate(names)}
    return int(edges[-1]), spans


def align(names: list[str], sizes: list[list[list[int]]]) -> Alignment:
    runs = [[cut(names, example[side]) for example in sizes] for side in range(2)]
    return by_spans(
        [length for length, _ in runs[0]],
        [length for length, _ in runs[1]],
        [spans for _, spans in runs[0]],
        [spans for _, spans in runs[1]],
    )


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(layouts())
def test_each_slot_is_counted_from_the_end_of_its_own_piece(
    layout: tuple[list[str], list[list[list[int]]]],
) -> None:
    names, sizes = layout
    found = align(names, sizes)
    # The pieces in order, named by hand: before the first span, spans and what follows each, end.
    pieces = ["start"]
    for i, name in enumerate(names):
        pieces += [name, f"{name}+" if i < len(names) - 1 else "end"]
    assert len(set(found.labels)) == len(found.labels)
    assert len(found.labels) == len(found) == found.clean.shape[1] == found.corrupt.shape[1]
    for slot, (label, span) in enumerate(zip(found.labels, found.spans, strict=True)):
        name, back = label.rsplit(" -", 1)
        assert name == span
        piece = pieces.index(name)
        for example, both in enumerate(sizes):
            at = [int(found.clean[example, slot]), int(found.corrupt[example, slot])]
            for side in range(2):
                end = sum(both[side][: piece + 1])
                if all(int(back) <= both[s][piece] for s in range(2)):
                    assert at[side] == end - int(back)
                else:
                    assert at[side] == -1
    # Labels stand in the order of the prompt, and so do the tokens of every example.
    order = [
        (pieces.index(label.rsplit(" -", 1)[0]), -int(label.rsplit(" -", 1)[1]))
        for label in found.labels
    ]
    assert order == sorted(order)
    for index in (found.clean, found.corrupt):
        for row in index:
            tokens = row[row >= 0]
            assert (np.diff(tokens) > 0).all()


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(layouts())
def test_as_many_tokens_are_aligned_as_both_pieces_have(
    layout: tuple[list[str], list[list[list[int]]]],
) -> None:
    names, sizes = layout
    found = align(names, sizes)
    for example, (clean, corrupt) in enumerate(sizes):
        shared = sum(min(a, b) for a, b in zip(clean, corrupt, strict=True))
        assert (found.clean[example] >= 0).sum() == shared
        assert ((found.clean[example] >= 0) == (found.corrupt[example] >= 0)).all()


@st.composite
def sentences(draw: st.DrawFn) -> tuple[list[tuple[str, str, str]], list[tuple[str, str, str]]]:
    """A clean and a corrupted sentence, each in two pieces: what is before a span, it, after it."""

    def several(source: tuple[str, ...], low: int, high: int) -> str:
        return " ".join(draw(st.lists(st.sampled_from(source), min_size=low, max_size=high)))

    def sentence() -> list[tuple[str, str, str]]:
        who = several(NAMES, 1, 3)
        where = several(PLACES, 1, 2)
        return [
            (several(WORDS, 0, 2), who, several(WORDS, 1, 2)),
            ("", where, several(WORDS, 1, 2)),
        ]

    return sentence(), sentence()


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(sentences())
def test_aligned_slots_are_tokens_inside_their_span(
    tiny: Tiny, both: tuple[list[tuple[str, str, str]], list[tuple[str, str, str]]]
) -> None:
    texts = [" ".join(part for piece in run for part in piece if part) for run in both]
    pairs = PromptPairs(
        tiny.model,
        [texts[0]],
        [texts[1]],
        [" Gus"],
        spans={
            "who": [(both[0][0][1], both[1][0][1])],
            "where": [(both[0][1][1], both[1][1][1])],
        },
    )
    for side, name in enumerate(SIDES):
        row = getattr(pairs.alignment, name)[0]
        tokens = pairs.prompts(name).row(0)
        assert tokens == tiny.ids(texts[side])
        strings = ["<bos>"] * len(tiny.bos) + texts[side].split()
        for span, number in (("who", 0), ("where", 1)):
            wanted = both[side][number][1].split()
            at = [int(i) for i, s in zip(row, pairs.alignment.spans, strict=True) if s == span]
            assert at, "a span has at least one token in both prompts"
            assert [strings[i] for i in at] == wanted[-len(at) :]
            assert len(at) == min(len(both[s][number][1].split()) for s in range(2))


def test_the_alignment_of_real_prompts_is_the_one_made_by_hand(tiny: Tiny) -> None:
    found, expected = prompt_pairs(tiny).alignment, slots(tiny)
    assert found.labels == tuple(label for label, _ in expected)
    for example in range(len(CASES)):
        for side, name in enumerate(SIDES):
            row = [-1 if at[example] is None else at[example][side] for _, at in expected]
            assert getattr(found, name)[example].tolist() == row


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0, 3, (1, 2)),  # "Tom"; BOS stands at (0, 0) and covers nothing
        (4, 10, (2, 3)),  # "Cruise" belongs to " Cruise"
        (3, 10, (2, 3)),
        (0, 10, (1, 3)),
        (1, 2, (1, 2)),  # inside of a token
        (2, 5, (1, 3)),
        (10, 12, (3, 4)),
    ],
)
def test_a_span_is_every_token_that_shares_a_character_with_it(
    start: int, end: int, expected: tuple[int, int]
) -> None:
    """As byte-level tokenizers cut "Tom Cruise's": a leading space belongs to its token."""
    offsets = [(0, 0), (0, 3), (3, 10), (10, 12)]
    assert token_range("Tom Cruise's", offsets, start, end) == expected


def test_a_space_that_is_a_token_of_its_own_belongs_to_the_name_behind_it() -> None:
    """As SentencePiece cuts " Tom" in one and " Elvis" in several; a line's end stays outside."""
    assert token_range("day Elvis", [(0, 3), (3, 4), (4, 6), (6, 9)], 4, 9) == (1, 4)
    assert token_range("day  Elvis", [(0, 3), (3, 4), (4, 5), (5, 10)], 5, 10) == (1, 4)
    assert token_range("day\nElvis", [(0, 3), (3, 4), (4, 9)], 4, 9) == (2, 3)


@pytest.mark.slow
@pytest.mark.shared
def test_what_stands_before_names_is_matched_however_names_are_cut(shared: Path) -> None:
    model = load_model(shared / "models" / "stories260K")
    pairs = PromptPairs(
        model,
        clean=["One day Tom is"],
        corrupt=["One day Elvis is"],
        answers=[" happy"],
        foils=[" sad"],
        spans={"name": [("Tom", "Elvis")]},
    )
    start = [i for i, span in enumerate(pairs.alignment.spans) if span == "start"]
    assert pairs.alignment.clean[0, start].tolist() == [0, 1, 2]
    assert pairs.alignment.corrupt[0, start].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (None, (0, 1, 2, 3)),
        ([2, 0, 2], (0, 2)),
        (["who"], (1, 2)),
        (["who -1", 0], (0, 2)),
        (["end", "start -1"], (0, 3)),
    ],
)
def test_slots_are_chosen_by_number_label_or_span(chosen: Any, expected: tuple[int, ...]) -> None:
    spans = [{"who": (1, 3)}]
    assert by_spans([4], [4], spans, spans).slots(chosen) == expected


@pytest.mark.parametrize("chosen", [[4], [-1], ["where"], ["who -3"], []])
def test_slots_that_are_not_there_are_refused(chosen: list[Any]) -> None:
    spans = [{"who": (1, 3)}]
    with pytest.raises(PromptError, match=r"out of range|no positions"):
        by_spans([4], [4], spans, spans).slots(chosen)
