"""Which interventions a sweep makes: one cell replaces one activation of one example."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Int
from torch import Tensor

from interp.alignment import Alignment
from interp.errors import SiteError
from interp.model import Model
from interp.sites import Site, check, heads_at, site_kind

By = Literal["position", "span", "head"]
Indices = npt.NDArray[np.int64]

# In this order the axes stand in the result, whatever the order in which they were asked for.
_AXES: tuple[By, ...] = ("position", "span", "head")
# Patterns have two position axes, so a cell there would be a source–destination pair.
_SWEPT = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "q", "k", "v", "z")


@dataclass(frozen=True)
class Cells:
    """All interventions of a sweep at one layer; the same are made at every layer.

    Attributes:
        axes: the axes of the result besides example and layer, in order.
        shape: the size of each axis.
        groups: for each index of the position axis the slots of the alignment replaced together.
        heads: the heads, or None where whole activations are replaced.
        example, group, head: indices of each cell [cell] along these axes; head is -1 where
            there are none.
    """

    axes: tuple[By, ...]
    shape: tuple[int, ...]
    groups: tuple[tuple[int, ...], ...]
    heads: tuple[int, ...] | None
    example: Indices
    group: Indices
    head: Indices

    def __len__(self) -> int:
        return len(self.example)

    def to_grid(self, values: npt.NDArray[np.float32], n_examples: int) -> npt.NDArray[np.float32]:
        """Values [cell, layer] as [example, layer, *shape], NaN where there is no cell."""
        position_axis = next((a for a in self.axes if a != "head"), None)
        index = self.example.copy()
        for axis, size in zip(self.axes, self.shape, strict=True):
            index = index * size + (self.group if axis == position_axis else self.head)
        grid = np.full((n_examples * int(np.prod(self.shape)), values.shape[1]), np.nan, np.float32)
        grid[index] = values
        return np.moveaxis(grid.reshape(n_examples, *self.shape, -1), -1, 1)


@dataclass(frozen=True)
class Edit:
    """Entries to copy from the source's activations into rows of a batch, one by one.

    Attributes:
        row, destination: where in the batch [entry].
        example, origin: where in the source's recording [entry].
        head: which head [entry], or None for whole activations.
    """

    row: Int[Tensor, " entry"]
    destination: Int[Tensor, " entry"]
    example: Int[Tensor, " entry"]
    origin: Int[Tensor, " entry"]
    head: Int[Tensor, " entry"] | None

    def write(self, target: Tensor, source: Tensor) -> None:
        """Copy into `target` [row, position, …] in place."""
        if self.head is None:
            target[self.row, self.destination] = source[self.example, self.origin]
        else:
            target[self.row, self.destination, self.head] = source[
                self.example, self.origin, self.head
            ]

    def hook(self, site: str, source: Tensor) -> Callable[[Tensor], Tensor | None]:
        """A hook for `site` that writes this edit."""

        def replace(value: Tensor) -> Tensor | None:
            if site == "resid_mid":
                # The hook sits on the MLP's branch, after the skip connection has kept a reference
                # to the same tensor: only an edit in place reaches both.
                self.write(value, source)
                return None
            value = value.clone()
            self.write(value, source)
            return value

        return replace


def check_by(site: str, by: By | Sequence[By] | None) -> tuple[By, ...]:
    """The axes of a sweep, in the order in which they stand in its result."""
    kind = site_kind(site)
    if site not in _SWEPT:
        raise SiteError(
            f"The site '{site}' can be captured but not swept; sweep one of {', '.join(_SWEPT)}."
        )
    chosen: tuple[str, ...] = (
        (("head",) if kind.per_head else ("position",))
        if by is None
        else ((by,) if isinstance(by, str) else tuple(by))
    )
    unknown = [axis for axis in chosen if axis not in _AXES]
    if unknown or not chosen or {"position", "span"} <= set(chosen):
        raise SiteError(
            f"A sweep cannot run by {by!r}; choose 'position', 'span', 'head' or ('head', "
            "'position')."
        )
    if "head" in chosen and not kind.per_head:
        raise SiteError(f"The site '{site}' has no heads; sweep it by 'position' or 'span'.")
    return tuple(axis for axis in _AXES if axis in chosen)


def check_layers(model: Model, site: str, layers: Sequence[int] | None) -> tuple[int, ...]:
    """The layers to patch, in order; a SiteError where the model lacks one, or the site there."""
    chosen = tuple(range(model.n_layers)) if layers is None else tuple(sorted(set(layers)))
    if not chosen:
        raise SiteError("There are no layers to patch; name at least one, or leave `layers` out.")
    for layer in chosen:
        check(model, Site(site, layer))
    return chosen


def lay_out(
    model: Model,
    alignment: Alignment,
    site: str,
    axes: tuple[By, ...],
    n_examples: int,
    positions: Sequence[int | str] | None = None,
    heads: Sequence[int] | None = None,
) -> Cells:
    """All cells of a sweep; those whose example has no token at the place are left out.

    Raises:
        PromptError: a position that the pairs do not have.
        SiteError: a head that the site does not have, or heads where none are swept.
    """
    slots = alignment.slots(positions)
    groups: tuple[tuple[int, ...], ...]
    if "position" in axes:
        groups = tuple((slot,) for slot in slots)
    elif "span" in axes:
        names = list(dict.fromkeys(alignment.spans[slot] for slot in slots))
        groups = tuple(tuple(s for s in slots if alignment.spans[s] == name) for name in names)
    else:
        groups = (slots,)
    chosen_heads = _heads(model, site, axes, heads)
    example, group, head = np.meshgrid(
        np.arange(n_examples),
        np.arange(len(groups)),
        np.arange(len(chosen_heads)) if chosen_heads else np.array([-1]),
        indexing="ij",
    )
    present = np.stack([(alignment.clean[:, list(g)] >= 0).any(axis=1) for g in groups], axis=1)
    keep = present[example, group].ravel()
    sizes = {"position": len(groups), "span": len(groups), "head": len(chosen_heads or ())}
    return Cells(
        axes,
        tuple(sizes[axis] for axis in axes),
        groups,
        chosen_heads,
        example.ravel()[keep],
        group.ravel()[keep],
        head.ravel()[keep],
    )


def edit_for(
    cells: Cells,
    chosen: Indices,
    destination: Indices,
    origin: Indices,
    offset: int,
    device: torch.device,
) -> Edit:
    """The entries of the cells `chosen`, one row of a batch for each.

    Args:
        destination: token index of each slot in the prompt that is changed [example, slot].
        origin: the same in the prompt that the values come from.
        offset: the first example of the recording; the others count from it.
    """
    slots = [np.asarray(cells.groups[g]) for g in cells.group[chosen]]
    row = np.repeat(np.arange(len(chosen)), [len(s) for s in slots])
    slot = np.concatenate(slots)
    example = cells.example[chosen][row]
    present = destination[example, slot] >= 0
    row, slot, example = row[present], slot[present], example[present]

    def tensor(values: Indices) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(device)

    return Edit(
        tensor(row),
        tensor(destination[example, slot]),
        tensor(example - offset),
        tensor(origin[example, slot]),
        None if cells.heads is None else tensor(np.asarray(cells.heads)[cells.head[chosen]][row]),
    )


def _heads(
    model: Model, site: str, axes: tuple[By, ...], heads: Sequence[int] | None
) -> tuple[int, ...] | None:
    if "head" not in axes:
        if heads is not None:
            raise SiteError("Heads can be chosen only where they are swept: by='head'.")
        return None
    n = heads_at(model, site)
    chosen = tuple(range(n)) if heads is None else tuple(sorted(set(heads)))
    wrong = [head for head in chosen if not 0 <= head < n]
    if wrong or not chosen:
        what = f"Head {wrong[0]} is out of range" if wrong else "There are no heads to patch"
        raise SiteError(f"{what}: {model.name} has heads 0 to {n - 1} at '{site}'.")
    return chosen
