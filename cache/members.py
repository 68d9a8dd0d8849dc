"""JSON in which no member stands twice in an object; Python would take the last one silently."""

from __future__ import annotations

from typing import Any

__all__ = ["StandsTwice", "each_once"]


class StandsTwice(ValueError):
    """A member stands twice in one object.

    Attributes:
        member: its name.
    """

    def __init__(self, member: str) -> None:
        super().__init__(f"'{member[:60]}' stands twice in one object")
        self.member = member


def each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The members of an object, for `json.loads(…, object_pairs_hook=each_once)`.

    Raises:
        StandsTwice: one stands there twice.
    """
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise StandsTwice(name)
        found[name] = value
    return found
