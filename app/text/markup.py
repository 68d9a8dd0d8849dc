"""Small pieces of HTML, from untrusted text: every name, token and prompt goes through `esc`."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from app.compute.engine import Token
from experiments.numbers import percent, probability
from interp.figures.drawing import numbers, theme

SPAN_COLOURS = {
    "subject": "#0072B2",
    "changed": "#0072B2",
    "last": "#009E73",
    "relation": "#CC79A7",
}
BADGES = {
    "supported": ("#00704f", "#e3f4ee", "Supported"),
    "rejected": ("#a34700", "#fdeee2", "Rejected"),
    "undecided": ("#5d6470", "#eeeff2", "Undecided"),
}

CSS = f"""
<style>
.block-container, [data-testid="stMainBlockContainer"] {{
  padding: 1.1rem 1.2rem 4rem; max-width: 1700px;
}}
[data-testid="stSidebarContent"] {{ padding: 0 1rem; }}
[data-testid="stSidebarHeader"] {{ height: 2.2rem; }}
[data-testid="stHeader"] {{ height: 0; min-height: 0; }}
.ob-brand {{ font-size: 20px; font-weight: 700; letter-spacing: -.01em; line-height: 40px; }}
.ob-brand span {{ color: #0072B2; }}
.ob-title {{ font-size: 24px; font-weight: 700; letter-spacing: -.01em; margin: 2px 0 0; }}
.ob-meta, .ob-small {{ font-size: 13px; color: {theme.MUTED}; }}
.ob-h2 {{ font-size: 18px; font-weight: 650; margin: 10px 0 0; }}
.ob-h2 + .ob-small {{ margin-top: 2px; }}
.ob-cards {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(360px, 100%), 1fr));
  gap: 14px; }}
.ob-card {{ border: 1px solid {theme.RULE}; border-radius: 8px; padding: 12px 14px; }}
.ob-card p {{ margin: 6px 0 0; font-size: 14.5px; line-height: 1.45; }}
.ob-card .ob-small {{ margin-top: 6px; }}
.ob-badge {{ display: inline-block; font-size: 12px; font-weight: 650; padding: 1px 9px;
  border-radius: 99px; margin-right: 8px; }}
.ob-strip {{ display: flex; flex-wrap: wrap; gap: 3px; margin: 4px 0; font-family: {theme.MONO};
  font-size: 13px; }}
.ob-token {{ background: #eef0f3; border-bottom: 3px solid transparent; border-radius: 4px;
  padding: 2px 6px; white-space: pre; max-width: 100%; overflow: hidden; text-overflow: ellipsis; }}
.ob-token.on {{ outline: 2px solid {theme.INK}; }}
.ob-aligned {{ display: flex; flex-wrap: wrap; gap: 4px 3px; margin: 4px 0; font-size: 12px;
  font-family: {theme.MONO}; }}
.ob-aligned > div {{ display: flex; flex-direction: column; gap: 3px; min-width: 0; }}
.ob-aligned .k {{ font-family: inherit; color: {theme.MUTED}; padding: 2px 6px 5px 0; }}
.ob-aligned .ob-gap {{ color: {theme.MUTED}; text-align: center; padding: 2px 6px 5px; }}
.ob-legend {{ font-size: 12px; color: {theme.MUTED}; }}
.ob-legend i {{ display: inline-block; width: 10px; height: 3px; vertical-align: middle;
  margin: 0 4px 0 0; }}
.ob-way {{ font-size: 15px; font-weight: 650; margin: 0; padding-left: 10px;
  border-left: 4px solid; line-height: 1.35; }}
.ob-said {{ font-size: 14px; margin: 4px 0 0; }}
.ob-right {{ color: #00704f; }}
.ob-wrong {{ color: #a34700; }}
.ob-next {{ display: grid; grid-template-columns: 22px minmax(60px, 130px) 1fr 52px; gap: 0 8px;
  font-size: 13px; line-height: 21px; align-items: center; }}
.ob-next .t {{ font-family: {theme.MONO}; white-space: pre; overflow: hidden;
  text-overflow: ellipsis; }}
.ob-next .r {{ color: {theme.MUTED}; text-align: right; }}
.ob-next .p {{ text-align: right; font-variant-numeric: tabular-nums; }}
.ob-shares {{ display: grid; grid-template-columns: minmax(110px, auto) 1fr 46px minmax(64px, auto);
  gap: 0 10px; font-size: 13px; line-height: 22px; align-items: center; }}
.ob-shares .n {{ text-align: right; font-variant-numeric: tabular-nums; }}
.ob-shares .m {{ color: {theme.MUTED}; }}
.ob-written {{ display: grid; grid-template-columns: minmax(60px, 160px) 60px; gap: 0 10px;
  font-size: 13px; line-height: 21px; }}
.ob-written .t {{ font-family: {theme.MONO}; white-space: pre; overflow: hidden;
  text-overflow: ellipsis; }}
.ob-written .p {{ text-align: right; font-variant-numeric: tabular-nums; }}
.ob-readings {{ display: grid; grid-template-columns: auto auto auto auto auto;
  justify-content: start; gap: 2px 16px; font-size: 13px; line-height: 22px; margin: 6px 0; }}
.ob-readings .t {{ font-family: {theme.MONO}; white-space: pre; }}
.ob-readings .n {{ white-space: nowrap; font-variant-numeric: tabular-nums; }}
.ob-readings .m {{ color: {theme.MUTED}; }}
.ob-two {{ display: grid; grid-template-columns: 1fr 1fr; gap: 18px; margin: 4px 0 8px; }}
.ob-two > div {{ min-width: 0; }}
[class*="st-key-figure-"] {{ overflow-x: auto; }}
[class*="st-key-figure-lens-"] > *, [class*="st-key-figure-patching-"] > *,
[class*="st-key-figure-circuit-"] > * {{ min-width: 480px; }}
.ob-bar {{ background: #eef0f3; height: 9px; border-radius: 3px; overflow: hidden; }}
.ob-bar div {{ height: 100%; border-radius: 3px; }}
.ob-sentence {{ background: #f5f6f8; border-left: 4px solid {theme.INK}; border-radius: 4px;
  padding: 8px 12px; font-size: 14.5px; line-height: 1.45; margin: 2px 0 6px; }}
.ob-example {{ background: #f5f6f8; border-radius: 8px; padding: 11px 16px; font-size: 15.5px; }}
.ob-chosen {{ display: grid; grid-template-columns: auto 1fr; gap: 3px 10px; font-size: 12.5px;
  margin: 6px 0 !important; padding: 0 !important; }}
.ob-chosen dt {{ color: {theme.MUTED}; }}
.ob-chosen dt, .ob-chosen dd {{ margin: 0 !important; padding: 0 !important;
  overflow-wrap: anywhere; }}
.ob-hint {{ color: {theme.MUTED}; font-size: 13.5px; padding: 6px 0; }}
.ob-told {{ color: {theme.MUTED}; font-size: 12.5px; line-height: 1.5; }}
.ob-told b {{ font-weight: 600; }}
.ob-check {{ display: inline-block; border-radius: 99px; padding: 0 8px; margin: 0 4px 0 0;
  font-size: 12px; cursor: help; }}
.ob-check.good {{ color: #00704f; background: #e3f4ee; }}
.ob-check.bad {{ color: white; background: #b3261e; font-weight: 650; }}
.ob-buttons {{ display: flex; gap: 8px; }}
.ob-button {{ flex: 1; border: 1px solid #c5cad3; border-radius: 8px; background: transparent;
  padding: 7px 12px; font: inherit; color: inherit; cursor: pointer; }}
.ob-button:hover, .ob-button:focus-visible {{ border-color: #0072B2; color: #0072B2; }}
.ob-path {{ font-family: {theme.MONO}; font-size: 14px; white-space: pre-wrap;
  overflow-wrap: anywhere; background: #eef0f3; border-radius: 6px; padding: 10px 14px;
  margin: 10px 0 4px; }}
.ob-table {{ border-collapse: collapse; width: 100%; font-size: 13.5px; line-height: 1.4;
  margin: 4px 0; }}
.ob-table th {{ text-align: left; color: {theme.MUTED}; font-weight: 600; font-size: 12.5px; }}
.ob-table th, .ob-table td {{ border: 0; border-bottom: 1px solid {theme.RULE};
  padding: 7px 12px 7px 0; vertical-align: top; font-variant-numeric: tabular-nums; }}
.ob-differs {{ color: #a34700; font-weight: 700; cursor: help; }}
.ob-pin {{ font-size: 14px; overflow-wrap: anywhere; }}
.ob-grey {{ color: {theme.MUTED}; }}
.ob-empty {{ border: 1px dashed #c5cad3; border-radius: 8px; padding: 28px; color: {theme.MUTED};
  text-align: center; font-size: 15px; line-height: 1.6; }}
.ob-empty b {{ color: {theme.INK}; }}
.ob-empty code {{ font-family: {theme.MONO}; background: #eef0f3; padding: 2px 6px;
  border-radius: 4px; color: {theme.INK}; }}
</style>
"""


def esc(text: object) -> str:
    """Text that a browser shows and never interprets."""
    return html.escape(str(text), quote=True)


def plain(text: object) -> str:
    """Text for `st.error` and other places that read Markdown: every mark of it is escaped."""
    return "".join(f"\\{c}" if c in r"\`*_{}[]()<>#+-.!|~$:" else c for c in str(text))


def strip(tokens: Sequence[Token], selected: int | None = None) -> str:
    """A prompt, token by token, with a line in the colour of its span under each."""
    pieces = []
    for position, token in enumerate(tokens):
        colour = SPAN_COLOURS.get(token.span, "#c5cad3")
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
        colour = SPAN_COLOURS.get(name, "#c5cad3")
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
        f'<i style="background:{SPAN_COLOURS.get(span, "#c5cad3")}"></i>{esc(span)}'
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
        value = f"<b>{quantity(estimate, share)}</b>"
        if low is not None and high is not None:
            value += f" &nbsp;{percent(confidence)} interval "
            value += f"{quantity(low, share)} to {quantity(high, share)}"
        interval = f"{value} {esc(unit)} &nbsp;·&nbsp; n = {n}"
    return (
        f'<div class="ob-card">{badge(outcome)}<b>{esc(name)}</b> '
        f'<span class="ob-small">{esc(claim)}</span>'
        f"<p>{esc(statement)}</p>"
        f'<div class="ob-small">{interval}</div><div class="ob-small">{esc(control)}</div></div>'
    )


def badge(outcome: str) -> str:
    """What a verdict concludes."""
    ink, paper, word = BADGES.get(outcome, BADGES["undecided"])
    return f'<span class="ob-badge" style="color:{ink};background:{paper}">{word}</span>'


def quantity(value: float, share: bool = False) -> str:
    """A number to read: a share as a percentage, others with two decimals."""
    return percent(value) if share else numbers.plain(value)


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


def hint(text: str) -> str:
    return f'<div class="ob-hint">{esc(text)}</div>'


def way(title: str, colour: str) -> str:
    """The heading of one of two columns."""
    return f'<p class="ob-way" style="border-color:{colour}">{esc(title)}</p>'


def chosen(rows: Sequence[tuple[str, str]]) -> str:
    """What is open and chosen, a line each."""
    lines = "".join(f"<dt>{esc(name)}</dt><dd>{esc(text)}</dd>" for name, text in rows)
    return f'<dl class="ob-chosen">{lines}</dl>'


def heading(text: str, small: str = "") -> str:
    below = f'<div class="ob-small">{esc(small)}</div>' if small else ""
    return f'<div class="ob-h2">{esc(text)}</div>{below}'
