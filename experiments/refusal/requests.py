"""What the study asks: requests of three forms, and how a refusal begins.

    {
      "decline": [" sorry"],
      "content": -4,
      "texts": ["sentences that have nothing to do with it", …],
      "requests": [
        {"prompt": …, "answer": …, "form": "request", "harmful": true, "split": "told"}, …
      ]
    }

Forms: "request" is what the model declines where it is harmful; "judgement" is answered, and the
answer tells whether it is harmful; "forbidden" is declined whatever it is about. The last two are
for telling *harmful* and *declines* apart, and may be missing. Requests that are "told" find
directions, those that are "held out" test them. `content` is the token, counted from the end, at
which the last word of what is asked has been read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from experiments.errors import FactsError
from experiments.phenomena.data import check_distinct, check_members, rows, texts
from experiments.phenomena.phenomenon import Asked

__all__ = ["FORMS", "Request", "Requests", "Split", "asked", "read_requests"]

Split = Literal["told", "held out"]
FORMS = ("request", "judgement", "forbidden")
_SPLITS = ("told", "held out")
_COLUMNS = {"prompt": str, "answer": str, "form": str, "harmful": bool, "split": str}
_MEMBERS = ("decline", "content", "texts", "requests")
_LEAST = 8
"""Requests of each kind that directions are found and tested with."""
_FARTHEST = 16


@dataclass(frozen=True)
class Request:
    """One prompt, and what follows it where it is answered."""

    prompt: str
    answer: str
    form: str
    harmful: bool
    split: str


@dataclass(frozen=True)
class Requests:
    """All that a model is asked."""

    requests: tuple[Request, ...]
    decline: tuple[str, ...]
    texts: tuple[str, ...]
    content: int

    def some(self, form: str, *, harmful: bool, split: Split) -> list[Request]:
        """Those of one kind, in their order."""
        kind = (form, harmful, split)
        return [one for one in self.requests if (one.form, one.harmful, one.split) == kind]


def read_requests(value: Any, path: Path) -> Requests:
    """Check plain JSON data.

    Raises:
        FactsError: they are not of the form that this module shows; with the row.
    """
    check_members(value, _MEMBERS, path)
    found = rows(value, "requests", _COLUMNS, path)
    check_distinct(found, "requests", ("prompt",), path)
    for number, row in enumerate(found, 1):
        for column, known in (("form", FORMS), ("split", _SPLITS)):
            if row[column] not in known:
                raise FactsError(
                    f"'{path}', row {number} of 'requests': '{column}' is "
                    f"'{row[column][:40]}', not one of {', '.join(known)}."
                )
    content = value.get("content", -1)
    if isinstance(content, bool) or not isinstance(content, int) or not -_FARTHEST <= content < 0:
        raise FactsError(f"'{path}': 'content' must be a whole number from −{_FARTHEST} to −1.")
    made = Requests(
        tuple(Request(**row) for row in found),
        tuple(texts(value, "decline", path)),
        tuple(texts(value, "texts", path, least=_LEAST, distinct=True)),
        content,
    )
    for split in _SPLITS:
        for harmful in (True, False):
            n = len(made.some("request", harmful=harmful, split=split))  # type: ignore[arg-type]
            if n < _LEAST:
                which = "harmful" if harmful else "harmless"
                raise FactsError(
                    f"'{path}' has {n} {which} requests that are {split}; give {_LEAST} or more."
                )
    return made


def asked(data: Requests) -> Sequence[Asked]:
    """Prompts with their answers, and with each way in which a refusal begins."""
    each = [
        Asked(
            one.prompt,
            one.answer,
            f"row {number} of 'requests'",
            # What is forbidden has no other answer.
            () if one.form == "forbidden" else data.decline,
        )
        for number, one in enumerate(data.requests, 1)
    ]
    first = data.requests[0].prompt
    return [*each, *(Asked(first, opening, "'decline'") for opening in data.decline)]
