"""One walk up the stack of blocks with a batch that grows: rows join where they are first changed.

Nothing below a patch is computed again, nor anything before its position.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.components.heads import through_block
from interp.components.writers import output_matrix
from interp.forward.access import changing
from interp.forward.packing import Active
from interp.forward.passes import Recording, resume
from interp.patching.table import Edit, EditTable, Indices, PatternEdit, written
from interp.patching.values import Runs
from interp.sites import Site


def entry(n_layers: int, block: int) -> Site:
    """The stream into a block; behind the last one, out of it."""
    return Site("resid_pre", block) if block < n_layers else Site("resid_post", n_layers - 1)


def needed(n_layers: int, changes: EditTable) -> set[Site]:
    """What must be recorded of the run that is changed."""
    inside = {site.layer for site in changes.sites if site.kind.inside}
    streams = {entry(n_layers, block) for block in {*changes.start.tolist(), *inside}}
    return streams | {site for site in changes.sites if site.kind.heads_add_up}


def walk(
    runs: Runs,
    recordings: tuple[Recording, ...],
    changes: EditTable,
    offset: int,
    *,
    ahead: Callable[[int], None] | None = None,
    at_once: int | None = None,
) -> Float[Tensor, "row position d_model"]:
    """Final residual streams of all rows, which must be sorted by their start.

    Args:
        recordings: of the run that is changed and, where there is one, of the other.
        offset: the first example of the recordings.
        ahead: called with each block before any row passes it, where the recordings go along.
        at_once: how many rows a block computes together; all of them if left out.
    """
    up = _Walk(runs, recordings, changes, offset, at_once)
    n_layers, start = runs.model.n_layers, changes.start
    hidden: Tensor | None = None
    for block in range(int(start[0]), n_layers + 1):
        if ahead is not None:
            ahead(block)
        n = int(np.searchsorted(start, block, "right"))
        joined = 0 if hidden is None else len(hidden)
        if n > joined:
            new = up.base[entry(n_layers, block)].index_select(0, up.example[joined:n])
            hidden = new if hidden is None else torch.cat([hidden, new])
        assert hidden is not None  # the first rows start at the first block of the walk
        for site in changes.before(block):
            up.write(site, hidden)
        if block < n_layers:
            hidden = up.through(block, hidden, joined)
    assert hidden is not None
    return hidden


class _Walk:
    """One walk: its rows, and how they pass a block."""

    def __init__(
        self,
        runs: Runs,
        recordings: tuple[Recording, ...],
        changes: EditTable,
        offset: int,
        at_once: int | None,
    ) -> None:
        self.runs = runs
        self.at_once = at_once
        self.base, self.source = recordings[0], recordings[-1]
        self.changes = changes
        self.offset = offset
        self.places = runs.places
        self.width = runs.base.reading.ids.shape[1]
        self.device = runs.model.device
        self.example = torch.from_numpy(changes.example - offset).to(self.device)
        self.spans = _Spans.of(runs, changes) if self.base.kept else None

    def write(self, site: Site, hidden: Tensor) -> None:
        """Change the stream between two blocks, in place."""
        for edit in self._edits(site):
            edit.write(hidden, self._values(site))

    def through(self, block: int, hidden: Tensor, joined: int) -> Tensor:
        """All rows out of the block, of which the first `joined` were in the batch before."""
        inside = self.changes.rows_inside(block)
        n = len(hidden)
        if len(inside) == 0 and (self.at_once is None or n <= self.at_once):
            return self._packed(block, hidden, None)
        rest = np.setdiff1d(np.arange(n), inside)
        out = torch.empty_like(hidden)
        # A hook must see whole activations, so the rows that are changed inside run on their own.
        for rows in self._pieces(inside):
            edit = self._of_heads(block, rows, joined)
            whole = (
                self._hooked(block, hidden, rows, joined)
                if edit is None
                else self._by_heads(block, rows, edit)
            )
            if len(rows) == n:
                return whole
            out[_index(rows, self.device)] = whole
        for rows in self._pieces(rest):
            out[_index(rows, self.device)] = self._packed(block, hidden, rows)
        return out

    def _pieces(self, rows: Indices) -> Iterator[Indices]:
        size = self.at_once or max(1, len(rows))
        return (rows[first : first + size] for first in range(0, len(rows), size))

    def _packed(self, block: int, hidden: Tensor, rows: Indices | None) -> Tensor:
        index = slice(len(hidden)) if rows is None else _index(rows, self.device)
        example = self.example[: len(hidden)][index]
        span = None if self.spans is None else self.spans.active(index, len(hidden))
        return self._run(block)(hidden[index], example, span=span)

    def _hooked(self, block: int, hidden: Tensor, rows: Indices, joined: int) -> Tensor:
        model, index = self.runs.model, _index(rows, self.device)
        stream, example = hidden[index], self.example[: len(hidden)][index]
        if self.spans is not None and rows[0] < joined:
            # Packed blocks leave positions before the first change as they found them.
            base = self.base[entry(model.n_layers, block)].index_select(0, example)
            before = torch.arange(self.width, device=self.device) < self.spans.first[index, None]
            stream = torch.where(before[..., None], base, stream)
        changes = [
            (site, written(self._edits(site, rows), self._values(site)))
            for site in self.changes.inside(block)
        ]
        with changing(model, changes):
            return self._run(block)(stream, example)

    def _of_heads(self, block: int, rows: Indices, joined: int) -> Edit | None:
        """What is written, where it is head outputs only, of rows that were the base run so far."""
        sites = self.changes.inside(block)
        if self.spans is None or rows[0] < joined or len(sites) > 1:
            return None
        # A set may change the stream into the block as well, and with it what its attention does.
        if not sites[0].kind.heads_add_up or self.changes.before(block):
            return None
        edits = self._edits(sites[0], rows)
        if len(edits) != 1 or not isinstance(edits[0], Edit):
            return None
        return edits[0] if self.runs.heads_add else None

    def _by_heads(self, block: int, rows: Indices, edit: Edit) -> Tensor:
        model, index = self.runs.model, _index(rows, self.device)
        (site,) = self.changes.inside(block)
        example = self.example[index]
        stream = self.base[Site("resid_pre", block)]
        change = stream.new_zeros(len(rows), *stream.shape[1:])
        moved = edit.new(self._values(site)) - self.base[site][example[edit.row], edit.destination]
        matrix = output_matrix(model, block)
        for head in range(model.n_heads):
            mine = slice(None) if edit.units is None else edit.units[:, head]
            where = (edit.row[mine], edit.destination[mine])
            change.index_put_(where, moved[mine, head] @ matrix[head], accumulate=True)
        span = self.spans.active(index, int(rows[-1]) + 1) if self.spans else None
        return through_block(model, self.base, block, change, example, span=span)

    def _run(self, block: int) -> functools.partial[Tensor]:
        return functools.partial(resume, self.runs.model, self.base, start=block, stop=block + 1)

    def _values(self, site: Site) -> Tensor:
        return self.runs.values(site, self.source, self.offset)

    def _edits(self, site: Site, rows: Indices | None = None) -> list[Edit | PatternEdit]:
        return self.changes.edits(site, self.places, self.width, self.offset, self.device, rows)


@dataclass(frozen=True)
class _Spans:
    """Of each row the first position that changes, and the reads [row]."""

    first: Int[Tensor, " row"]
    read: Int[Tensor, " row"]
    last: Int[Tensor, " row"]
    length: int

    @classmethod
    def of(cls, runs: Runs, changes: EditTable) -> _Spans:
        device = runs.model.device
        reads = runs.base.reading.positions[torch.from_numpy(changes.example)]
        first = changes.first_changed(runs.places, runs.idle(), reads[:, 0].numpy())
        return cls(
            torch.from_numpy(first).to(device),
            reads[:, 0].to(device),
            reads[:, -1].to(device),
            runs.base.reading.ids.shape[1],
        )

    def active(self, rows: slice | Tensor, n: int) -> tuple[Active, Active]:
        first, read, last = (t[:n][rows] for t in (self.first, self.read, self.last))
        return (
            Active.between(first, last, self.length),
            Active.between(read, last, self.length),
        )


def _index(rows: Indices, device: torch.device) -> slice | Tensor:
    """Rows of a batch, as a slice where they follow each other: no copy is made then."""
    if len(rows) and rows[-1] - rows[0] + 1 == len(rows):
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return torch.from_numpy(rows).to(device)
