"""Terms are explained where they are read."""

from __future__ import annotations

import html
import re

from app.text import glossary


def words(markup: str) -> str:
    """What a reader sees."""
    return html.unescape(re.sub(r"<[^>]*>", "", markup))


def explained(text: str) -> list[str]:
    return re.findall(r">([^<]*)</abbr>", glossary.explained(text))


def test_the_longest_term_is_explained_at_its_first_mention_only() -> None:
    text = "The logit lens reads logits; a Logit Lens is a lens, and logits are no probes."
    assert explained(text) == ["logit lens", "logits", "probe"]
    assert words(glossary.explained(text)) == text


def test_parts_of_words_are_no_terms() -> None:
    assert explained("cranky hedges, probes-to-be, knowledge, prank") == []


def test_a_term_is_reached_by_keyboard_and_read_aloud() -> None:
    shown = glossary.explained("nats")
    assert 'tabindex="0"' in shown
    assert f'aria-label="nats: {glossary.TERMS["nats"]}"' in shown


def test_text_around_terms_and_in_meanings_is_escaped() -> None:
    text = '<img src=x onerror=alert(1)> rank "&amp;" <b>rank</b>'
    shown = glossary.explained(text)
    assert "<img" not in shown
    assert "<b>" not in shown
    assert words(shown) == text


def test_every_term_finds_itself() -> None:
    for term in glossary.TERMS:
        assert explained(f"so {term}, then") == [term]
