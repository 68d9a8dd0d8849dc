"""Estimates that run a few positions of each cell as they are, and the others to first order.

What most estimates get wrong is what a large change meets first: norms, neurons, and the attention
of the position that the answer is read from. So of each cell the patched position is run through
all blocks above, and so are those that the metric is read from and that it hears most from; what
attention hands to any other position is computed, and its effect told by the gradient there. In a
causal model a change leaves these positions only once, so that nothing is counted twice.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.kinds import site_kind
from interp.model.memory import batches, rows_that_fit
from interp.patching.estimates.attended import Rows, Z, rows_memory, seen_by_attention
from interp.patching.estimates.both import Both, Moved
from interp.patching.estimates.compact import Attended, Run, is_compact, through
from interp.patching.estimates.gradients import Descent
from interp.patching.table import Edit, EditTable, Mask
from interp.sites import Site


def by_columns(both: Both, columns: int) -> Moved:
    """The estimate with so many positions of each cell run besides those that are read."""
    cells, model = both.cells, both.runs.model
    out = np.zeros((int(both.mine.sum()), len(cells.layers)), dtype=np.float32)
    if not len(out):
        return out  # no cell of these pairs has anything to replace
    gradients = _Gradients.of(both)
    chosen = np.repeat(both.mine[:, None], len(cells.layers), axis=1)
    table, cell, layer = cells.table(chosen)
    busy = np.nonzero(_changes(both, table))[0]
    table, order = table.select(busy).sorted()
    cell, layer = cell[busy][order], layer[busy][order]
    first = int(np.nonzero(both.mine)[0][0])
    strength = gradients.strength(both)
    attended = _attended(both)

    def work(start: int, stop: int) -> Tensor:
        part = table.select(np.arange(start, stop))
        rows = Rows(both, part, _active(both, part, strength, columns))
        if attended is not None:
            return _walk_few(rows, gradients, attended)
        return _walk(rows, gradients)

    memory = rows_memory(both) if attended is None else _few_memory(both, columns)
    size = rows_that_fit(model, memory)
    for start, stop, moved in batches(len(table), size, work):
        out[cell[start:stop] - first, layer[start:stop]] = moved.cpu().numpy()
    return out


class _Gradients:
    """The metric's gradients in the run that is changed.

    Attributes:
        by_z: by layer, by what its heads put out.
        by_site: by layer, by the site itself, where that is not seen by attention.
    """

    def __init__(self, by_z: dict[int, Tensor], by_site: dict[int, Tensor]) -> None:
        self.by_z, self.by_site = by_z, by_site

    @classmethod
    def of(cls, both: Both) -> _Gradients:
        model, layers, name = both.runs.model, both.cells.layers, both.cells.site
        kind = site_kind(name)
        own = kind.inside and not seen_by_attention(kind)
        every = range(min(layers), model.n_layers)
        inside = {
            i: tuple(dict.fromkeys((Z, name))) if own and i in layers else (Z,) for i in every
        }
        descent = Descent(both.changed, both.streams(), both.rows, min(layers), inside)
        by_z: dict[int, Tensor] = {}
        by_site = {model.n_layers - 1: both.gradient} if kind.part == "after" else {}
        for layer, by_stream, found in descent.run(model, both.gradient):
            by_z[layer] = found[Z][0]
            if own and name in found:
                by_site[layer] = found[name][0]
            elif not kind.inside:
                by_site[layer - (kind.part == "after")] = by_stream[0]
        return cls(by_z, by_site)

    def strength(self, both: Both) -> Float[Tensor, "example position"]:
        """How much the metric hears, to first order, of what heads put out at each position."""
        places, device = both.runs.places, both.gradient.device
        n, length = both.gradient.shape[:2]
        counterpart = np.full((n, length), -1)
        paired = (places.destination[both.examples] >= 0) & (places.origin[both.examples] >= 0)
        example, slot = np.nonzero(paired & (both.runs.constants is None))
        mine = both.examples[example]
        counterpart[example, places.destination[mine, slot]] = places.origin[mine, slot]
        other = torch.from_numpy(counterpart).to(device)
        # Where nothing of the other run stands for a token, it may lose what it has heard.
        known = (other >= 0)[:, :, None, None]
        out = torch.zeros(n, length, device=device)
        for layer, gradient in self.by_z.items():
            base, source = (run[Site(Z, layer)] for run in (both.changed, both.other))
            change = torch.where(known, source[both.rows[:, None], other.clamp(min=0)], 0.0) - base
            out += (change * gradient).sum(-1).abs().sum(-1).float()
        return out


def _changes(both: Both, table: EditTable) -> Mask:
    """Which rows put in anything else than what was there [row]."""
    runs = both.runs
    busy = ~runs.idle() & (runs.places.destination >= 0)
    some = (table.slots[table.place] & busy[table.example[table.row]]).any(1)
    return np.bincount(table.row, weights=some, minlength=len(table)) > 0


def _active(
    both: Both, table: EditTable, strength: Tensor, columns: int
) -> Bool[Tensor, "row position"]:
    """The positions that are run: those read, and the patched ones, if they are few enough.

    Of too many, and beside them, those come first that the metric hears most from.
    """
    runs, device = both.runs, both.gradient.device
    length = strength.shape[1]
    destination = runs.places.destination[table.example[table.row]]
    replaced = table.slots[table.place] & (destination >= 0)
    own = np.zeros((len(table), length), dtype=np.bool_)
    part, slot = np.nonzero(replaced)
    own[table.row[part], destination[part, slot]] = True
    mine = torch.from_numpy(own).to(device)
    example = torch.from_numpy(table.example - both.start).to(device)
    position = torch.arange(length, device=device)
    reads = runs.base.positions(torch.from_numpy(table.example))
    read = torch.zeros_like(mine).scatter_(1, reads, True)
    # Nothing before the first patched position can have changed.
    beyond = position >= mine.int().argmax(1, keepdim=True)
    few = mine.sum(1, keepdim=True) <= columns
    order = strength[example] + torch.where(mine & few, torch.inf, 0.0)
    order = torch.where(beyond & ~read, order, -torch.inf)
    best = order.topk(min(columns, length), dim=1)
    # Of no strength at all, the metric hears nothing from there.
    more = torch.zeros_like(mine).scatter_(1, best.indices, best.values > 0)
    return more | (read & beyond)


def _attended(both: Both) -> dict[int, Attended] | None:
    """What attention did, by layer, if it is told from a few positions; None where all are laid
    out."""
    model, site = both.runs.model, site_kind(both.cells.site)
    if site.pairwise or not is_compact(model, both.runs.base.reading.ids):
        return None
    layers = range(min(both.cells.layers), model.n_layers)
    return {layer: Attended.of(model, both.changed, layer) for layer in layers}


def _few_memory(both: Both, columns: int) -> int:
    """Bytes that a row takes of which few positions are run (estimate)."""
    model, length = both.runs.model, both.changed[Site("resid_pre", 0)].shape[1]
    reads = both.runs.base.positions(torch.zeros(1, dtype=torch.long)).shape[1]
    run = reads + columns
    patterns = 12 * 8 * model.n_heads * length * run
    final = 3 * length * model.d_model * model.dtype.itemsize
    few = 3 * model.memory_per_row(run) + patterns + final
    return max(few, rows_memory(both)) if seen_by_attention(site_kind(both.cells.site)) else few


def _walk_few(
    rows: Rows, gradients: _Gradients, attended: dict[int, Attended]
) -> Float[Tensor, " row"]:
    """What the rows move the metric by, nothing laid out but the positions that are run."""
    both, table, model = rows.both, rows.table, rows.both.runs.model
    start, base, run = table.start, both.changed, Run.of(rows.active)
    moved = torch.zeros(len(table), device=both.gradient.device)
    hidden: Tensor | None = None
    for block in range(int(start[0]), model.n_layers + 1):
        n = int(np.searchsorted(start, block, "right"))
        joined = 0 if hidden is None else len(hidden)
        top = block == model.n_layers
        if n > joined:
            into = Site("resid_post", block - 1) if top else Site("resid_pre", block)
            new = base[into][rows.example[joined:n, None], run.position[joined:n]]
            hidden = new if hidden is None else torch.cat([hidden, new])
        assert hidden is not None  # the first rows start at the first block of the walk
        for site in table.before(block):
            rows.write_few(site, hidden, run)
        for site in [*table.before(block), *([] if top else table.inside(block))]:
            if site.layer in gradients.by_site:
                moved += _elsewhere(rows, site, gradients.by_site[site.layer])
        if top:
            break
        by_z = gradients.by_z[block]
        apart = joined < n and any(seen_by_attention(one.kind) for one in table.inside(block))
        few = joined if apart else n
        found = []
        if few:
            changes = [] if apart else rows.few(block, run)
            out, more = through(
                model,
                base,
                block,
                hidden[:few],
                run.first(few),
                rows.example[:few],
                attended[block],
                by_z,
                changes,
            )
            found.append(out)
            moved[:few] += more
        if apart:
            # Queries, keys and values may be replaced at more positions than are run.
            mine = Rows(both, table.select(np.arange(joined, n)), rows.active[joined:n])
            whole = base[Site("resid_pre", block)][mine.example]
            out, of_each = mine.through(block, whole, by_z[None])
            at = run.position[joined:n, :, None].expand(-1, -1, out.shape[-1])
            found.append(out.gather(1, at))
            moved[joined:n] += of_each[0]
        hidden = torch.cat(found)
    assert hidden is not None
    final = base[Site("resid_post", model.n_layers - 1)][rows.example]
    return moved + _read(rows, run.scatter(hidden, final))


def _read(rows: Rows, hidden: Float[Tensor, "row position d_model"]) -> Float[Tensor, " row"]:
    """By how much the metric differs in final streams."""
    both = rows.both
    examples = torch.from_numpy(rows.table.example)
    found = both.runs.base.value(hidden, examples) - both.value[rows.example]
    # Where nothing is read that has changed, a difference is rounding.
    reads = both.runs.base.positions(examples)[..., None].expand(-1, -1, hidden.shape[-1])
    final = both.changed[Site("resid_post", both.runs.model.n_layers - 1)][rows.example]
    same = (hidden.gather(1, reads) == final.gather(1, reads)).flatten(1).all(1)
    return torch.where(same, 0.0, found)


def _walk(rows: Rows, gradients: _Gradients) -> Float[Tensor, " row"]:
    """What the rows move the metric by."""
    both, table, model = rows.both, rows.table, rows.both.runs.model
    start, base = table.start, both.changed
    moved = torch.zeros(len(table), device=both.gradient.device)
    hidden: Tensor | None = None
    for block in range(int(start[0]), model.n_layers + 1):
        n = int(np.searchsorted(start, block, "right"))
        joined = 0 if hidden is None else len(hidden)
        top = block == model.n_layers
        if n > joined:
            into = Site("resid_post", block - 1) if top else Site("resid_pre", block)
            new = base[into][rows.example[joined:n]]
            hidden = new if hidden is None else torch.cat([hidden, new])
        assert hidden is not None  # the first rows start at the first block of the walk
        for site in table.before(block):
            for edit in rows.edits(site):
                edit.write(hidden, both.runs.values(site, both.other, both.start))
        for site in [*table.before(block), *([] if top else table.inside(block))]:
            if site.layer in gradients.by_site:
                moved += _elsewhere(rows, site, gradients.by_site[site.layer])
        if not top:
            hidden, more = rows.through(block, hidden, gradients.by_z[block][None])
            moved[:n] += more[0]
    assert hidden is not None
    return moved + _read(rows, hidden)


def _elsewhere(rows: Rows, site: Site, gradient: Tensor) -> Float[Tensor, " row"]:
    """What is replaced at positions that are not run, to first order."""
    both = rows.both
    new, base = both.runs.values(site, both.other, both.start), both.changed[site]
    out = torch.zeros(len(rows.table), device=gradient.device)
    for edit in rows.edits(site):
        assert isinstance(edit, Edit)  # attention sees what patterns do
        there = ~rows.active[edit.row, edit.destination]
        row, destination = edit.row[there], edit.destination[there]
        example = rows.example[row]
        change = edit.new(new)[there] - base[example, destination]
        change = change * gradient[example, destination]
        if edit.units is not None:
            units = edit.units[there]
            change = change * units.reshape(*units.shape, *(1,) * (change.ndim - units.ndim))
        out.index_add_(0, row, change.flatten(1).sum(1).float())
    return out
