"""Forward passes in which each reader sees the writers it is wired to, and a reference of the rest.

A reader's input is the reference stream plus, for every writer wired to it, what that writer adds
now beyond what it adds in the reference. So any set of edges is run exactly, many sets at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.components.components import PROJECTIONS, Components, Projection
from interp.components.contrast import Contrast
from interp.components.graph import Graph
from interp.components.linear import each_head
from interp.model.memory import batches, rows_that_fit


@dataclass(frozen=True)
class Reference:
    """What each writer adds for readers that are not wired to it.

    Attributes:
        z, mlp: by layer, [example, position, …]; an axis may be 1 where all are the same.
        pre: the streams into each block that these add up to; the final one last.
        is_run: whether all this was written in one run, so that what reads it writes it too.
    """

    z: Sequence[Float[Tensor, "example position head d_head"]]
    mlp: Sequence[Float[Tensor, "example position d_model"]]
    pre: Sequence[Float[Tensor, "example position d_model"]]
    is_run: bool = True

    @classmethod
    def base_run(cls, contrast: Contrast) -> Reference:
        """The base run itself."""
        run, layers = contrast.base, range(contrast.parts.model.n_layers)
        return cls(
            [run.z(i) for i in layers],
            [run.mlp(i) for i in layers],
            [run.pre(i) for i in (*layers, len(layers))],
        )

    @classmethod
    def other_run(cls, contrast: Contrast) -> Reference:
        """The other run, at the base run's positions."""
        base, other, layers = contrast.base, contrast.other, range(contrast.parts.model.n_layers)
        moved = contrast.from_other
        return cls(
            [moved(base.z(i), other.z(i)) for i in layers],
            [moved(base.mlp(i), other.mlp(i)) for i in layers],
            [moved(base.pre(i), other.pre(i)) for i in (*layers, len(layers))],
            is_run=contrast.side_by_side,
        )

    @classmethod
    def constant(
        cls, parts: Components, embedding: Tensor, z: Sequence[Tensor], mlp: Sequence[Tensor]
    ) -> Reference:
        """The same values for every example and position: [d_model], [head, d_head] by layer."""
        pre = [embedding[None, None]]
        with torch.no_grad():
            for layer in range(parts.model.n_layers):
                added = parts.attention_out(layer, z[layer][None, None]) + mlp[layer]
                pre.append(pre[-1] + added)
        return cls([v[None, None] for v in z], [v[None, None] for v in mlp], pre, is_run=False)

    def at(self, value: Tensor, rows: Tensor) -> Tensor:
        """One of the values for these examples; a constant stays what it is."""
        return value if len(value) == 1 else value[rows]


class Wiring:
    """Rows that each have a wiring of their own.

    Args:
        contrast: runs of the prompts that the rows were made from.
        reference: what readers see of writers that they are not wired to.
        active: which edges are wired in each row [row, source, destination].
        rows: for each row the example of the contrast that it belongs to [row].
    """

    def __init__(
        self,
        contrast: Contrast,
        graph: Graph,
        reference: Reference,
        active: Bool[Tensor, "row source destination"],
        rows: Int[Tensor, " row"],
    ) -> None:
        self.contrast, self.graph, self.reference = contrast, graph, reference
        self.rows, device = rows.to(contrast.parts.model.device), contrast.parts.model.device
        active = active.to(device) & torch.from_numpy(graph.real).to(device)
        # Writers that nobody is wired to are not computed, nor are those that see no change.
        self.writers = active.any(2).any(0).nonzero().flatten()
        self.active = active[:, self.writers]
        wired = active.any(1).any(0).float() @ torch.from_numpy(graph.feeds).to(device).float() > 0
        self.computed: Tensor = wired[self.writers] | (not reference.is_run)
        _, length, width = contrast.shape
        dtype = contrast.parts.model.dtype
        self.added = torch.zeros(
            len(rows), len(self.writers), length, width, device=device, dtype=dtype
        )
        self.fixed = torch.zeros(len(rows), len(self.writers), dtype=torch.bool, device=device)

    def fix(
        self, writer: Int[Tensor, " row"], change: Float[Tensor, "row position d_model"]
    ) -> None:
        """Let one writer of each row add this beyond the reference, whatever it reads."""
        row, slot = (writer.to(self.rows.device)[:, None] == self.writers[None]).nonzero(
            as_tuple=True
        )
        self.added[row, slot] = change[row]
        self.fixed[row, slot] = True

    @torch.no_grad()
    def run(self) -> Float[Tensor, "row position d_model"]:
        """Compute all layers; returns what the unembedding reads."""
        for layer in range(self.graph.n_layers):
            heads = self._slots(self.graph.heads_of(layer))
            if len(heads):
                self._run_heads(layer, heads)
            writer = self.graph.mlp_writer(layer)
            mlp = self._slots(slice(writer, writer + 1))
            if len(mlp):
                stream = self.read(self.graph.mlp_reader(layer))
                out = self.contrast.parts.mlp(layer, stream)
                self._write(mlp, (out - self._reference(self.reference.mlp[layer]))[:, None])
        return self.read(len(self.graph.destinations) - 1)

    def read(self, destination: int) -> Float[Tensor, "row position d_model"]:
        """What one reader reads, once all writers before it have been computed."""
        inputs: Tensor = self._inputs(self.graph.layer_of(destination), torch.tensor([destination]))
        return inputs[:, 0]

    def _inputs(
        self, layer: int, destinations: Int[Tensor, " reader"]
    ) -> Tensor:  # [row, reader, position, d_model]
        graph, stream, before = self.graph, self.reference.pre[layer], len(self.graph.sources)
        if layer < graph.n_layers:
            before = graph.heads_of(layer).start
            if int(destinations[0]) == graph.mlp_reader(layer) and graph.mlp_reads_heads:
                stream = self.reference.pre[layer + 1] - self.reference.mlp[layer]
                before = graph.before_mlp(layer)
        n = int((self.writers < before).sum())
        wired = self.active[:, :n, destinations.to(self.rows.device)].transpose(1, 2)
        added = wired.to(self.added.dtype) @ self.added[:, :n].flatten(2)
        shape = (*added.shape[:2], *self.added.shape[2:])
        return self._reference(stream)[:, None] + added.reshape(shape)

    def _run_heads(self, layer: int, slots: Tensor) -> None:
        parts, graph = self.contrast.parts, self.graph
        reference = self._reference(self.reference.z[layer])
        if parts.heads_behind_norm(layer) or parts.heads_meet:
            # What one of them reads or puts out moves a scale, and with it what the others add.
            slots = self._slots(graph.heads_of(layer), all_wired=True)
        written = self.writers[slots] - graph.heads_of(layer).start
        head = torch.arange(graph.n_heads, device=slots.device) if parts.heads_meet else written
        n_rows, _, length, _ = self.added.shape
        given: dict[Projection, Tensor] = {}
        for projection in PROJECTIONS:
            mine = head if projection == "q" else (head // graph.queries_per_key).unique()
            streams = self._inputs(layer, mine + graph.readers(layer, projection).start)
            made = parts.read(layer, projection, streams, mine)
            # Other heads attend to nothing in particular; their output is not read.
            whole = made.new_zeros(n_rows, length, graph.heads(projection), made.shape[-1])
            whole[:, :, mine] = made.transpose(1, 2)
            given[projection] = whole
        z = parts.attend(layer, self.contrast.base, self.rows, given["q"], given["k"], given["v"])
        run = z
        if parts.heads_behind_norm(layer):
            # The scale is that of heads that somebody in the row hears, and of the reference.
            heard = (self.active[:, slots].any(2) & ~self.fixed[:, slots])[:, None, :, None]
            run = reference.expand_as(z).clone()
            run[:, :, written] = torch.where(heard, z[:, :, written], run[:, :, written])
        units = parts.units(layer, z, run) - parts.units(layer, reference)
        matrix = parts.output_weights(layer)[written]
        self._write(slots, each_head(units[:, :, written].transpose(1, 2), matrix))

    def _slots(self, sources: slice, *, all_wired: bool = False) -> Tensor:
        """Places in `added` of the writers among these sources that have to be computed."""
        inside = (self.writers >= sources.start) & (self.writers < sources.stop)
        found: Tensor = (inside if all_wired else inside & self.computed).nonzero().flatten()
        return found

    def _write(self, slots: Tensor, change: Float[Tensor, "row slot position d_model"]) -> None:
        kept = self.fixed[:, slots, None, None]
        self.added[:, slots] = torch.where(kept, self.added[:, slots], change)

    def _reference(self, value: Tensor) -> Tensor:
        found: Tensor = value if len(value) == 1 else value[self.rows]
        return found


def writer_changes(contrast: Contrast, graph: Graph, writers: Tensor, rows: Tensor) -> Tensor:
    """Other minus base of what one writer adds, for each row [row, position, d_model].

    Args:
        writers: index of each row's source [row].
        rows: which example of the contrast each row is [row].
    """
    out = contrast.input_change()[rows]
    for layer in range(graph.n_layers):
        heads = graph.heads_of(layer)
        mine = (writers >= heads.start) & (writers < heads.stop)
        if mine.any():
            head = writers[mine] - heads.start
            units = contrast.units_change(layer).transpose(1, 2)[rows[mine], head]
            out[mine] = units @ contrast.parts.output_weights(layer)[head]
        mine = writers == graph.mlp_writer(layer)
        if mine.any():
            out[mine] = contrast.mlp_change(layer)[rows[mine]]
    return out


def run_circuits(
    contrast: Contrast,
    graph: Graph,
    reference: Reference,
    circuits: npt.NDArray[np.bool_],
    progress: Callable[[int], None] = lambda _: None,
) -> npt.NDArray[np.float32]:
    """The metric where only a circuit's edges carry the base run, and all others the reference.

    Args:
        circuits: sets of edges [circuit, source, destination].
        progress: called with how many more circuits, times examples, have been run.

    Returns:
        [circuit, example].
    """
    active = torch.from_numpy(np.ascontiguousarray(circuits))
    values = np.zeros((len(circuits), len(contrast)), dtype=np.float32)
    # Circuits of like size side by side: what no row of a batch needs is not computed.
    order = np.argsort(circuits.sum((1, 2)), kind="stable")
    grid = np.meshgrid(order, np.arange(len(contrast)), indexing="ij")
    circuit, example = (torch.from_numpy(axis.ravel()) for axis in grid)
    embedding = contrast.base.pre(0) - reference.pre[0]

    def work(start: int, stop: int) -> Tensor:
        rows = example[start:stop]
        wiring = Wiring(contrast, graph, reference, active[circuit[start:stop]], rows)
        wiring.fix(torch.zeros_like(rows), embedding[rows])
        return contrast.scorer.value(wiring.run(), contrast.examples[rows])

    size = rows_that_fit(contrast.parts.model, wiring_memory(contrast, graph, len(graph.sources)))
    for start, stop, scores in batches(len(circuit), size, work):
        part = slice(start, stop)
        values[circuit[part].numpy(), example[part].numpy()] = scores.cpu().numpy()
        progress(stop - start)
    return values


def wiring_memory(contrast: Contrast, graph: Graph, writers: int) -> int:
    """Bytes that one row of a `Wiring` with so many wired writers takes (estimate)."""
    model = contrast.parts.model
    stream = contrast.shape[1] * contrast.shape[2] * model.dtype.itemsize
    readers = graph.n_heads + 2 * graph.n_key_value_heads
    return (writers + 4 * readers) * stream + model.memory_per_row(contrast.shape[1])
