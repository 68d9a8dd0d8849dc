"""Interventions as a table: each changes one run of one pair, in one place or in several."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from interp.patching.edits import Edit, PatternEdit
from interp.sites import Site

Indices = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

# Sites that are the stream between two blocks: no hook is needed to write there.
STREAMS = ("resid_pre", "resid_post")


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
class Interventions:
    """Interventions, sorted by the block that they start at, and the parts they are made of.

    A part replaces activations of one site: those of some slots of the position axis, and there
    all, or those of some heads or neurons; in patterns only what is attended to in some slots.

    Attributes:
        sites: the sites that are changed.
        slots: choices of slots that are replaced together [choice, slot].
        units: by site name choices of heads or neurons [choice, unit]; sites without are whole.
        example: the pair of each intervention [row].
        row: the intervention that each part belongs to [part], ascending.
        site, place, unit, source: for each part indices into `sites`, `slots`, `units` and, for
            what is attended to, `slots` again [part].
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

    def __len__(self) -> int:
        return len(self.example)

    @property
    def start(self) -> Indices:
        """The block before which each row leaves the unpatched run [row]."""
        entry = np.array([site.layer + (site.name == "resid_post") for site in self.sites])
        out = np.full(len(self), np.iinfo(np.int64).max)
        np.minimum.at(out, self.row, entry[self.site])
        return out

    def sorted(self) -> tuple[Interventions, Indices]:
        """The same in the order in which they start, and which row each of them was."""
        order = np.argsort(self.start, kind="stable")
        return self.select(order), order

    def select(self, rows: Indices) -> Interventions:
        """Some of the interventions, in the order given."""
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
        )

    def rows_inside(self, block: int) -> Indices:
        """The rows that are changed inside of this block, not between it and another."""
        inside = [site.layer == block and site.name not in STREAMS for site in self.sites]
        return np.unique(self.row[np.array(inside)[self.site]])

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
        turn = np.arange(len(parts)) - np.searchsorted(self.row[parts], self.row[parts])
        build = self._pattern_edit if site.name == "pattern" else self._edit
        out = []
        for number in range(int(turn.max(initial=-1)) + 1):
            mine = parts[turn == number]
            row = self.row[mine] if rows is None else np.searchsorted(rows, self.row[mine])
            units = self.units.get(site.name)
            chosen = None if units is None else units[self.unit[mine]]
            out.append(build(mine, row, chosen, places, width, offset, device))
        return out

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
        destination, origin = places.destination[example], places.origin[example]
        part, slot = np.nonzero(self.slots[self.place[parts]] & (destination >= 0))
        return Edit(
            _tensor(row[part], device),
            _tensor(destination[part, slot], device),
            _tensor(example[part] - offset, device),
            _tensor(origin[part, slot], device),
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


def _tensor(values: Indices | Mask, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(device)
