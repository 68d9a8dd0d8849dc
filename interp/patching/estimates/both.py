"""The two runs that an estimate is made from, recorded, and how they differ cell by cell."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from interp.forward.passes import Recording, packs, recording_memory
from interp.forward.together import Ask, record_all
from interp.model.memory import rows_that_fit
from interp.patching.cells import Cells
from interp.patching.request import Request
from interp.patching.runner import Scores
from interp.patching.table import Mask
from interp.patching.values import TwoRuns
from interp.sites import Site, width_at

Moved = npt.NDArray[np.float32]
"""The estimated change of the metric by each cell of some examples [cell, layer]."""


@dataclass(frozen=True)
class Both:
    """Some pairs' two runs.

    Attributes:
        request: what is asked.
        runs: the runs as they are read.
        start: the first pair of the recordings.
        changed, other: recordings of the run that is changed and of the other: the site's
            activations, and of the changed one all streams.
        value, other_value: what they score [example].
        gradient: the metric's, by the final stream of the run that is changed.
    """

    request: Request
    runs: TwoRuns
    start: int
    changed: Recording
    other: Recording
    value: Float[Tensor, " example"]
    other_value: Float[Tensor, " example"]
    gradient: Float[Tensor, "example position d_model"]

    @classmethod
    def of(cls, request: Request, runs: TwoRuns, start: int, stop: int, needs: Needs) -> Both:
        """Run these pairs."""
        model, examples = runs.model, torch.arange(start, stop)
        last = Site("resid_post", model.n_layers - 1)
        sites = {last, *(Site(request.cells.site, layer) for layer in request.cells.layers)}
        mine = {Site(name, layer) for name in ("resid_pre", *needs.too) for layer in _all(model)}
        theirs = {Site(name, layer) for name in needs.too for layer in _all(model)}
        base, source = (reading.ids[start:stop] for reading in runs.readings)
        packing = needs.packing and packs(model, runs.readings[0].ids)
        here = Ask(base, frozenset(sites | mine), for_packing=packing, queries=packing)
        copied = sites if runs.constants is None else {last}
        changed, other = record_all(model, [here, Ask(source, frozenset(copied | theirs))])
        with needs.readout:
            value, gradient = runs.base.gradient(changed[last], examples)
        return cls(
            request,
            runs,
            start,
            changed,
            other,
            value,
            runs.source.value(other[last], examples),
            gradient,
        )

    @property
    def cells(self) -> Cells:
        return self.request.cells

    @property
    def examples(self) -> npt.NDArray[np.int64]:
        return np.arange(self.start, self.start + self.changed.batch)

    @property
    def mine(self) -> Mask:
        """Which cells are of these pairs [cell]."""
        return self.cells.of_examples(range(self.start, self.start + self.changed.batch))

    @property
    def rows(self) -> Tensor:
        return torch.arange(self.changed.batch, device=self.runs.model.device)

    def streams(self) -> dict[int, Tensor]:
        """Into each block."""
        return {i: self.changed[Site("resid_pre", i)] for i in range(self.runs.model.n_layers)}

    def difference(self, layer: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What each slot of the position axis is changed by at the site, and where it stands.

        Returns:
            [example, slot, …], in patterns [example, head, destination, source], and an index of
            activations by which they are found; slots that an example lacks hold anything.
        """
        site, places, device = Site(self.cells.site, layer), self.runs.places, self.gradient.device
        here, there = (
            torch.from_numpy(slots[self.examples]).clamp(min=0).to(device)
            for slots in (places.destination, places.origin)
        )
        n_heads = self.changed[site].shape[1]
        at_here, at_there = (_at(slots, site, n_heads) for slots in (here, there))
        found = (
            self.runs.values(site, self.other, self.start)[at_there] - self.changed[site][at_here]
        )
        return found, at_here

    def whole_difference(self, layer: int) -> Tensor:
        """The same, laid out as the activation itself [example, position, …]; 0 at other tokens."""
        site, places = Site(self.cells.site, layer), self.runs.places
        difference, at = self.difference(layer)
        present = places.present(self.examples)
        if site.kind.pairwise:
            present = places.attended(self.examples)[:, None]
        there_is = torch.from_numpy(present).to(difference.device)
        there_is = there_is.reshape(*there_is.shape, *(1,) * (difference.ndim - there_is.ndim))
        out = torch.zeros_like(self.changed[site])
        # Slots that an example lacks point anywhere, and add nothing there.
        shape = torch.broadcast_shapes(*(index.shape for index in at))  # type: ignore[no-untyped-call]
        at = tuple(index.expand(shape) for index in at)
        return out.index_put_(at, difference * there_is, accumulate=True)

    def moved(self, layer: int, gradient: Tensor) -> Moved:
        """Difference times gradient, summed over what each cell replaces [cell]."""
        cells, site = self.cells, Site(self.cells.site, layer)
        difference, here = self.difference(layer)
        return self.summed(site, (difference * gradient[here]).float(), cells)

    def summed(self, site: Site, moved: Tensor, cells: Cells) -> Moved:
        """Sums over what each cell replaces [cell].

        Args:
            moved: of each entry of the activation, as `difference` gives them.
        """
        places, examples = self.runs.places, self.examples
        if site.kind.pairwise:
            present = places.attended(examples)
            moved = moved.movedim(1, -1)  # [example, destination, source, head]
        else:
            present = places.present(examples)
            moved = moved if site.kind.unit == "neuron" else moved.sum(-1)
            moved = moved.reshape(*present.shape, 1, -1)  # [example, slot, 1, head or neuron]
        there_is = torch.from_numpy(present).to(moved.device)
        moved = moved * there_is.reshape(*there_is.shape, *(1,) * (4 - there_is.ndim))
        moved = _summed(moved, 1, cells.places.members)
        if cells.sources is not None:
            moved = _summed(moved, 2, cells.sources.members)
        every = np.ones((1, moved.shape[3]), dtype=np.bool_)
        moved = _summed(moved, 3, every if cells.units is None else cells.units.members)
        mine = self.mine
        example = cells.example[mine] - self.start
        index = (example, cells.place[mine], cells.source[mine], cells.unit[mine])
        return np.asarray(moved.cpu().numpy()[index])


@dataclass(frozen=True)
class Needs:
    """What a method wants of the two runs.

    Attributes:
        too: sites that are recorded in all layers, besides the one that is asked for.
        packing: whether what packed blocks need is kept, where the model can be packed.
        rows: how many rows of a block's graph there are for each pair.
        readout: inside of this the metric is differentiated.
    """

    too: tuple[str, ...] = ()
    packing: bool = False
    rows: int = 1
    readout: AbstractContextManager[None] = field(default_factory=contextlib.nullcontext)

    def pairs_that_fit(self, cells: Cells, runs: TwoRuns) -> int:
        """How many pairs to take at a time."""
        model, length = runs.model, runs.length
        width = 2 * len(cells.layers) * width_at(model, cells.site, length)
        width += 2 * model.n_layers * sum(width_at(model, name, length) for name in self.too)
        streams = -(-width // model.d_model) + (5 if self.packing else 1) * model.n_layers + 2
        # A graph holds several times what a plain pass does.
        memory = 2 * recording_memory(model, length, streams)
        return rows_that_fit(model, memory + 2 * (self.rows - 1) * model.memory_per_row(length))


def unpatched_scores(both: Both) -> tuple[Scores, Scores]:
    """Of the run that is changed and of the other [example]."""
    return both.value.cpu().numpy(), both.other_value.cpu().numpy()


def _all(model: object) -> range:
    return range(int(model.n_layers))  # type: ignore[attr-defined]


def _at(slots: Tensor, site: Site, n_heads: int) -> tuple[Tensor, ...]:
    """An index of activations of `site` at these slots [example, slot]."""
    example = torch.arange(len(slots), device=slots.device)
    if not site.kind.pairwise:
        return example[:, None], slots
    head = torch.arange(n_heads, device=slots.device)
    destination, source = slots[:, None, :, None], slots[:, None, None, :]
    return example[:, None, None, None], head[None, :, None, None], destination, source


def _summed(values: Tensor, axis: int, members: Mask) -> Tensor:
    """Sums over the members of each choice along an axis."""
    weights = torch.from_numpy(members).to(values)
    return (values.movedim(axis, -1) @ weights.T).movedim(-1, axis)
