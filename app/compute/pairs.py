"""From stored results and typed prompts to a pair of prompts for patching."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from app.selection import LONGEST_TEXT
from experiments.explorer import Pair, Way, pair_in
from interp.errors import PromptError

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from interp.model.model import Model
    from interp.prompts.pairs import PromptPairs


def build(model: Model, pairs: Sequence[Pair]) -> PromptPairs:
    """Several pairs that name the same part of the prompt, as the instruments take them."""
    from interp.prompts.pairs import PromptPairs

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
        PromptError: something is missing or too long, or the prompts are the same.
    """
    for what, text in (
        ("clean prompt", clean),
        ("corrupted prompt", corrupt),
        ("answer", answer),
        ("foil", foil),
    ):
        if not text.strip():
            raise PromptError(f"The {what} is empty; type one.")
        if len(text) > LONGEST_TEXT:
            raise PromptError(
                f"The {what} has {len(text):,} characters; at most {LONGEST_TEXT:,} are taken here."
            )
    clean, corrupt = clean.rstrip(" "), corrupt.rstrip(" ")
    return Pair(
        clean,
        corrupt,
        _spaced(answer),
        _spaced(foil),
        changed_words(clean, corrupt),
        span="changed",
    )


def check_length(*texts: str) -> None:
    """Raise a PromptError where a typed text is longer than is taken here: every token of it is
    read at every layer."""
    for text in texts:
        if len(text) > LONGEST_TEXT:
            raise PromptError(
                f"A text of {len(text):,} characters is too long; at most {LONGEST_TEXT:,} are "
                "taken here."
            )


def answer_typed(text: str) -> str | None:
    """An answer that the user typed, with the space that stands between words; None if empty."""
    return _spaced(text) if text.strip() else None


def swapped(prompt: str, answer: str, foil: str) -> str | None:
    """The prompt with answer and foil in each other's places, as in an indirect-object sentence;
    None where it does not hold both as whole words."""
    names = {answer.strip(): foil.strip(), foil.strip(): answer.strip()}
    if len(names) < 2 or not all(name and _occurrences(prompt, name) for name in names):
        return None
    # The longer first: one name may stand at the beginning of the other.
    either = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    found = re.sub(rf"(?<!\w)(?:{either})(?!\w)", lambda at: names[at[0]], prompt)
    return None if found == prompt else found


def changed_words(clean: str, corrupt: str) -> tuple[str, str]:
    """The words in which two prompts differ, with as few of those around them as make each stand
    only once in its prompt: by its words a part of a prompt is found.

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
    for more in range(head + tail + 1):
        for before in range(min(more, head), max(0, more - tail) - 1, -1):
            start, end = head - before, tail - (more - before)
            found = [_piece(words, start, end) for words in (left, right)]
            if all(
                piece and _occurrences(text, piece) == [at]
                for text, (piece, at) in zip((clean, corrupt), found, strict=True)
            ):
                return found[0][0], found[1][0]
    return clean.strip(), corrupt.strip()


def _piece(words: Sequence[str], start: int, end: int) -> tuple[str, int]:
    """The words from `start` on but the last `end`, and at which character they begin."""
    piece = "".join(words[start : len(words) - end])
    return piece.strip(), len("".join(words[:start])) + len(piece) - len(piece.lstrip())


def _occurrences(text: str, piece: str) -> list[int]:
    """Where a piece of whole words stands in a text, as `PromptPairs` looks for it."""
    left = r"(?<!\w)" if re.match(r"\w", piece) else ""
    right = r"(?!\w)" if re.match(r"\w", piece[-1]) else ""
    # Looking ahead finds places that overlap, too.
    return [found.start() for found in re.finditer(f"(?={left}{re.escape(piece)}{right})", text)]


def stored(result: xr.Dataset, example: int, table: pd.DataFrame, way: Way) -> Pair:
    """The pair behind one example of a run's patching map."""
    clean, corrupt = (str(result[f"{run}_prompt"].values[example]) for run in ("clean", "corrupt"))
    answers = None
    if {"answer", "foil"} <= set(result.coords):
        answers = str(result["answer"].values[example]), str(result["foil"].values[example])
    return pair_in(table, way, clean, corrupt, answers)


@dataclass(frozen=True)
class Aligned:
    """The tokens of a pair's two prompts, and which stands for which.

    Attributes:
        clean, corrupt: the tokens of either prompt.
        places: the token of the clean and of the corrupted prompt at each label of the position
            axis; none where only other pairs have one.
    """

    clean: tuple[str, ...]
    corrupt: tuple[str, ...]
    places: Mapping[str, tuple[int, int]]

    @property
    def slots(self) -> dict[str, int]:
        """The clean prompt's token at each label."""
        return {label: place for label, (place, _) in self.places.items()}

    @property
    def unmatched(self) -> tuple[list[int], list[int]]:
        """The tokens of the clean and of the corrupted prompt that have no counterpart."""
        matched = list(self.places.values())
        return (
            [i for i in range(len(self.clean)) if i not in {place for place, _ in matched}],
            [i for i in range(len(self.corrupt)) if i not in {place for _, place in matched}],
        )


def aligned(model: Model, pair: Pair) -> Aligned:
    """How the two prompts of a pair are aligned. Raises PromptError where they cannot be."""
    pairs = build(model, [pair])
    alignment = pairs.alignment
    both = zip(alignment.labels, alignment.clean[0], alignment.corrupt[0], strict=True)
    return Aligned(
        tuple(model.token_strings(pairs.clean.row(0))),
        tuple(model.token_strings(pairs.corrupt.row(0))),
        {label: (int(clean), int(corrupt)) for label, clean, corrupt in both if clean >= 0},
    )


def every_token(result: xr.Dataset, pair: Aligned) -> tuple[xr.Dataset, dict[str, int]]:
    """The map of one pair with all tokens of its clean prompt, in their order.

    Args:
        result: of `sweep`, of one example and with the labels of `pair`.

    Returns:
        The map, NaN where a token has no counterpart in the corrupted prompt, and the token of the
        clean prompt at each of its labels.
    """
    import xarray as xr

    if "position_label" not in result.coords:
        return result, pair.slots
    labels = [str(label) for label in result["position_label"].values]
    column = {pair.slots[label]: i for i, label in enumerate(labels) if label in pair.slots}
    tokens = range(len(pair.clean))
    there = xr.DataArray([token in column for token in tokens], dims="position")
    shown = result.isel(position=[column.get(token, 0) for token in tokens])
    names = [labels[column[token]] if token in column else f"token {token}" for token in tokens]
    shown = shown.assign(
        {
            str(name): values.where(there, False if values.dtype == bool else np.nan)
            for name, values in shown.data_vars.items()
            if "position" in values.dims
        }
    ).assign_coords(
        position=np.arange(len(names)),
        position_label=("position", names),
        clean_token=(("example", "position"), [list(pair.clean)]),
        corrupt_token=shown["corrupt_token"].where(there, ""),
    )
    return shown, {name: token for token, name in enumerate(names)}


def _spaced(answer: str) -> str:
    answer = answer.rstrip()
    return answer if answer[:1].isspace() or not answer[:1].isalnum() else f" {answer}"


def _words(text: str) -> list[str]:
    """Words with the space before them, and marks on their own; together the whole text."""
    return re.findall(r"\s*\w+|\s*[^\w\s]|\s+", text)
