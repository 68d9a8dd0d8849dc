"""What a cell replaces together: choices of slots of the position axis, of heads, of neurons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from interp.errors import SiteError
from interp.model.model import Model
from interp.patching.table import Mask
from interp.prompts.alignment import Alignment
from interp.sites import heads_at, neurons_at

Neurons = int | Sequence[Sequence[int]]
"""How many consecutive neurons make a group, or the neurons of each group."""

# So many groups of neurons there are about, where nothing is said.
_GROUPS = 32


@dataclass(frozen=True)
class Choices:
    """One axis of a sweep.

    Attributes:
        names: what each index is called: slot, head, "0-95" for neurons, or a span.
        members: which slots, heads or neurons each index stands for [choice, member].
    """

    names: tuple[int | str, ...]
    members: Mask

    def __len__(self) -> int:
        return len(self.names)

    @property
    def together(self) -> Mask:
        """What any of the choices stands for [member]."""
        return np.asarray(self.members.any(axis=0))


def single_slots(alignment: Alignment, slots: Sequence[int]) -> Choices:
    """Each slot on its own."""
    return Choices(tuple(slots), np.eye(len(alignment), dtype=np.bool_)[list(slots)])


def spans(alignment: Alignment, slots: Sequence[int]) -> Choices:
    """The slots of each span together."""
    names = tuple(dict.fromkeys(alignment.spans[slot] for slot in slots))
    chosen = np.isin(np.arange(len(alignment)), slots)
    return Choices(names, np.array([chosen & (np.array(alignment.spans) == n) for n in names]))


def all_slots(alignment: Alignment, slots: Sequence[int]) -> Choices:
    """All slots together."""
    return Choices(("all",), np.isin(np.arange(len(alignment)), slots)[None])


def heads(model: Model, site: str, chosen: Sequence[int] | None) -> Choices:
    """Each head on its own.

    Raises:
        SiteError: a head that the site does not have, or none at all.
    """
    n = heads_at(model, site)
    found = tuple(range(n)) if chosen is None else tuple(sorted(set(chosen)))
    wrong = [head for head in found if not 0 <= head < n]
    if wrong or not found:
        what = f"Head {wrong[0]} is out of range" if wrong else "There are no heads to patch"
        raise SiteError(f"{what}: {model.name} has heads 0 to {n - 1} at '{site}'.")
    return Choices(found, np.eye(n, dtype=np.bool_)[list(found)])


def neurons(model: Model, wanted: Neurons | None) -> Choices:
    """Groups of neurons, named "0-95" or "3,7,9-11" by their members.

    Raises:
        SiteError: a neuron that the model does not have, an empty group, or the same group twice.
    """
    n = neurons_at(model)
    size = -(-n // _GROUPS) if wanted is None else wanted
    if isinstance(size, int):
        if size < 1:
            raise SiteError(f"A group of {size} neurons is empty; give a size of 1 or more.")
        groups = [list(range(start, min(start + size, n))) for start in range(0, n, size)]
    elif any(np.ndim(group) == 0 for group in size):
        raise SiteError("Neurons are given by group; write [[3, 7]] for one group of two.")
    else:
        groups = [sorted({int(i) for i in group}) for group in size]
    if not groups or not all(len(group) for group in groups):
        raise SiteError("There are no neurons to patch in some group; name at least one in each.")
    wrong = [i for group in groups for i in (group[0], group[-1]) if not 0 <= i < n]
    if wrong:
        raise SiteError(
            f"Neuron {wrong[0]} is out of range: {model.name} has neurons 0 to {n - 1} in each MLP."
        )
    names = tuple(_ranges(group) for group in groups)
    if len(set(names)) < len(names):
        raise SiteError("A group of neurons is given twice; name distinct groups.")
    members = np.zeros((len(groups), n), dtype=np.bool_)
    for row, group in zip(members, groups, strict=True):
        row[list(group)] = True
    return Choices(names, members)


def everything(n: int) -> Choices:
    """All heads or neurons together."""
    return Choices(("all",), np.ones((1, n), dtype=np.bool_))


def _ranges(members: Sequence[int]) -> str:
    """ "0-2,5" for 0, 1, 2 and 5."""
    runs: list[list[int]] = []
    for member in members:
        if runs and member == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], member]
        else:
            runs.append([member, member])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
