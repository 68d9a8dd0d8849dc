"""One walk up the stack of blocks with a batch that grows by the cells of each layer."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp import sites as site_names
from interp.forward import Recording, hooked, resume
from interp.metrics import Term
from interp.model import Model
from interp.packing import Active
from interp.patching.cells import Cells, Edit, Indices, edit_for
from interp.patching.sources import Constants
from interp.prompts import PromptPairs, Reading, Run
from interp.sites import Site

Direction = Literal["denoising", "noising"]

# (the run that is changed, the run that the values come from)
RUNS: dict[str, tuple[Run, Run]] = {
    "denoising": ("corrupt", "clean"),
    "noising": ("clean", "corrupt"),
}


@dataclass(frozen=True)
class Plan:
    """Everything that the terms of a metric need that are read from the same sequences."""

    model: Model
    pairs: PromptPairs
    site: str
    layers: tuple[int, ...]
    cells: Cells
    terms: tuple[tuple[Term, Int[Tensor, "example read"]], ...]
    direction: Direction
    batch_size: int | None
    base: Reading
    source: Reading
    constants: Constants | None

    @property
    def base_run(self) -> Run:
        return RUNS[self.direction][0]

    @property
    def source_run(self) -> Run:
        return RUNS[self.direction][1]

    @property
    def length(self) -> int:
        return max(self.base.ids.shape[1], self.source.ids.shape[1])

    def slots(self, run: Run) -> npt.NDArray[np.int64]:
        return self.pairs.alignment.clean if run == "clean" else self.pairs.alignment.corrupt

    def edit(self, cells: Indices, offset: int) -> Edit:
        """The entries to replace for these cells, in recordings that start at example `offset`."""
        destination = self.slots(self.base_run)
        # A constant has no place of its own.
        origin = destination if self.constants else self.slots(self.source_run)
        return edit_for(self.cells, cells, destination, origin, offset, self.model.device)

    def values(self, layer: int, source: Recording) -> Tensor:
        """What is put in at `layer` [example, position, …]."""
        if self.constants is None:
            return source[Site(self.site, layer)]
        constant = self.constants[layer]
        return constant.expand(source.batch, self.length, *constant.shape)

    def entry(self, layer: int) -> tuple[Site, int]:
        """In which state cells of `layer` join the batch, and before which block."""
        if self.site == "resid_post":
            return Site("resid_post", layer), layer + 1
        return Site("resid_pre", layer), layer


def walk(
    plan: Plan,
    recordings: tuple[Recording, Recording],
    edit: Edit,
    examples: npt.NDArray[np.int64],
    offset: int,
) -> Float[Tensor, "row position d_model"]:
    """Final residual streams of all cells: the first layer's rows, then the second's, …"""
    model, (base, source) = plan.model, recordings
    example = torch.from_numpy(examples).to(model.device)
    joining = {plan.entry(layer)[1]: layer for layer in plan.layers}
    spans = _Spans.of(plan, edit, examples + offset) if base.kept else None
    hidden: Tensor | None = None
    for block in range(min(joining), model.n_layers + 1):
        run = functools.partial(resume, model, base, start=block, stop=block + 1)
        n_joined = 0 if hidden is None else len(hidden) // len(example)
        new: Tensor | None = None
        hooks = []
        if block in joining:
            layer = joining[block]
            values = plan.values(layer, source)
            new = base[plan.entry(layer)[0]].index_select(0, example)
            if plan.site in ("resid_pre", "resid_post"):
                edit.write(new, values)
                hidden, new = new if hidden is None else torch.cat([hidden, new]), None
                n_joined += 1
            else:
                point = site_names.hook_point(model, Site(plan.site, layer))
                hooks = [(point, edit.hook(plan.site, values))]
        if block == model.n_layers:
            break
        if hidden is not None:
            rows = example.repeat(n_joined)
            hidden = run(hidden, rows, span=spans.repeat(n_joined) if spans else None)
        if new is not None:
            # A hook must see whole activations, so the rows that join here run on their own.
            with model.lock, hooked(hooks):
                new = run(new, example)
            hidden = new if hidden is None else torch.cat([hidden, new])
    assert hidden is not None  # check_by and _layers leave at least one layer
    return hidden


@dataclass(frozen=True)
class _Spans:
    """Of each cell of one layer the first position that changes, and the reads [cell]."""

    first: Int[Tensor, " cell"]
    read: Int[Tensor, " cell"]
    last: Int[Tensor, " cell"]
    length: int

    @classmethod
    def of(cls, plan: Plan, edit: Edit, examples: npt.NDArray[np.int64]) -> _Spans:
        device = plan.model.device
        base, source = plan.base, plan.source
        width = min(base.ids.shape[1], source.ids.shape[1])
        differs = base.ids[examples, :width] != source.ids[examples, :width]
        # Two runs that start with the same tokens have the same activations there, so copying
        # one of them to its own place changes nothing.
        shared = torch.where(differs.any(1), differs.int().argmax(1), width).to(device)
        idle = (edit.origin == edit.destination) & (edit.destination < shared[edit.row])
        idle &= plan.constants is None
        reads = base.positions[examples].to(device)
        first = reads[:, 0].scatter_reduce(0, edit.row[~idle], edit.destination[~idle], "amin")
        return cls(first, reads[:, 0], reads[:, -1], base.ids.shape[1])

    def repeat(self, times: int) -> tuple[Active, Active]:
        first, read, last = (t.repeat(times) for t in (self.first, self.read, self.last))
        return (
            Active.between(first, last, self.length),
            Active.between(read, last, self.length),
        )
