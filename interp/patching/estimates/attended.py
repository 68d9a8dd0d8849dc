"""One block in which some positions are computed, and what attention makes of that elsewhere.

Rows are cells. Of each the `active` positions are run as they are in a patched run. From the
others nothing is computed but what attention hands to them, by keys and values that have changed:
by how much that moves the metric is then told to first order.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.forward.access import Change, changing
from interp.forward.packing import Active, heard
from interp.forward.passes import TOLERANCE, Recording, packs, record, relative_error, resume
from interp.kinds import SiteKind
from interp.model.memory import batches, rows_that_fit
from interp.model.model import Model
from interp.patching.estimates.both import Both
from interp.patching.estimates.compact import Run
from interp.patching.table import Edit, EditTable, PatternEdit
from interp.sites import Site

Z = "z"
"""The site by which positions hear of each other."""


def seen_by_attention(kind: SiteKind) -> bool:
    """Whether all that a change of the site does, what heads put out afterwards tells."""
    return kind.part == "attention" and kind.per_head and not kind.heads_add_up


@dataclass(frozen=True)
class Rows:
    """Cells of some pairs, in the order of their layers.

    Attributes:
        both: the pairs.
        table: what each row replaces.
        active: the positions that are run in each row [row, position].
    """

    both: Both
    table: EditTable
    active: Bool[Tensor, "row position"]

    @property
    def example(self) -> Tensor:
        """Of the recordings [row]."""
        found = torch.from_numpy(self.table.example - self.both.start)
        return found.to(self.both.runs.model.device)

    def edits(self, site: Site) -> Sequence[Edit | PatternEdit]:
        """What the rows replace there."""
        both, width = self.both, self.active.shape[1]
        device = both.runs.model.device
        return self.table.edits(site, both.runs.places, width, both.start, device)

    def through(
        self,
        block: int,
        hidden: Float[Tensor, "row position d_model"],
        by_z: Float[Tensor, "variant example position head d_head"],
    ) -> tuple[Float[Tensor, "row position d_model"], Float[Tensor, "variant row"]]:
        """The stream of the first rows out of a block, and what moves the metric elsewhere.

        Args:
            hidden: into it; what it holds at positions that are not active does not matter.
            by_z: the metric's gradients by what the block's heads put out.
        """
        both, model = self.both, self.both.runs.model
        n, base = len(hidden), both.changed
        active, example = self.active[:n], self.example[:n]
        site = Site(Z, block)
        inside = [one for one in self.table.inside(block) if self.edits(one)]
        # Inside of packed modules only active positions can be changed.
        everywhere = any(seen_by_attention(one.kind) for one in inside)
        packed = not everywhere and packs_attending(model, both.runs.base.reading.ids, base)
        span = self._span(block, active) if packed else None
        changes = [(_seat(one), self._writing(one, n, span)) for one in inside]
        if span is None:
            hidden = torch.where(active[..., None], hidden, base[Site("resid_pre", block)][example])
        # Looked at before what heads put out is itself replaced.
        seen: list[Tensor] = []
        looked = [] if packed else [(site, _keeper(seen))]
        with contextlib.ExitStack() as stack:
            if packed:
                seen = stack.enter_context(heard(model.bridge.blocks[block]))
            stack.enter_context(changing(model, [*looked, *changes]))
            out = resume(model, base, hidden, example, start=block, stop=block + 1, span=span)
        heads = base[site][example]
        elsewhere = (seen[-1].reshape(heads.shape) - heads) * ~active[:, :, None, None]
        moved = torch.einsum("rphd,vrphd->vr", elsewhere, by_z[:, example])
        return out, moved.float()

    def few(self, block: int, run: Run) -> list[tuple[Site, Change]]:
        """What is replaced in the block, where only these positions of each row are run."""
        return [(_seat(one), self._writing_few(one, run)) for one in self.table.inside(block)]

    def write_few(self, site: Site, target: Tensor, run: Run) -> None:
        """Replace what these positions hold, in place [row, run, …]."""
        both = self.both
        new, base = both.runs.values(site, both.other, both.start), both.changed[site]
        for edit in self.edits(site):
            assert isinstance(edit, Edit)  # patterns are laid out
            at = run.index[edit.row, edit.destination]
            there = at >= 0
            row, taken = edit.row[there], tuple(index[there] for index in edit.taken)
            units = None if edit.units is None else edit.units[there]
            few = Edit(row, at[there], taken, units)
            if _seat(site) == site:
                few.write(target, new)
                continue
            by = few.new(new) - base[self.example[row], edit.destination[there]]
            target[row, few.destination] += by

    def _writing_few(self, site: Site, run: Run) -> Change:
        def write(value: Tensor) -> Tensor:
            target = value.clone()
            self.write_few(site, target, run)
            return target

        return write

    def _span(self, block: int, active: Tensor) -> tuple[Active, Active]:
        model = self.both.runs.model
        whole = Active(*active.nonzero(as_tuple=True))
        if block < model.n_layers - 1:
            return whole, whole
        reads = self.both.runs.base.positions(torch.from_numpy(self.table.example[: len(active)]))
        read = torch.zeros_like(active).scatter_(1, reads, True)
        return whole, Active(*read.nonzero(as_tuple=True))

    def _writing(self, site: Site, n: int, span: tuple[Active, Active] | None) -> Change:
        both, edits = self.both, self.edits(site)
        new, base, width = (
            both.runs.values(site, both.other, both.start),
            both.changed[site],
            self.active.shape[1],
        )

        def write(value: Tensor) -> Tensor:
            whole = site.kind.pairwise or value.shape[:2] == (n, width)
            target = value.clone()
            if not whole:
                # What a packed block shows is the active positions alone, of all rows.
                assert span is not None
                computed = span[0] if value.shape[1] == len(span[0].row) else span[1]
                target = value.new_zeros(n, width, *value.shape[2:])
                computed.scatter(value, target)
            for edit in edits:
                if _seat(site) == site:
                    edit.write(target, new)
                    continue
                assert isinstance(edit, Edit)  # streams have no units
                example = self.example[edit.row]
                by = edit.new(new) - base[example, edit.destination]
                target[edit.row, edit.destination] += by
            return target if whole else computed.gather(target)

        return write


def by_attention(
    both: Both, layer: int, by_z: Float[Tensor, "variant example position head d_head"]
) -> npt.NDArray[np.float32]:
    """What queries or keys do by way of their own block's attention, which is computed anew.

    Args:
        by_z: the metric's gradients by what that block's heads put out.

    Returns:
        [variant, cell]
    """
    cells, model = both.cells, both.runs.model
    chosen = np.zeros(cells.every.shape, dtype=np.bool_)
    chosen[both.mine, cells.layers.index(layer)] = True
    whole, _, _ = cells.table(chosen)
    length = both.changed[Site("resid_pre", layer)].shape[1]

    def work(first: int, beyond: int) -> Tensor:
        table = whole.select(np.arange(first, beyond))
        nowhere = torch.zeros(len(table), length, dtype=torch.bool, device=model.device)
        rows = Rows(both, table, nowhere)
        hidden = both.changed[Site("resid_pre", layer)][rows.example]
        return rows.through(layer, hidden, by_z)[1]

    size = rows_that_fit(model, rows_memory(both, len(by_z)))
    found = [part for _, _, part in batches(len(whole), size, work)]
    return np.asarray(torch.cat(found, 1).cpu().numpy())


def rows_memory(both: Both, variants: int = 1) -> int:
    """Bytes that a row takes (estimate)."""
    model, length = both.runs.model, both.runs.length
    heads = model.n_heads * int(model.bridge.cfg.d_head) * length * model.dtype.itemsize
    return model.memory_per_row(length) + (3 + variants) * heads


def packs_attending(model: Model, ids: Tensor, recording: Recording) -> bool:
    """Whether a packed block shows rightly what its attention makes of positions that are not
    active; tried once, on the first prompt."""
    return bool(recording.kept) and model.once("attends", lambda: _attends(model, ids[:1]))


def _attends(model: Model, ids: Tensor) -> bool:
    if not packs(model, ids):
        return False
    layers = range(model.n_layers)
    sites = [Site(name, layer) for name in ("resid_pre", Z) for layer in layers]
    recording = record(model, ids, sites, for_packing=True, queries=True)
    row = torch.zeros(1, dtype=torch.long, device=model.device)
    length = ids.shape[1]
    last = Active.between(row + length - 1, row + length - 1, length)
    for layer in layers:
        stream = recording[Site("resid_pre", layer)]
        stream[:, :-1] = 0
        with heard(model.bridge.blocks[layer]) as seen:
            resume(model, recording, stream, row, start=layer, stop=layer + 1, span=(last, last))
        z = recording[Site(Z, layer)]
        if seen[-1].numel() != z.numel():
            return False
        if not relative_error(seen[-1].reshape(z.shape), z) <= TOLERANCE[model.dtype]:
            return False
    return True


def _keeper(seen: list[Tensor]) -> Change:
    def look(value: Tensor) -> Tensor:
        seen.append(value)
        return value

    return look


def _seat(site: Site) -> Site:
    """Where the site is changed: what is added to a stream inside of a block moves it alike."""
    return Site(site.kind.gradient_at or site.name, site.layer)
