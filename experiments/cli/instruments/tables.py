"""Results of sweeps as a table in the terminal: rows of layers, columns that fit the window."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from experiments.cli.console import output, visible
from interp.errors import PromptError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import plotly.graph_objects as go
    import xarray as xr

__all__ = ["check_finite", "column_names", "grid_table", "maps"]

_PADDING = 2
_WIDEST = 16


def grid_table(
    values: npt.NDArray[Any],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    corner: str = "layer",
    decimals: int = 2,
) -> tuple[Table, str]:
    """Numbers, or texts [row, column], the last row on top, as layers stand in a figure.

    Where the window is too narrow for all columns, those with the largest numbers are shown, or of
    texts the first; the sentence beside the table tells of the others, and is empty where there are
    none.
    """
    import numpy as np

    from interp.figures.drawing.numbers import texts

    heads = [_short(name) for name in columns]
    words = values.dtype.kind not in "fiu"
    if words:
        cells = [[_short(str(text), spaces=True) for text in row] for row in values]
        values = np.zeros(values.shape)
    else:
        cells = [[*row] for row in texts(values, decimals)]
    widths = [max(len(heads[i]), *(len(row[i]) for row in cells)) for i in range(len(columns))]
    space = output().width - max(len(corner), *map(len, rows))
    shown = _fitting(values, widths, space)
    table = Table(box=None, pad_edge=False, padding=(0, _PADDING, 0, 0))
    table.add_column(corner, no_wrap=True)
    for i in shown:
        table.add_column(Text(heads[i]), justify="right", no_wrap=True)
    for number in reversed(range(len(rows))):
        table.add_row(Text(visible(rows[number])), *(Text(cells[number][i]) for i in shown))
    left = len(columns) - len(shown)
    smaller = "" if words else " with smaller numbers"
    return table, f"{left} more columns{smaller} do not fit the window." if left else ""


def check_finite(result: xr.Dataset, runs: Sequence[str]) -> None:
    """Refuse what would be a mean over fewer examples than were given.

    Args:
        runs: the variables that every example has a number in.

    Raises:
        PromptError: an example lacks one.
    """
    for run in runs:
        lost = result[run].isnull().values.nonzero()[0].tolist()
        if lost:
            raise PromptError(
                f"The metric of {len(lost)} of {result[run].size} examples is not finite (the "
                f"first is number {lost[0]}): their logits overflow, or are NaN; leave them out, "
                "or choose --dtype float32."
            )


def column_names(result: xr.Dataset, axes: Sequence[str], prefixes: Mapping[str, str]) -> list[str]:
    """What the columns of some axes, flattened, are called.

    Args:
        prefixes: what stands before the entries of an axis.
    """
    names = []
    for axis in axes:
        label = f"{axis}_label"
        values = result[label if label in result.coords else axis].values
        names.append([f"{prefixes.get(axis, '')}{value}" for value in values])
    return [" ".join(one) for one in itertools.product(*names)]


def maps(
    result: xr.Dataset, draw: Callable[..., go.Figure], shown: Sequence[str]
) -> dict[str, go.Figure]:
    """A map for each entry of the axes of `patched` that a map does not show."""
    rest = [str(axis) for axis in result["patched"].dims if axis not in shown]
    if not rest:
        return {"map": draw(result)}
    found = {}
    for index in itertools.product(*(range(result.sizes[axis]) for axis in rest)):
        one = result.isel(dict(zip(rest, index, strict=True)))
        name = ", ".join(f"{axis.replace('_', ' ')} {one[axis].item()}" for axis in rest)
        found[name] = draw(one, title=name)
    return found


def _fitting(values: npt.NDArray[np.float64], widths: Sequence[int], space: int) -> list[int]:
    """The columns to show, in their order: as many of the largest as fit, at least one."""
    import numpy as np

    size = np.where(np.isfinite(values), np.abs(values), 0.0).max(axis=0, initial=0.0)
    chosen: list[int] = []
    for i in np.argsort(-size, kind="stable").tolist():
        space -= widths[i] + _PADDING
        if space < 0 and chosen:
            break
        chosen.append(i)
    return sorted(chosen)


def _short(name: str, *, spaces: bool = False) -> str:
    text = visible(name, spaces=spaces)
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"
