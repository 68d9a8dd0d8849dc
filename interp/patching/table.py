"""What is replaced, as a table: each row changes one run of one pair, in one place or in several.

Of a table's rows in a batch, `edits` makes what is written into the batch's activations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.forward.access import Change
from interp.sites import Site

Indices = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Places:
    """Where the slots of the shared position axis stand in the two runs.

    Attributes:
        destination: token index of each slot in the prompt that is changed [example, slot], -1
            where it has none.
        origin: the same in the prompt that the values come from.
    """

    destination: Indices
    origin: Indices

    def present(self, examples: Indices) -> Mask:
        """Whether the examples have a token at each slot [example, slot]."""
        return np.asarray(self.destination[examples] >= 0)

    def attended(self, examples: Indices) -> Mask:
        """Pairs of slots that stand in causal order in both runs [example, later, earlier]."""
        here, there = self.destination[examples], self.origin[examples]
        ordered = [index[:, :, None] >= index[:, None, :] for index in (here, there)]
        present = self.present(examples)
        return np.asarray(present[:, :, None] & present[:, None, :] & ordered[0] & ordered[1])


@dataclass(frozen=True)
class Edit:
    """Entries to copy from the values that are put in into rows of a batch, one by one.

    Attributes:
        row, destination: where in the batch [entry].
        taken: where in the values [entry]: an example and a position of a recording, or the number
            of a vector.
        units: which heads or neurons of each entry; None for whole activations.
    """

    row: Int[Tensor, " entry"]
    destination: Int[Tensor, " entry"]
    taken: tuple[Int[Tensor, " entry"], ...]
    units: Bool[Tensor, "entry unit"] | None

    def new(self, source: Tensor) -> Float[Tensor, "entry ..."]:
        """What is put in, of values that may lie elsewhere than the batch."""
        return source[tuple(index.to(source.device) for index in self.taken)].to(self.row.device)

    def write(self, target: Tensor, source: Tensor) -> None:
        """Copy into `target` [row, position, …] in place."""
        new = self.new(source)
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


def written(edits: Sequence[Edit | PatternEdit], source: Tensor) -> Change:
    """A change of an activation that makes all these edits."""

    def write(value: Tensor) -> Tensor:
        target = value.clone()
        for edit in edits:
            edit.write(target, source)
        return target

    return write


@dataclass(frozen=True)
class EditTable:
    """Rows, each a run of one pair that is changed, and the parts that each change is made of.

    A part replaces activations of one site: those of some slots of the position axis, and there
    all, or those of some heads or neurons; in patterns only what is attended to in some slots.

    Attributes:
        sites: the sites that are changed.
        slots: choices of slots that are replaced together [choice, slot].
        units: by site name choices of heads or neurons [choice, unit]; sites without are whole.
        example: the pair of each row [row].
        row: the row that each part belongs to [part], ascending.
        site, place, unit, source: for each part indices into `sites`, `slots`, `units` and, for
            what is attended to, `slots` again [part].
        vector: for each part which of the given vectors is put in [part]; None where it is what
            stands at the same slot of the other run.
    """

    sites: tuple[Site, ...]
    slots: Mask
    units: Mapping[str, Mask]
    example: Indices
    row: Indices
    site: Indices
    place: Indices
    unit: Indices
    source: Indices
    vector: Indices | None = None

    def __len__(self) -> int:
        return len(self.example)

    @property
    def start(self) -> Indices:
        """The block before which each row leaves the unpatched run [row]."""
        entry = np.array([_first_block(site) for site in self.sites])
        out = np.full(len(self), np.iinfo(np.int64).max)
        np.minimum.at(out, self.row, entry[self.site])
        return out

    def sorted(self) -> tuple[EditTable, Indices]:
        """The same in the order in which they start, and which row each of them was."""
        order = np.argsort(self.start, kind="stable")
        return self.select(order), order

    def select(self, rows: Indices) -> EditTable:
        """Some of the rows, in the order given."""
        count = np.bincount(self.row, minlength=len(self))
        first = np.cumsum(count) - count
        n = count[rows]
        row = np.repeat(np.arange(len(rows)), n)
        part = np.repeat(first[rows] - (np.cumsum(n) - n), n) + np.arange(len(row))
        return replace(
            self,
            example=self.example[rows],
            row=row,
            site=self.site[part],
            place=self.place[part],
            unit=self.unit[part],
            source=self.source[part],
            vector=None if self.vector is None else self.vector[part],
        )

    def rows_inside(self, block: int) -> Indices:
        """The rows that are changed inside of this block, not between it and another."""
        inside = np.isin(np.arange(len(self.sites)), [*map(self.sites.index, self.inside(block))])
        return np.unique(self.row[inside[self.site]])

    def inside(self, block: int) -> list[Site]:
        """The sites inside of this block."""
        return [site for site in self.sites if site.layer == block and site.kind.inside]

    def before(self, block: int) -> list[Site]:
        """The sites that are the stream into this block, in the order in which they are changed.

        No hook is needed to write there.
        """
        found = [s for s in self.sites if not s.kind.inside and _first_block(s) == block]
        return sorted(found, key=lambda site: site.layer)

    def first_changed(self, places: Places, idle: Mask, otherwise: Indices) -> Indices:
        """The first token of each row at which anything is put in [row].

        Args:
            idle: slots where what is put in is what was there [example, slot].
            otherwise: what to give for rows where nothing is.
        """
        destination = places.destination[self.example[self.row]]
        there = self.slots[self.place] & (destination >= 0) & ~idle[self.example[self.row]]
        beyond = np.iinfo(np.int64).max
        out = np.full(len(self), beyond)
        np.minimum.at(out, self.row, np.where(there, destination, beyond).min(1, initial=beyond))
        return np.where(out == beyond, otherwise, out)

    def edits(
        self,
        site: Site,
        places: Places,
        width: int,
        offset: int,
        device: torch.device,
        rows: Indices | None = None,
    ) -> list[Edit | PatternEdit]:
        """What to write at `site`; one after the other, since a row may have several parts there.

        Args:
            width: tokens in a row of the batch.
            offset: the first example of the recording that is copied from.
            rows: the rows that the batch consists of, ascending; all if left out.
        """
        if site not in self.sites:
            return []
        parts = np.nonzero(self.site == self.sites.index(site))[0]
        if rows is not None:
            parts = parts[np.isin(self.row[parts], rows)]
        turn = _turn(self._clashing(parts))
        build = self._pattern_edit if site.kind.pairwise else self._edit
        out = []
        for number in range(int(turn.max(initial=-1)) + 1):
            mine = parts[turn == number]
            row = self.row[mine] if rows is None else np.searchsorted(rows, self.row[mine])
            units = self.units.get(site.name)
            chosen = None if units is None else units[self.unit[mine]]
            out.append(build(mine, row, chosen, places, width, offset, device))
        return out

    def _clashing(self, parts: Indices) -> Indices:
        """Parts with the same number may write to the same entries, and must take turns [part]."""
        if self.vector is None:
            return self.row[parts]
        return np.asarray(self.row[parts] * len(self.slots) + self.place[parts])

    def _edit(
        self,
        parts: Indices,
        row: Indices,
        units: Mask | None,
        places: Places,
        width: int,
        offset: int,
        device: torch.device,
    ) -> Edit:
        example = self.example[self.row[parts]]
        destination = places.destination[example]
        part, slot = np.nonzero(self.slots[self.place[parts]] & (destination >= 0))
        taken = (
            (example[part] - offset, places.origin[example][part, slot])
            if self.vector is None
            else (self.vector[parts][part],)
        )
        return Edit(
            _tensor(row[part], device),
            _tensor(destination[part, slot], device),
            tuple(_tensor(index, device) for index in taken),
            None if units is None else _tensor(units, device)[_tensor(part, device)],
        )

    def _pattern_edit(
        self,
        parts: Indices,
        row: Indices,
        units: Mask | None,
        places: Places,
        width: int,
        offset: int,
        device: torch.device,
    ) -> PatternEdit:
        assert units is not None  # patterns have heads
        example = self.example[self.row[parts]]
        attended = places.attended(example)
        attended &= self.slots[self.place[parts], :, None] & self.slots[self.source[parts], None]
        part, later, earlier = np.nonzero(attended)
        here = places.destination[example]
        chosen = np.zeros((len(parts), width, width), dtype=np.bool_)
        chosen[part, here[part, later], here[part, earlier]] = True
        origin = np.zeros((len(parts), width), dtype=np.int64)
        index, slot = np.nonzero(here >= 0)
        origin[index, here[index, slot]] = places.origin[example][index, slot]
        return PatternEdit(
            _tensor(row, device),
            _tensor(example - offset, device),
            _tensor(units, device),
            _tensor(chosen, device),
            _tensor(origin, device),
        )


def _first_block(site: Site) -> int:
    """The first block whose outcome a change at the site can touch."""
    return site.layer + (site.kind.part == "after")


def _turn(group: Indices) -> Indices:
    """For each member how many of its group come before it."""
    order = np.argsort(group, kind="stable")
    ordered = group[order]
    turn = np.empty_like(group)
    turn[order] = np.arange(len(group)) - np.searchsorted(ordered, ordered)
    return turn


def _tensor(values: Indices | Mask, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(device)
