"""What was clicked, as plain values: from what the browser and Streamlit tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.selection import SWITCHES


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


def clicked_one(event: Mapping[str, Any] | None) -> int | None:
    """The number behind the point that was clicked: an example, or a layer."""
    return next(iter(lassoed(event)), None)


def lassoed(event: Mapping[str, Any] | None) -> list[int]:
    """The numbers behind the points that were clicked or lie in a lasso."""
    points = ((event or {}).get("selection") or {}).get("points") or []
    found = []
    for point in points:
        data = point.get("customdata")
        if isinstance(data, Mapping):
            data = [data[key] for key in sorted(data, key=int)]
        if isinstance(data, Sequence) and len(data) == 1 and not isinstance(data, str):
            found.append(int(data[0]))
    return found


def picked(event: Mapping[str, Any] | None, shown: Sequence[int]) -> int | None:
    """The example whose row of a table is selected; `shown` are those of the rows."""
    rows = ((event or {}).get("selection") or {}).get("rows") or []
    return shown[rows[0]] if rows and 0 <= rows[0] < len(shown) else None


def column_of(labels: Sequence[str], slots: Mapping[str, int], position: int) -> int | None:
    """Which column of a patching map stands for a token of the clean prompt.

    Args:
        labels: the columns' position labels ("subject -1").
        slots: the clean prompt's token at each label.
    """
    return next(
        (column for column, label in enumerate(labels) if slots.get(label) == position), None
    )
