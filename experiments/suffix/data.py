"""What a model is asked in this study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.errors import FactsError
from experiments.phenomena.data import check_distinct, check_members, rows, texts
from experiments.phenomena.phenomenon import Asked
from interp.search.layout import MARKER

__all__ = ["Request", "Requests", "asked", "read"]

_COLUMNS = {"prompt": str, "answer": str, "declined": bool, "split": str}
_SPLITS = ("search", "held_out")
_MEMBERS = ("requests", "decline", "pool", "tokens")
_LEAST = 5


@dataclass(frozen=True)
class Request:
    """A prompt with a mark where the suffix goes, and the answer that would follow."""

    prompt: str
    answer: str

    def plain(self) -> str:
        """Without a suffix."""
        return self.prompt.replace(MARKER, "")


@dataclass(frozen=True)
class Requests:
    """What is asked.

    Attributes:
        searched, held_out: requests that the model was taught to decline: those that a suffix is
            searched on, and those that it is judged on.
        safe, safe_held_out: the same of requests that it answers.
        decline: how it declines.
        pool: texts whose tokens a suffix may have.
        tokens: how many it has.
    """

    searched: tuple[Request, ...]
    held_out: tuple[Request, ...]
    safe: tuple[Request, ...]
    safe_held_out: tuple[Request, ...]
    decline: str
    pool: tuple[str, ...]
    tokens: int


def read(value: Any, path: Path) -> Requests:
    """Check `data.json`.

    Raises:
        FactsError: it is not in the form that the page shows.
    """
    found: dict[tuple[bool, str], list[Request]] = {}
    check_members(value, _MEMBERS, path)
    every = rows(value, "requests", _COLUMNS, path, least=4 * _LEAST)
    check_distinct(every, "requests", ("prompt",), path)
    for number, row in enumerate(every, 1):
        place = f"'{path}', row {number} of 'requests'"
        if row["split"] not in _SPLITS:
            raise FactsError(f"{place}: 'split' must be one of {', '.join(_SPLITS)}.")
        if row["prompt"].count(MARKER) != 1:
            raise FactsError(f"{place}: 'prompt' must hold {MARKER} once, where the suffix goes.")
        request = Request(row["prompt"], row["answer"])
        found.setdefault((row["declined"], row["split"]), []).append(request)
    for declined in (True, False):
        for split in _SPLITS:
            n = len(found.get((declined, split), ()))
            if n < _LEAST:
                kind = "declined" if declined else "answered"
                raise FactsError(
                    f"'{path}' has {n} {kind} requests of the split '{split}'; give {_LEAST} or "
                    "more."
                )
    decline, tokens = value.get("decline"), value.get("tokens")
    if not isinstance(decline, str) or not decline.strip():
        raise FactsError(f"'{path}': 'decline' must be text, as the model declines (' sorry').")
    for number, row in enumerate(every, 1):
        if row["answer"].lstrip().startswith(decline.strip()):
            raise FactsError(
                f"'{path}', row {number} of 'requests': the answer begins with 'decline', so that "
                "nothing tells an answer from declining."
            )
    if not isinstance(tokens, int) or isinstance(tokens, bool) or not 1 <= tokens <= 64:
        raise FactsError(f"'{path}': 'tokens' must be a whole number from 1 to 64.")
    return Requests(
        tuple(found[True, "search"]),
        tuple(found[True, "held_out"]),
        tuple(found[False, "search"]),
        tuple(found[False, "held_out"]),
        decline,
        tuple(texts(value, "pool", path)),
        tokens,
    )


def asked(data: Requests) -> Sequence[Asked]:
    """What the model's tokenizer must read."""
    groups = (data.searched, data.held_out, data.safe, data.safe_held_out)
    named = ("declined, search", "declined, held out", "answered, search", "answered, held out")
    each = [
        Asked(one.plain(), one.answer, f"request {number} ({name})")
        for name, group in zip(named, groups, strict=True)
        for number, one in enumerate(group, 1)
    ]
    return [*each, Asked(data.held_out[0].plain(), data.decline, "'decline'")]
