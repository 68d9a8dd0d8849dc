"""What an intervention writes: activations of the source, put into rows of a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True)
class Edit:
    """Entries to copy from the source's activations into rows of a batch, one by one.

    Attributes:
        row, destination: where in the batch [entry].
        example, origin: where in the source's recording [entry].
        units: which heads or neurons of each entry; None for whole activations.
    """

    row: Int[Tensor, " entry"]
    destination: Int[Tensor, " entry"]
    example: Int[Tensor, " entry"]
    origin: Int[Tensor, " entry"]
    units: Bool[Tensor, "entry unit"] | None

    def write(self, target: Tensor, source: Tensor) -> None:
        """Copy into `target` [row, position, …] in place."""
        new = source[self.example, self.origin]
        if self.units is not None:
            chosen = self.units.reshape(*self.units.shape, *(1,) * (new.ndim - 2))
            new = torch.where(chosen, new, target[self.row, self.destination])
        target[self.row, self.destination] = new


@dataclass(frozen=True)
class PatternEdit:
    """Entries of attention patterns to copy, as a mask over each row's pattern.

    Attributes:
        row: which rows of the batch are changed [row].
        example: the recorded example of each.
        units: which heads.
        chosen: which pairs of tokens, in the changed prompt.
        origin: for each token of the changed prompt its counterpart in the source.
    """

    row: Int[Tensor, " row"]
    example: Int[Tensor, " row"]
    units: Bool[Tensor, "row head"]
    chosen: Bool[Tensor, "row destination source"]
    origin: Int[Tensor, "row position"]

    def write(self, target: Tensor, source: Tensor) -> None:
        """Copy into `target` [row, head, destination, source] in place."""
        heads = torch.arange(target.shape[1], device=target.device)[None, :, None, None]
        new = source[
            self.example[:, None, None, None],
            heads,
            self.origin[:, None, :, None],
            self.origin[:, None, None, :],
        ]
        mask = self.units[:, :, None, None] & self.chosen[:, None]
        target[self.row] = torch.where(mask, new, target[self.row])


def hook(
    site: str, edits: Sequence[Edit | PatternEdit], source: Tensor
) -> Callable[[Tensor], Tensor | None]:
    """A hook for the site that writes all these edits."""

    def replace(value: Tensor) -> Tensor | None:
        # The hook of resid_mid sits on the MLP's branch, after the skip connection has kept a
        # reference to the same tensor: only an edit in place reaches both.
        in_place = site == "resid_mid"
        target = value if in_place else value.clone()
        for edit in edits:
            edit.write(target, source)
        return None if in_place else target

    return replace
