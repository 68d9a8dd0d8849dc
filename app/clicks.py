"""What was clicked, as plain values: from what the browser and Streamlit tell."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from app.selection import LONGEST_SEARCH, SWITCHES, Node

_WAY = re.compile(r"[a-z][a-z0-9_]{0,30}\Z")
_NODE = re.compile(r"(a[0-9]{1,4}\.h[0-9]{1,5}|m[0-9]{1,4})\Z")
_ENDS = ("input", "logits")
_MOST_PINNED = 100
_LARGEST = 1e9
"""Numbers of examples are smaller, and so are layers."""


def clicked(told: object) -> tuple[str, tuple[int, int]] | None:
    """The figure and the (layer, column) of the cell that was clicked, as the browser tells it.

    None where it tells something else.
    """
    if not isinstance(told, Mapping):
        return None
    name, cell = told.get("figure"), told.get("cell")
    if not isinstance(name, str) or not isinstance(cell, list) or len(cell) != 2:
        return None
    if not all(type(n) in (int, float) and 0 <= n < 1e6 for n in cell):
        return None
    return name, (int(cell[0]), int(cell[1]))


def filters_of(told: object) -> dict[str, str]:
    """Switches as a circuit's drawing tells its filters; those that make no sense are left out."""
    if not isinstance(told, Mapping):
        return {}
    moved = {}
    for name in ("circuit-paths", "circuit-heads"):
        value = told.get(name)
        if isinstance(value, str) and value in SWITCHES[name]:
            moved[name] = value
    strongest = told.get("circuit-strongest")
    if type(strongest) in (int, float) and 0 <= strongest < 1e6:  # type: ignore[operator]
        moved["circuit-strongest"] = str(int(strongest))  # type: ignore[arg-type]
    return moved


def node_of(told: object, also: tuple[str, ...] = ()) -> Node | None:
    """The component that a circuit's drawing or a link tells; None where it makes no sense.

    Args:
        also: names that are meant beside those of heads and MLPs.
    """
    if not isinstance(told, Mapping):
        return None
    way, name, position = (told.get(key) for key in ("way", "node", "position"))
    if not isinstance(way, str) or not _WAY.match(way):
        return None
    if not isinstance(name, str) or not (_NODE.match(name) or name in also):
        return None
    if not isinstance(position, int | float) or isinstance(position, bool):
        return None
    return Node(way, name, int(position)) if -1 <= position < 1e6 else None


def pinned_of(told: object) -> tuple[Node, ...]:
    """Components that were pinned, as a circuit's drawing or a link tells them."""
    if not isinstance(told, Iterable) or isinstance(told, str | Mapping):
        return ()
    found = dict.fromkeys(node_of(one, _ENDS) for one in told)
    return tuple(node for node in found if node is not None)[:_MOST_PINNED]


def sought_of(told: object) -> str:
    """What nodes are searched for, as a circuit's drawing tells it."""
    return told if isinstance(told, str) and len(told) <= LONGEST_SEARCH else ""


def clicked_one(event: Mapping[str, Any] | None) -> int | None:
    """The number behind the point that was clicked: an example, or a layer."""
    return next(iter(lassoed(event)), None)


def lassoed(event: Mapping[str, Any] | None) -> list[int]:
    """The numbers behind the points that were clicked or lie in a lasso; what is none is left
    out, whatever the browser tells."""
    points = ((event or {}).get("selection") or {}).get("points") or []
    found = []
    for point in points:
        data = point.get("customdata") if isinstance(point, Mapping) else None
        if isinstance(data, Mapping):
            data = list(data.values())
        if isinstance(data, Sequence) and len(data) == 1:
            number = data[0]
            if type(number) in (int, float) and 0 <= number < _LARGEST:
                found.append(int(number))
    return found


def picked(event: Mapping[str, Any] | None, shown: Sequence[int]) -> int | None:
    """The example whose row of a table is selected; `shown` are those of the rows."""
    rows = ((event or {}).get("selection") or {}).get("rows") or []
    row = rows[0] if rows else None
    return shown[row] if isinstance(row, int) and 0 <= row < len(shown) else None


def picked_column(event: Mapping[str, Any] | None) -> str | None:
    """The column of a table whose heading was clicked."""
    columns = ((event or {}).get("selection") or {}).get("columns") or []
    return str(columns[0]) if columns else None


def sorted_by(before: str, column: str) -> str:
    """How a table is sorted after a click on a column's heading: from the smallest up, then from
    the largest down, then as it was.

    Args:
        before: as in `Listed.sort`.
    """
    return {column: f"-{column}", f"-{column}": ""}.get(before, column)


def column_of(labels: Sequence[str], slots: Mapping[str, int], position: int) -> int | None:
    """Which column of a patching map stands for a token of the clean prompt.

    Args:
        labels: the columns' position labels ("subject -1").
        slots: the clean prompt's token at each label.
    """
    return next(
        (column for column, label in enumerate(labels) if slots.get(label) == position), None
    )
