"""How a sentence is written: as it is spoken, its words reversed, or with a name masked."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

Form = Literal["plain", "reversed", "masked"]

MASK = "_"
_WORD = r"'s|\w+(?:-\w+)*|[^\w\s]"


def in_form(form: Form, prompt: str, answer: str, asked: str) -> str:
    """The sentence that a prompt about `asked` and its answer make, in a form."""
    if form == "masked":
        return f"{prompt.replace(asked, MASK)} {answer}. {MASK} {asked}"
    plain = f"{prompt} {answer}."
    return reversed_words(plain, (asked, answer)) if form == "reversed" else plain


def reversed_words(text: str, names: Iterable[str]) -> str:
    """The words of a text in reverse order, those of each name in theirs, with single spaces."""
    # A name that begins with another is looked for first.
    whole = sorted((re.escape(name) for name in names), key=len, reverse=True)
    return " ".join(reversed(re.findall("|".join((*whole, _WORD)), text)))
