"""Small pieces of HTML, from untrusted text: every name, token and prompt goes through `esc`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from app.compute.engine import Token
from app.text import glossary
from experiments.numbers import percent, probability
from interp.figures.drawing import numbers, theme

_NO_SPAN = "var(--ob-line)"
SPAN_COLOURS = {
    "subject": "var(--ob-blue)",
    "changed": "var(--ob-blue)",
    "last": "var(--ob-green)",
    "relation": "var(--ob-rose)",
}
_MADE_LATER = re.compile(r":(?=[\w/+-])|@(?=[\w-])|www(?=\.)", re.IGNORECASE)
"""Before what Streamlit makes links, pictures and icons of in text that was escaped."""
BADGES = {
    "supported": ("good", "Supported"),
    "rejected": ("bad", "Rejected"),
    "undecided": ("open", "Undecided"),
}

CSS = f"<style>{(Path(__file__).parents[1] / 'static' / 'page.css').read_text('utf-8')}</style>"
"""The style sheet; its colours come from `app.text.colours`."""


def esc(text: object) -> str:
    """Text that a browser shows and never interprets, with nothing hidden in it."""
    return glossary.esc(str(text))


def plain(text: object) -> str:
    """Text for `st.error` and other places that read Markdown: every mark of it is escaped.

    Addresses, and names of icons between colons, are looked for after that, in what is shown: a
    sign without width keeps them apart. Lines become one: a line may begin a heading, or code.
    """
    seen = re.sub(r"[ \t\n]+", " ", glossary.unmasked(str(text))).strip(" ")
    seen = _MADE_LATER.sub("\\g<0>\u2060", seen)
    return "".join(f"\\{c}" if c in r"\`*_{}[]()<>#+-.!|~$:&=" else c for c in seen)


def strip(tokens: Sequence[Token], selected: int | None = None) -> str:
    """A prompt, token by token, with a line in the colour of its span under each."""
    pieces = []
    for position, token in enumerate(tokens):
        colour = SPAN_COLOURS.get(token.span, _NO_SPAN)
        on = " on" if position == selected else ""
        shown = esc(theme.visible(token.text)) or "&nbsp;"
        pieces.append(
            f'<span class="ob-token{on}" style="border-bottom-color:{colour}" '
            f'title="token {position}{esc(": " + token.span if token.span else "")}">{shown}</span>'
        )
    return f'<div class="ob-strip">{"".join(pieces)}</div>'


def aligned(
    clean: Sequence[str], corrupt: Sequence[str], matched: Sequence[tuple[int, int, str]]
) -> str:
    """Two prompts, one above the other, token above the token that stands for it.

    Args:
        matched: (token of the clean prompt, token of the corrupted one, name of the place), in
            their order.
    """
    columns: list[tuple[str | None, str | None, str]] = []
    # As in the strip of a question: what is asked about a subject.
    about = any(label.startswith("subject ") for _, _, label in matched)
    here = there = 0
    for a, b, label in (*matched, (len(clean), len(corrupt), "")):
        columns += [(token, None, "no counterpart") for token in clean[here:a]]
        columns += [(None, token, "no counterpart") for token in corrupt[there:b]]
        if a < len(clean) and b < len(corrupt):
            columns.append((clean[a], corrupt[b], label))
        here, there = a + 1, b + 1
    cells = ['<div><span class="k">clean</span><span class="k">corrupted</span></div>']
    for upper, lower, label in columns:
        name = "last" if label == "end -1" else label.rpartition(" ")[0]
        if about and name == "end":
            name = "relation"
        colour = SPAN_COLOURS.get(name, _NO_SPAN)
        pair = "".join(_aligned_token(token, colour) for token in (upper, lower))
        cells.append(f'<div title="{esc(label)}">{pair}</div>')
    return f'<div class="ob-aligned">{"".join(cells)}</div>'


def _aligned_token(token: str | None, colour: str) -> str:
    if token is None:
        return '<span class="ob-gap">–</span>'
    shown = esc(theme.visible(token)) or "&nbsp;"
    return f'<span class="ob-token" style="border-bottom-color:{colour}">{shown}</span>'


def legend(spans: Iterable[str]) -> str:
    """What the colours under the tokens stand for."""
    known = [span for span in dict.fromkeys(spans) if span]
    items = [
        f'<i style="background:{SPAN_COLOURS.get(span, _NO_SPAN)}"></i>{esc(span)}'
        for span in known
    ]
    return f'<div class="ob-legend">{" &nbsp; ".join(items)}</div>'


def next_tokens(
    tokens: Sequence[str],
    probabilities: Sequence[float],
    *,
    colour: str,
    answer: str | None = None,
    heading: str | None = None,
) -> str:
    """The likeliest next tokens with bars; the answer's first token is bold."""
    rows = []
    for rank, (token, p) in enumerate(zip(tokens, probabilities, strict=True)):
        shown = esc(theme.shorten(theme.visible(token), 40))
        filled = 100 * max(0.0, min(1.0, p)) if p == p else 0.0
        weight = "font-weight:700" if answer is not None and token == answer else ""
        rows.append(
            f'<span class="r">{numbers.rank(rank)}</span>'
            f'<span class="t" style="{weight}">{shown}</span>'
            f'<span class="ob-bar"><div style="width:{filled:.1f}%;'
            f'background:{colour}"></div></span><span class="p">{esc(probability(p))}</span>'
        )
    head = (
        f'<div class="ob-small" style="margin-bottom:3px">{esc(heading)}</div>' if heading else ""
    )
    return f'{head}<div class="ob-next">{"".join(rows)}</div>'


def shares(rows: Sequence[tuple[str, float, str, str]]) -> str:
    """Shares of 1 as bars; each row is (name, share, colour, what stands beside it)."""
    cells = []
    for name, share, colour, beside in rows:
        filled = 100 * max(0.0, min(1.0, share)) if share == share else 0.0
        cells.append(
            f'<span>{esc(name)}</span><span class="ob-bar"><div style="width:{filled:.1f}%;'
            f'background:{colour}"></div></span><span class="n">'
            f"{percent(share)}</span>"
            f'<span class="n m">{esc(beside)}</span>'
        )
    return f'<div class="ob-shares">{"".join(cells)}</div>'


def verdict(
    outcome: str,
    *,
    name: str,
    claim: str,
    statement: str,
    estimate: float | None,
    low: float | None,
    high: float | None,
    unit: str,
    n: int,
    control: str,
    confidence: float,
) -> str:
    """A card: badge and claim, the finding, its interval and its control."""
    interval = ""
    if estimate is not None:
        share = unit.startswith("share")
        ends = () if low is None or high is None else (low, high)
        said, *told = quantities((estimate, *ends), share)
        value = f"<b>{said}</b>"
        if told:
            value += f" &nbsp;{percent(confidence)} interval {told[0]} to {told[1]}"
        interval = f"{value} {esc(unit)} &nbsp;·&nbsp; n&nbsp;=&nbsp;{n}"
    return (
        f'<div class="ob-card">{badge(outcome)}<b>{esc(name)}</b> '
        f'<span class="ob-small">{esc(claim)}</span>'
        f"<p>{esc(statement)}</p>"
        f'<div class="ob-small">{interval}</div><div class="ob-small">{esc(control)}</div></div>'
    )


def badge(outcome: str) -> str:
    """What a verdict concludes."""
    kind, word = BADGES.get(outcome, BADGES["undecided"])
    return f'<span class="ob-badge {kind}">{word}</span>'


def quantities(values: Sequence[float], share: bool = False) -> list[str]:
    """Numbers to read together: shares as percentages, others with two decimals, or with as many
    as it takes to tell the largest one from 0."""
    if share:
        return [percent(value) for value in values]
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    decimals = 2 if largest == 0 else min(8, max(2, 1 - math.floor(math.log10(largest))))
    return [numbers.plain(value, decimals) for value in values]


def readings(rows: Sequence[tuple[str, tuple[str, str, str, str]]]) -> str:
    """Answers beside each other: each row has a name, the first token and what is said of it, and
    the whole answer and what is said of that."""
    cells = ['<span></span><span class="m">first token</span><span></span>']
    cells.append('<span class="m">whole</span><span></span>')
    for name, (first, of_first, whole, of_whole) in rows:
        cells.append(
            f'<b>{esc(name)}</b><span class="t">{esc(theme.visible(first))}</span>'
            f'<span class="n">{esc(of_first)}</span>'
            f'<span class="t">{esc(theme.visible(whole.strip()))}</span>'
            f'<span class="n">{esc(of_whole)}</span>'
        )
    return f'<div class="ob-readings">{"".join(cells)}</div>'


def sentence(text: str) -> str:
    return f'<div class="ob-sentence">{esc(text)}</div>'


def waiting(text: str, height: int) -> str:
    """The place of what is worked on, so that nothing below moves when it is there.

    Args:
        text: what is done; empty where that is told beside it.
        height: px that it will take, about.
    """
    said = f"{esc(text)} …" if text else ""
    return f'<div class="ob-waiting" role="status" style="min-height:{height}px">{said}</div>'


def hint(text: str) -> str:
    return f'<div class="ob-hint">{glossary.explained(text)}</div>'


def way(title: str, colour: str) -> str:
    """The heading of one of two columns."""
    return f'<h3 class="ob-way" style="border-color:{colour}">{esc(title)}</h3>'


def chosen(rows: Sequence[tuple[str, str]]) -> str:
    """What is open and chosen, a line each."""
    lines = "".join(f"<dt>{esc(name)}</dt><dd>{esc(text)}</dd>" for name, text in rows)
    return f'<dl class="ob-chosen">{lines}</dl>'


def item(name: str, about: str, lines: Sequence[str] = ()) -> str:
    """An entry of a list: its name, what is said of it, and lines below."""
    below = "".join(f'<div class="ob-small">{esc(line)}</div>' for line in lines)
    return (
        f'<div class="ob-item"><b>{esc(theme.visible(name))}</b>'
        f'<div class="ob-small">{esc(about)}</div>{below}</div>'
    )


def heading(text: str, small: str = "") -> str:
    """The heading of a part of a page; terms in what stands below it are explained."""
    below = f'<div class="ob-small">{glossary.explained(small)}</div>' if small else ""
    return f'<h2 class="ob-h2">{esc(text)}</h2>{below}'


def title(text: str, small: str = "") -> str:
    """The heading of a page: there is one on each."""
    below = f'<div class="ob-meta">{glossary.explained(small)}</div>' if small else ""
    return f'<h1 class="ob-title">{esc(text)}</h1>{below}'


def right(text: str = "") -> str:
    """A mark for what is right; sign and words tell it, not only the colour."""
    return f'<b class="ob-right">✓{" " * bool(text)}{esc(text)}</b>'


def wrong(text: str = "") -> str:
    """The same for what is wrong."""
    return f'<b class="ob-wrong">✗{" " * bool(text)}{esc(text)}</b>'


def empty(what: str, todo: str) -> str:
    """What stands in the place of something that is missing.

    Args:
        what: what is missing, as a sentence; escaped here.
        todo: what to do about it, as markup.
    """
    return f'<div class="ob-empty"><b>{esc(what)}</b><br>{todo}</div>'
