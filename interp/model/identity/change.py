"""Something about a model that its weights do not tell."""

from __future__ import annotations

import functools
import itertools
import weakref
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["PLAIN", "Change", "change", "serial"]

PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class Change:
    """Something about a model that its weights do not tell.

    Attributes:
        what: for people, as in "… because WHAT".
        token: the same in this process as long as the change stays, and no other's.
        hook: whether it is a hook, which can be taken away.
        momentary: whether an instrument has placed it for as long as it runs.
    """

    what: str
    token: str
    hook: bool = False
    momentary: bool = False


def change(what: str, *token: object) -> Change:
    """A change that `what` and the rest of the token tell from others."""
    return Change(what, " ".join(map(str, (what, *token))))


_NUMBERS = itertools.count()
_SERIALS: dict[int, tuple[Callable[[], object] | None, int | str]] = {}


def serial(value: object) -> int | str:
    """A number for an object that no other object gets in this process; plain values are theirs."""
    if isinstance(value, (*PLAIN, tuple)):
        return repr(value)
    ref, number = _SERIALS.get(id(value), (None, -1))
    if ref is not None and ref() is value:
        return number
    try:
        alive: Callable[[], object] = weakref.ref(value)
    except TypeError:  # it is kept, so that nothing else comes to bear its identity
        alive = functools.partial(lambda kept: kept, value)
    _SERIALS[id(value)] = alive, next(_NUMBERS)
    return _SERIALS[id(value)][1]
