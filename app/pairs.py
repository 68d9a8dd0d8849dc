"""From facts and typed prompts to a pair of prompts for patching."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from interp.errors import PromptError

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from interp.model import Model
    from interp.prompts import PromptPairs


@dataclass(frozen=True)
class Pair:
    """A clean and a corrupted prompt with what should follow each.

    Attributes:
        words: what differs, in the clean and in the corrupted prompt.
        span: what to call that part of the prompt.
    """

    clean: str
    corrupt: str
    answer: str
    foil: str
    words: tuple[str, str]
    span: str = "subject"

    def build(self, model: Model) -> PromptPairs:
        """As the instruments take it. Raises PromptError where texts do not fit."""
        return build(model, [self])


def build(model: Model, pairs: Sequence[Pair]) -> PromptPairs:
    """Several pairs that name the same part of the prompt, as the instruments take them."""
    from interp.prompts import PromptPairs

    return PromptPairs(
        model,
        [pair.clean for pair in pairs],
        [pair.corrupt for pair in pairs],
        [pair.answer for pair in pairs],
        [pair.foil for pair in pairs],
        {pairs[0].span: [pair.words for pair in pairs]},
    )


def typed(clean: str, corrupt: str, answer: str, foil: str) -> Pair:
    """A pair from what the user typed.

    Answers get the space that stands between words, where the prompt does not end in one.

    Raises:
        PromptError: something is missing, the prompts are the same, or nothing in them is.
    """
    for what, text in (
        ("clean prompt", clean),
        ("corrupted prompt", corrupt),
        ("answer", answer),
        ("foil", foil),
    ):
        if not text.strip():
            raise PromptError(f"The {what} is empty; type one.")
    clean, corrupt = clean.rstrip(" "), corrupt.rstrip(" ")
    return Pair(
        clean,
        corrupt,
        _spaced(answer),
        _spaced(foil),
        changed_words(clean, corrupt),
        span="changed",
    )


def changed_words(clean: str, corrupt: str) -> tuple[str, str]:
    """The words in which two prompts differ, made longer until each stands there only once.

    Raises:
        PromptError: the prompts are the same.
    """
    if clean == corrupt:
        raise PromptError("The two prompts are the same; change one thing in the corrupted one.")
    left, right = _words(clean), _words(corrupt)
    shortest = min(len(left), len(right))
    head = 0
    while head < shortest and left[head] == right[head]:
        head += 1
    tail = 0
    while tail < shortest - head and left[-1 - tail] == right[-1 - tail]:
        tail += 1
    while True:
        pieces = ("".join(left[head : len(left) - tail]), "".join(right[head : len(right) - tail]))
        words = tuple(piece.strip() for piece in pieces)
        found = [
            text.find(word) == len("".join(all_words[:head])) + len(piece) - len(piece.lstrip())
            for text, word, piece, all_words in zip(
                (clean, corrupt), words, pieces, (left, right), strict=True
            )
        ]
        if all(words) and all(found):
            return words[0], words[1]
        if head > 0:
            head -= 1
        elif tail > 0:
            tail -= 1
        else:
            return clean.strip(), corrupt.strip()


def stored(result: xr.Dataset, example: int, facts: pd.DataFrame, way: str) -> Pair:
    """The pair behind one example of a run's patching map."""
    one = result.isel(example=example)
    return _from_facts(
        facts, way, str(one["clean_prompt"].values), str(one["corrupt_prompt"].values)
    )


def made(model: Model, facts: pd.DataFrame, row: int, way: str, template: str, seed: int) -> Pair:
    """A pair for a fact that the run has not patched, made as the study makes its own.

    Args:
        row: where the fact stands in the table.

    Raises:
        FactsError: no other fact can be its partner.
    """
    from experiments.reversal_curse.prompts import make_pairs

    pairs = make_pairs(model, _facts(facts), [row], _direction(way), template, seed)
    return _from_facts(facts, way, pairs.clean.texts[0], pairs.corrupt.texts[0])


def _from_facts(facts: pd.DataFrame, way: str, clean: str, corrupt: str) -> Pair:
    """The pair of two prompts that stand in the table, each with its own answer.

    Taken from there rather than from a result: the text of a result's answers is put together
    from tokens, which need not bring their spaces along.
    """
    about = "subject" if way == "forward" else "object"
    rows = []
    for prompt in (clean, corrupt):
        found = facts[facts[f"{way}_prompt"] == prompt]
        if found.empty:
            raise PromptError(f"The prompt '{prompt}' is not in this table of facts.")
        rows.append(found.iloc[0])
    return Pair(
        clean,
        corrupt,
        str(rows[0][f"{way}_answer"]),
        str(rows[1][f"{way}_answer"]),
        (str(rows[0][about]), str(rows[1][about])),
    )


def _facts(table: pd.DataFrame) -> list[Any]:
    from experiments.organisms.facts import Fact

    names = ["subject", "object", "relation", "inverse", "split"]
    rows: list[dict[Any, Any]] = table[names].astype(str).to_dict("records")
    return [Fact(**row) for row in rows]


def _direction(way: str) -> Any:
    return "forward" if way == "forward" else "reverse"


def _spaced(answer: str) -> str:
    answer = answer.rstrip()
    return answer if answer[:1].isspace() or not answer[:1].isalnum() else f" {answer}"


def _words(text: str) -> list[str]:
    """Words with the space before them, and marks on their own; together the whole text."""
    return re.findall(r"\s*\w+|\s*[^\w\s]|\s+", text)
