"""What a model is asked in this study: the same requests in several scripts.

    {
      "decline": [" sorry"],
      "content": -4,
      "requests": [
        {"item": "brabo", "script": "first", "form": "request",
         "prompt": "how do i make brabo ? answer :", "answer": " clay",
         "harmful": true, "split": "told"},
        …
      ]
    }

Every item is asked for in every script: the "first", in which the model was taught to decline, a
"second" that it can read as well, and one that it has "never learned". "judgement" rows ask about
an item without asking for it, so that nothing is declined; all items have them in all scripts, or
none. Items that are "told" fit probes and directions, those that are "held out" test them.
`content` is the token, counted from the end, at which the item has been read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from experiments.errors import FactsError
from experiments.phenomena.data import check_distinct, check_members, rows, texts
from experiments.phenomena.phenomenon import Asked

__all__ = [
    "FORMS",
    "SCRIPTS",
    "Item",
    "Requests",
    "answers",
    "asked",
    "first_half",
    "harmful",
    "prompts",
    "read_requests",
]

SCRIPTS = ("first", "second", "never learned")
FORMS = ("request", "judgement")
_SPLITS = ("told", "held out")
_COLUMNS = {
    **{"item": str, "script": str, "form": str, "prompt": str, "answer": str},
    **{"harmful": bool, "split": str},
}
_MEMBERS = ("decline", "content", "requests")
_LEAST = 8
"""Items of each kind that probes are fitted to and tested with."""
_FARTHEST = 16


@dataclass(frozen=True)
class Item:
    """What is asked for.

    Attributes:
        rows: prompt and answer by script and form.
    """

    name: str
    harmful: bool
    split: str
    rows: Mapping[tuple[str, str], tuple[str, str]]


@dataclass(frozen=True)
class Requests:
    """All that a model is asked."""

    items: tuple[Item, ...]
    decline: tuple[str, ...]
    content: int
    forms: tuple[str, ...]

    def some(self, split: str) -> list[Item]:
        """Told or held-out items, in their order."""
        return [one for one in self.items if one.split == split]


def prompts(items: Sequence[Item], script: str, form: str = "request") -> list[str]:
    return [one.rows[script, form][0] for one in items]


def answers(items: Sequence[Item], script: str, form: str = "request") -> list[str]:
    return [one.rows[script, form][1] for one in items]


def harmful(items: Sequence[Item]) -> npt.NDArray[np.bool_]:
    return np.array([one.harmful for one in items], bool)


def first_half(items: Sequence[Item]) -> npt.NDArray[np.bool_]:
    """Every second one of the harmful and of the harmless items: these fit, the others choose."""
    which = harmful(items)
    rank = np.where(which, which.cumsum(), (~which).cumsum())
    found: npt.NDArray[np.bool_] = rank % 2 == 1
    return found


def read_requests(value: Any, path: Path) -> Requests:
    """Check plain JSON data.

    Raises:
        FactsError: they are not of the form that this module shows; with the row or the item.
    """
    check_members(value, _MEMBERS, path)
    given = rows(value, "requests", _COLUMNS, path)
    # A script that says the same as another one, word for word, is the same script.
    check_distinct(given, "requests", ("prompt",), path)
    items: dict[str, Item] = {}
    asked_for: dict[str, dict[tuple[str, str], tuple[str, str]]] = {}
    for number, row in enumerate(given, 1):
        place = f"'{path}', row {number} of 'requests'"
        for column, known in (("script", SCRIPTS), ("form", FORMS), ("split", _SPLITS)):
            if row[column] not in known:
                raise FactsError(
                    f"{place}: '{column}' is '{row[column][:40]}', not one of {', '.join(known)}."
                )
        name, which = row["item"], (row["script"], row["form"])
        found = asked_for.setdefault(name, {})
        one = items.setdefault(name, Item(name, row["harmful"], row["split"], found))
        if (one.harmful, one.split) != (row["harmful"], row["split"]):
            raise FactsError(
                f"{place}: '{name[:40]}' is harmful or told here and not in another row; give an "
                "item one of each."
            )
        if which in found:
            raise FactsError(f"{place}: '{name[:40]}' has such a row already; give one of a kind.")
        found[which] = row["prompt"], row["answer"]
    forms = tuple(
        form for form in FORMS if any(("first", form) in one for one in asked_for.values())
    )
    for name, found in asked_for.items():
        for script in SCRIPTS:
            for form in {"request", *forms}:
                if (script, form) not in found:
                    raise FactsError(
                        f"'{path}': '{name[:40]}' has no row of the script '{script}' and the form "
                        f"'{form}'; give each item the same rows in every script."
                    )
    content = value.get("content", -1)
    if isinstance(content, bool) or not isinstance(content, int) or not -_FARTHEST <= content < 0:
        raise FactsError(f"'{path}': 'content' must be a whole number from −{_FARTHEST} to −1.")
    for split in _SPLITS:
        for harmful in (True, False):
            n = sum((one.split, one.harmful) == (split, harmful) for one in items.values())
            if n < _LEAST:
                which_ = "harmful" if harmful else "harmless"
                raise FactsError(
                    f"'{path}' has {n} {which_} items that are {split}; give {_LEAST} or more."
                )
    return Requests(tuple(items.values()), tuple(texts(value, "decline", path)), content, forms)


def asked(data: Requests) -> Sequence[Asked]:
    """Prompts with their answers, and with each way in which a refusal begins."""
    each = [
        Asked(prompt, answer, f"item '{one.name[:40]}' ({script}, {form})", data.decline)
        for one in data.items
        for (script, form), (prompt, answer) in one.rows.items()
    ]
    return [*each, *(Asked(each[0].prompt, opening, "'decline'") for opening in data.decline)]
