"""Which axes of a sweep a map has, and what their entries are called."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from interp.errors import SiteError
from interp.figures.drawing import theme
from interp.kinds import KINDS

# The first of these that a sweep has makes the rows of its map.
_ROWS = ("layer", "head", "destination", "position", "span")
_COLUMNS = ("position", "span", "head", "neurons", "destination", "source")

_TITLES = {
    "head": "head",
    "span": "part of the prompt",
    "neurons": "neurons",
    "destination": "attending",
    "source": "attended to",
}
_PREFIXES = {"head": "head ", "neurons": "neurons ", "destination": "from ", "source": "to "}
# Of streams, by where in a block they are.
_BLOCKS = {"before": "into block", "between": "in block", "after": "after block"}


@dataclass(frozen=True)
class Axis:
    """One axis of a map.

    Attributes:
        name: of the dimension.
        keys: the number of each entry, by which clicks tell it: layer, head, or index.
        labels: what each entry is called, not escaped.
        hovers: how each entry is told of in a sentence, escaped.
    """

    name: str
    keys: tuple[int, ...]
    labels: tuple[str, ...]
    hovers: tuple[str, ...]
    title: str

    def __len__(self) -> int:
        return len(self.labels)


def axes_of(
    result: xr.Dataset, example: int | None, *, beside: tuple[xr.Dataset, ...] = ()
) -> tuple[Axis, Axis]:
    """Rows and columns of the map of a sweep.

    Args:
        example: one pair, or None for all.
        beside: other sweeps of the same cells that the map is about, too.

    Raises:
        SiteError: there are more or fewer than two axes.
    """
    found = [str(d) for d in result["patched"].dims if d != "example"]
    rows = next((name for name in _ROWS if name in found), None)
    columns = [name for name in found if name != rows]
    if rows is None or len(columns) != 1 or columns[0] not in _COLUMNS:
        raise SiteError(
            f"A map has two axes, but this sweep has {', '.join(found) or 'none'}; choose one "
            "entry of the others, as in result.sel(position=3)."
        )
    every = (result, *beside)
    return _axis(every, rows, example), _axis(every, columns[0], example)


def _axis(every: tuple[xr.Dataset, ...], name: str, example: int | None) -> Axis:
    result = every[0]
    values = np.atleast_1d(result[name].values)
    names = [str(value) for value in values]
    keys = tuple(int(v) for v in values) if name in ("layer", "head") else tuple(range(len(values)))
    if name == "layer":
        kind = KINDS.get(str(result.attrs.get("site", "")))
        title = _BLOCKS.get(kind.part, "block") if kind else "block"
        return Axis(name, keys, tuple(names), tuple(names), title)
    if f"{name}_label" in result.coords:
        labels = [str(label) for label in result[f"{name}_label"].values]
        names = _tokens(every, labels, example) if name == "position" else labels
        hovers = [
            f"‘{theme.shown(text, 40)}’" + (f" ({theme.escape(label)})" if label != text else "")
            for text, label in zip(names, labels, strict=True)
        ]
    else:
        hovers = [theme.shown(text, 40) for text in names]
    hovers = [_PREFIXES.get(name, "") + hover for hover in hovers]
    title = _TITLES.get(name, "position" if example is None else "token")
    return Axis(name, keys, tuple(map(theme.visible, names)), tuple(hovers), title)


def _tokens(every: tuple[xr.Dataset, ...], labels: list[str], example: int | None) -> list[str]:
    """A pair's own tokens, or those that all prompts share; the label elsewhere."""
    if example is None:
        return [shared_token(every, i) or label for i, label in enumerate(labels)]
    tokens = [str(t) for t in every[0]["clean_token"].isel(example=example).values]
    return [token or label for token, label in zip(tokens, labels, strict=True)]


def shared_token(every: tuple[xr.Dataset, ...], column: int) -> str:
    """The token that all prompts have at a position, or "" where they differ: it says more than
    a label."""
    told = all("clean_token" in result.coords for result in every)
    if not told or sum(result.sizes["example"] for result in every) < 2:
        return ""
    tokens = {
        str(token)
        for result in every
        for run in ("clean", "corrupt")
        for token in result[f"{run}_token"].values[:, column]
    }
    return tokens.pop() if len(tokens) == 1 else ""
