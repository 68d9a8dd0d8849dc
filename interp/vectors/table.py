"""Vectors, and where they go: the table that everything in this room is run from.

Each cell writes one vector at one site, layer and token of one prompt. Cells that share a row are
written into the same run; each row is a run of its own. All rows walk up the blocks together
(`interp.patching.walk`), so that nothing below a change is computed again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cache.arguments import typed
from interp.errors import PromptError, SiteError
from interp.forward.trials import editable
from interp.kinds import site_kind
from interp.model.model import Model
from interp.patching.table import EditTable
from interp.sites import Site, heads_at, shape_at

Indices = npt.NDArray[np.int64]
Numbers = Sequence[int] | Int[Tensor, " cell"] | npt.NDArray[np.int64]


@typed
@dataclass(frozen=True, eq=False)
class Vectors:
    """Vectors, and where each of them goes.

    Attributes:
        site: "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "mlp_act", "q", "k",
            "v" or "z", without a layer.
        values: [vector, d_model], or whatever one token has there ([vector, head, d_head] at sites
            with heads); with `head`, [vector, d_head]. On any device.
        example: the prompt that each cell is about [cell].
        layer: where it is written [cell].
        position: the token, counted from the end of its prompt where negative [cell].
        vector: which of the values is written [cell]; one after the other if left out.
        row: which run each cell belongs to [cell], ascending from 0; a run of its own for each if
            left out.
        head: which head is replaced [cell]; all of them if left out.
    """

    site: str
    values: Float[Tensor, "vector ..."]
    example: Numbers
    layer: Numbers
    position: Numbers
    vector: Numbers | None = None
    row: Numbers | None = None
    head: Numbers | None = None


def tabulate(model: Model, vectors: Vectors, lengths: Sequence[int]) -> tuple[EditTable, Tensor]:
    """The table of edits, and the vectors as it numbers them, in the model's dtype.

    Args:
        lengths: tokens of each prompt.

    Raises:
        SiteError: no such site, layer, head or vector, one where edits are dropped or a token has
            no vector, values of another shape or not finite, or a place that is written twice.
        PromptError: no such prompt or token.
    """
    kind = site_kind(vectors.site)
    if kind.pairwise:
        raise SiteError(f"{kind.plural} are no vectors that could be put in; choose another site.")
    example, layer, position = (
        numbers(getattr(vectors, name), name) for name in ("example", "layer", "position")
    )
    n = len(example)
    vector = np.arange(n) if vectors.vector is None else numbers(vectors.vector, "vector")
    row = np.arange(n) if vectors.row is None else numbers(vectors.row, "row")
    head = None if vectors.head is None else numbers(vectors.head, "head")
    every = [example, layer, position, vector, row, *([] if head is None else [head])]
    if n == 0 or len({len(one) for one in every}) > 1:
        raise SiteError(
            "A table of vectors needs a cell at least, and an example, layer and position (and "
            "vector, row and head, where they are given) for each."
        )
    sites = tuple(Site(vectors.site, int(at)) for at in np.unique(layer))
    editable(model, sites)
    bank = _bank(model, vectors)
    _in_range(vector, len(bank), "vector", "the table has vectors")
    if head is not None:
        _in_range(head, heads_at(model, vectors.site), "head", f"{model.name} has heads")
    position = _positions(example, position, np.asarray(lengths))
    _check_rows(row, example)
    _check_distinct(row, layer, position, head)
    first = np.searchsorted(row, np.arange(row[-1] + 1))
    width = int(max(lengths))
    table = EditTable(
        sites=sites,
        slots=np.eye(width, dtype=np.bool_),
        units={}
        if head is None
        else {vectors.site: np.eye(heads_at(model, vectors.site), dtype=np.bool_)},
        example=example[first],
        row=row,
        site=np.searchsorted([site.layer for site in sites], layer),
        place=position,
        unit=np.zeros_like(row) if head is None else head,
        source=np.zeros_like(row),
        vector=vector,
    )
    return table, bank


def numbers(values: Numbers, name: str) -> Indices:
    """A column of a table.

    Raises:
        SiteError: it holds something else than whole numbers.
    """
    found = np.asarray(values.cpu() if isinstance(values, Tensor) else values)
    if found.ndim != 1 or (found.size and found.dtype.kind not in "iu"):
        raise SiteError(f"Give the {name} of each cell as a whole number, in one list.")
    return found.astype(np.int64)


def _bank(model: Model, vectors: Vectors) -> Tensor:
    site, values = vectors.site, vectors.values.detach()
    shape = shape_at(model, site)
    if vectors.head is not None:
        if not site_kind(site).per_head:
            raise SiteError(f"The site '{site}' has no heads; leave the heads out.")
        shape = shape[1:]
    if tuple(values.shape[1:]) != shape or values.ndim != 1 + len(shape):
        raise SiteError(
            f"Vectors for '{site}' of {model.name} have the shape {('vector', *shape)}, not "
            f"{tuple(values.shape)}.".replace("'vector'", "vector")
        )
    if not values.is_floating_point() or not bool(torch.isfinite(values).all()):
        raise SiteError("Vectors that are put in must be finite numbers; some are not.")
    values = values.to(model.dtype)
    if not bool(torch.isfinite(values).all()):
        raise SiteError(f"Some vectors are too large for {model.dtype}, in which the model runs.")
    if vectors.head is not None:
        # A head's vector stands for every head; which one it is written to, the table says.
        values = values[:, None].expand(-1, heads_at(model, site), -1)
    return values


def _in_range(values: Indices, n: int, name: str, has: str) -> None:
    wrong = values[(values < 0) | (values >= n)]
    if len(wrong):
        raise SiteError(f"{name.capitalize()} {wrong[0]} is out of range: {has} 0 to {n - 1}.")


def _positions(example: Indices, position: Indices, lengths: Indices) -> Indices:
    wrong = np.nonzero((example < 0) | (example >= len(lengths)))[0]
    if len(wrong):
        raise PromptError(
            f"There is no prompt {example[wrong[0]]}: they count from 0 to {len(lengths) - 1}."
        )
    of = lengths[example]
    found = np.where(position < 0, of + position, position)
    wrong = np.nonzero((found < 0) | (found >= of))[0]
    if len(wrong):
        at = wrong[0]
        raise PromptError(
            f"Prompt {example[at]} has {of[at]} tokens and no position {position[at]}."
        )
    return np.asarray(found)


def _check_rows(row: Indices, example: Indices) -> None:
    step = np.diff(row)
    if row[0] != 0 or ((step < 0) | (step > 1)).any():
        raise SiteError("Number the rows of a table from 0 on, without gaps, in ascending order.")
    if (example[1:] != example[:-1])[step == 0].any():
        raise SiteError("A row is one run of one prompt; give its cells the same example.")


def _check_distinct(row: Indices, layer: Indices, position: Indices, head: Indices | None) -> None:
    cell = row
    for index in (layer, position, *([] if head is None else [head])):
        cell = cell * (int(index.max()) + 1) + index
    if len(np.unique(cell)) < len(cell):
        raise SiteError("A row writes to one place twice; leave all but one of these cells out.")
