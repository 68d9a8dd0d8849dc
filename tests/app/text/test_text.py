"""Sentences say what happened, and no foreign text becomes markup."""

from __future__ import annotations

import re

import pytest

from app.compute.engine import Token
from app.text import markup, sentences
from experiments.reports.data import csv
from tests.app.material import HOSTILE


def patch(**changes: object) -> str:
    given = {
        "site": "resid_pre",
        "layer": 2,
        "clean_token": " Cruise",
        "corrupt_token": " Pitt",
        "label": "subject -1",
        "head": None,
        "patched": 4.0,
        "clean": 4.3,
        "corrupt": -3.1,
    }
    return sentences.patch(**(given | changes))  # type: ignore[arg-type]


def test_a_patch_is_told_from_where_to_where_and_how_far() -> None:
    said = (
        "Patching the residual stream into block 2 at ‘·Cruise’ over ‘·Pitt’ (subject -1) moves "
        "the logit difference from −3.1 to 4.0"
    )
    assert patch(share=0.96) == f"{said}: 96% of the way to the clean run’s 4.3."
    # Of a single pair no share is told: nothing says that its effect is none of chance.
    assert patch() == f"{said}; in the clean run it is 4.3."


def test_a_head_has_no_token() -> None:
    said = patch(site="z", head=5, clean_token=None, corrupt_token=None, label=None)
    assert said.startswith("Patching head 5 of block 2 moves the logit difference")


def test_no_share_is_told_where_there_is_none_and_why() -> None:
    said = patch(share=float("nan"), reason="The effect could be none.")
    assert said.endswith("in the clean run it is 4.3. The effect could be none.")
    assert "%" not in said


def test_tokens_without_a_counterpart_are_named() -> None:
    assert sentences.unmatched([], []) is None
    assert sentences.unmatched([" Lee"], []) == (
        "‘·Lee’ of the clean prompt has no counterpart in the other prompt, so nothing is patched "
        "for it; grey columns stand for those of the clean one."
    )
    both = sentences.unmatched(["a"] * 9, ["b"])
    assert both is not None
    assert "and 3 more of the clean prompt and ‘b’ of the corrupted prompt have no" in both


def test_the_wrong_way_is_a_negative_share() -> None:
    assert "−50% of the way" in patch(share=-0.5)


@pytest.mark.parametrize(
    ("layer", "rank", "expected"),
    [
        (0, None, "At the embedding, at ‘·Tom’ (token 3), the next token would be ‘x’ (36%)."),
        (1, 0, "After 1 block (block 0), at"),
        (2, 41, "After 2 blocks (0 and 1), at"),
        (3, 0, "After 3 blocks (0 to 2), at"),
        # As in the report and the figures, the first choice has rank 1.
        (2, 0, "is at rank 1."),
        (2, 41, "is at rank 42."),
    ],
)
def test_a_lens_cell_is_told(layer: int, rank: int | None, expected: str) -> None:
    assert expected in sentences.lens(layer, 3, " Tom", "x", 0.363, rank)


def test_a_circuit_is_told_beside_random_ones_and_its_complement() -> None:
    assert sentences.circuit(40, 262, 0.958, [0.0, 0.12, 0.3], -0.004) == (
        "40 of 262 edges do 95.8% of what the whole model does; random circuits of that size 14% "
        "on average (each of them between 0% and 30%), all other edges −0.4%."
    )
    assert "do 95.8% of what the whole model does (95% interval 80% to 110%);" in sentences.circuit(
        40, 262, 0.958, [0.0], 0.0, interval=(0.8, 1.1)
    )
    reason = "No share can be told: the effect, 0.85 [−0.04, 1.74] logits, could be none."
    said = sentences.circuit(38, 262, float("nan"), [0.1], 0.0, reason=reason)
    assert said == f"These are 38 of 262 edges. {reason}"
    assert "%" not in said


def tags(text: str) -> set[str]:
    return {tag.split()[0].strip("</>") for tag in re.findall(r"<[^>]*>", text)}


def test_hostile_text_is_escaped_everywhere() -> None:
    pieces = [
        markup.strip([Token(HOSTILE, HOSTILE), Token('"><script>')], selected=0),
        markup.legend([HOSTILE]),
        markup.next_tokens([HOSTILE], [0.5], colour="#000000", answer=HOSTILE, heading=HOSTILE),
        markup.sentence(HOSTILE),
        markup.hint(HOSTILE),
        markup.way(HOSTILE, "#000000"),
        markup.heading(HOSTILE, HOSTILE),
        markup.chosen([(HOSTILE, HOSTILE)]),
        markup.shares([(HOSTILE, 0.5, "#000000", HOSTILE)]),
        markup.verdict(
            "supported",
            name=HOSTILE,
            claim=HOSTILE,
            statement=HOSTILE,
            estimate=1.0,
            low=0.0,
            high=2.0,
            unit=HOSTILE,
            n=3,
            control=HOSTILE,
            confidence=0.95,
        ),
    ]
    for piece in pieces:
        assert tags(piece) <= {
            *("div", "span", "p", "b", "i", "dl", "dt", "dd", "h2", "h3", "abbr")
        }
        assert "&lt;img" in piece


def test_every_mark_of_markdown_is_escaped() -> None:
    text = "![x](http://a.b) **bold** :red[x] $x$ <b> `c` # h"
    shown = markup.plain(text)
    assert re.sub(r"\\(.)", r"\1", shown).replace("\u2060", "") == text
    assert not re.findall(r"(?<!\\)[\[\]*_`$<>#!:]", shown)


@pytest.mark.parametrize(
    "text",
    ["https://a.b/c", "HTTP://a.b", "www.a.b", "me@a.b", ":material/delete:", ":streamlit:", ":x:"],
)
def test_nothing_is_made_a_link_or_a_picture_after_it_was_escaped(text: str) -> None:
    """Streamlit looks for these in what is shown, where no escape is left: seen in Chromium."""
    later = r"https?://|www\.|@[\w-]|:[\w/+-]+:"
    assert re.search(later, text, re.IGNORECASE)
    shown = re.sub(r"\\(.)", r"\1", markup.plain(f"There is no run '{text}' here: choose one."))
    assert not re.search(later, shown, re.IGNORECASE)
    assert shown.replace("\u2060", "") == f"There is no run '{text}' here: choose one."


def test_no_line_of_a_text_begins_a_heading_or_code() -> None:
    assert markup.plain("a\n===\n\n    b &lt;") == r"a \=\=\= b \&lt;"


def test_probabilities_cannot_break_out_of_the_bars() -> None:
    row = markup.next_tokens(["a", "b", "c"], [float("nan"), 2.0, -1.0], colour="#000000")
    widths = [float(w) for w in re.findall(r"width:([\d.]+)%", row)]
    assert widths == [0.0, 100.0, 0.0]
    row = markup.shares([("x", share, "#000000", "") for share in (float("nan"), 1.2, -0.1)])
    assert re.findall(r"width:([\d.]+)%", row) == ["0.0", "100.0", "0.0"]
    assert re.findall(r">([^<>]+)</span>", row)[1::2] == ["–", "120%", "−10%"]


@pytest.mark.parametrize(
    ("value", "share", "expected"),
    [(0.583, True, "58%"), (-0.148, False, "−0.15"), (0.0, True, "0%"), (-0.0001, True, "0%")],
)
def test_shares_are_percentages(value: float, share: bool, expected: str) -> None:
    assert markup.quantities([value], share) == [expected]


def test_numbers_that_are_told_together_have_as_many_decimals_as_the_largest_needs() -> None:
    assert markup.quantities((-0.0006, -0.0021, 0.0012)) == ["−0.0006", "−0.0021", "0.0012"]
    assert markup.quantities((0.06, -0.03, 0.14)) == ["0.06", "−0.03", "0.14"]
    assert markup.quantities((0.0, 0.0, 0.0)) == ["0.00", "0.00", "0.00"]
    assert markup.quantities((float("nan"), 12.0)) == ["nan", "12.00"]


def test_csv_holds_no_formulas_and_numbers_stay_numbers() -> None:
    import pandas as pd

    table = pd.DataFrame({"token": ["=1+1", "@x", "ok"], "value": [-1.5, 2.0, 3.0]})
    lines = csv(table).decode("utf-8-sig").splitlines()
    assert lines == ["token,value", "'=1+1,-1.5", "'@x,2.0", "ok,3.0"]


def test_prompts_stand_token_above_token() -> None:
    clean, corrupt = ["<s>", "Mary", "Lee", HOSTILE, "is"], ["<s>", "Bea", "is"]
    shown = markup.aligned(
        clean, corrupt, [(0, 0, "start -1"), (3, 1, "subject -1"), (4, 2, "end -1")]
    )
    assert "<img" not in shown
    columns = re.findall(r'<div title="([^"]*)">(.*?)</div>', shown)
    assert [title for title, _ in columns] == [
        *("start -1", "no counterpart", "no counterpart", "subject -1", "end -1")
    ]
    texts = [re.findall(r">([^<]+)</span>", cells) for _, cells in columns]
    assert texts[1] == ["Mary", "–"]
    assert texts[3] == ["&lt;img src=x onerror=alert(1)&gt;", "Bea"]
    assert texts[4] == ["is", "is"]
    lone = markup.aligned(["a"], ["a", "b"], [(0, 0, "start -1")])
    assert re.findall(r">([^<]+)</span>", lone)[-2:] == ["–", "b"]


@pytest.mark.parametrize(
    "hidden", ["\u202e", "\x00", "\x1b[31m", "\u2066", "\ud800", "\u2028", "\u200b"]
)
def test_nothing_hides_in_text_from_elsewhere(hidden: str) -> None:
    """Neither in markup nor where Markdown is read: marks of direction, control characters."""
    text = f"a prompt{hidden}gnp.exe, with\u00a0space and é, 中, 👍 and\na line"
    for shown in (markup.esc(text), markup.plain(text), markup.hint(text), markup.sentence(text)):
        assert hidden[0] not in shown
        assert "\u00a0" in shown
        assert "中" in shown
        assert "é" in shown
        shown.encode()  # as a page is sent
    assert "⟨U+202E⟩" in markup.esc("a\u202eb")
