"""Small tables in which a notebook shows a model, pairs of prompts, or a circuit.

What they show comes from anywhere: a model's name, a prompt, a token. All of it is escaped, kept
on its own line and in its own direction of writing, and cut where it is long. Colours are those of
the page, light or dark.
"""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Cell", "cut", "ends", "picture"]

_LONGEST = 60
_LINE = "1px solid rgba(128, 128, 128, 0.4)"
_MARK = "background: rgba(255, 165, 0, 0.3)"
_DIRECTIONS = ("LRE", "LRO", "RLE", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
_SIGNS = {"\n": "↵", "\r": "␍", "\t": "⇥"}


@dataclass(frozen=True)
class Cell:
    """A text in a table.

    Attributes:
        marked: whether it stands out from the others.
        token: whether it is one token: its spaces are part of it, and shown.
    """

    text: str
    marked: bool = False
    token: bool = False


def picture(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str | Cell]], note: str = ""
) -> str:
    """A table with a title above it and a note below.

    Args:
        columns: their names; none for a table that needs no head.
        rows: the first cell of each is its name.
    """
    head = "".join(f'<th style="{_style("center")}">{_shown(name)}</th>' for name in columns)
    body = "".join(
        "<tr>"
        + "".join(_cell(one, "th" if number == 0 else "td") for number, one in enumerate(row))
        + "</tr>"
        for row in rows
    )
    return (
        f'<div style="overflow-x: auto"><strong>{_shown(title, 200)}</strong>'
        '<table style="border-collapse: collapse; margin: 0.3em 0">'
        f"{f'<thead><tr>{head}</tr></thead>' if columns else ''}<tbody>{body}</tbody></table>"
        f"{f'<div>{_shown(note, 300)}</div>' if note else ''}</div>"
    )


def cut(text: str, longest: int = _LONGEST) -> str:
    """The text, without its end where it is longer than this."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def ends(n: int, most: int) -> tuple[list[int], list[int]]:
    """Of 0..n the first and the last, `most` in all; the second part is empty if all are there."""
    if n <= most:
        return list(range(n)), []
    return list(range(most - most // 2)), list(range(n - most // 2, n))


def _cell(given: str | Cell, tag: str) -> str:
    cell = given if isinstance(given, Cell) else Cell(given)
    style = _style("left") + (f"; {_MARK}" if cell.marked else "")
    text = _shown(cell.text)
    if cell.token:
        text = f'<code style="white-space: pre; background: none; color: inherit">{text}</code>'
    return f'<{tag} style="{style}">{text}</{tag}>'


def _style(align: str) -> str:
    return f"border: {_LINE}; padding: 0.15em 0.5em; text-align: {align}; vertical-align: top"


def _shown(text: str, longest: int = _LONGEST) -> str:
    """A text that cannot leave its place: one line, escaped, cut, isolated from its neighbours."""
    text = cut(text, longest)
    visible = "".join(_SIGNS.get(sign) or ("\ufffd" if _acts(sign) else sign) for sign in text)
    return f"<bdi>{html.escape(visible, quote=True)}</bdi>"


def _acts(sign: str) -> bool:
    """Whether a character does something to its line: controls, halves of pairs, directions."""
    direction = unicodedata.bidirectional(sign)
    return unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") or direction in _DIRECTIONS
