"""Two runs of pairs, writer by writer and position by position: what one adds and the other not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.components.components import Components, PartsRun
from interp.forward.packing import Active
from interp.forward.passes import packs
from interp.metrics import Metric, Scorer
from interp.model.memory import batches, rows_that_fit
from interp.prompts.pairs import PromptPairs, Run


@dataclass(frozen=True)
class Contrast:
    """Some pairs, run both ways.

    Attributes:
        base: the run that is changed; all positions below are its own.
        other: the run that the changes come from.
        origin: for each position of the base run the one that stands for it in the other run, -1
            where there is none; nothing is changed there [example, position].
        examples: the pairs that the rows belong to [example].
        scorer: the metric at the base run's positions.
        base_value, other_value: the metric of the two runs [example].
    """

    parts: Components
    base: PartsRun
    other: PartsRun
    origin: Int[Tensor, "example position"]
    examples: Int[Tensor, " example"]
    scorer: Scorer
    base_value: Float[Tensor, " example"]
    other_value: Float[Tensor, " example"]
    _units: dict[int, Tensor] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(example, position, d_model) of the base run's streams."""
        n_examples, n_positions, d_model = self.base.pre(0).shape
        return n_examples, n_positions, d_model

    @property
    def side_by_side(self) -> bool:
        """Whether each position corresponds to the same one of the other run, as far as is read.

        Otherwise the other run's activations, moved to the base run's positions, are no run: none
        of its readers reads what its writers wrote.
        """
        last = self.scorer.positions(self.examples).max(1).values
        index = torch.arange(self.origin.shape[1], device=last.device)
        return not bool(((index <= last[:, None]) & (self.origin != index)).any())

    def from_other(self, base: Tensor, other: Tensor) -> Tensor:
        """An activation [example, position, …] of the other run at the base run's positions."""
        example = torch.arange(len(self), device=base.device)[:, None]
        moved = other[example, self.origin.clamp(min=0)]
        absent = (self.origin < 0).reshape(*self.origin.shape, *(1,) * (base.ndim - 2))
        return torch.where(absent, base, moved)

    def input_change(self) -> Float[Tensor, "example position d_model"]:
        """Other minus base of the embedding."""
        return self._change(self.base.pre(0), self.other.pre(0))

    def units_change(self, layer: int) -> Float[Tensor, "example position head unit"]:
        """Of what heads put out, in the units in which they write it, each run in its scale."""
        if layer not in self._units:
            units = (self.parts.units(layer, run.z(layer)) for run in (self.base, self.other))
            found = self._change(*units)
            if not self.parts.heads_behind_norm(layer):
                return found  # a difference, and quickly made again
            self._units[layer] = found
        return self._units[layer]

    def mlp_change(self, layer: int) -> Float[Tensor, "example position d_model"]:
        return self._change(self.base.mlp(layer), self.other.mlp(layer))

    def layer_change(self, layer: int) -> Float[Tensor, "example writer position d_model"]:
        """Other minus base of what each head and, last, the MLP of a layer adds."""
        heads = self.parts.written(layer, self.units_change(layer)).transpose(0, 1)
        # Writers first in memory: so the products by readers need no further copy.
        return torch.cat([heads, self.mlp_change(layer)[None]]).transpose(0, 1)

    def span(
        self, change: Float[Tensor, "row position d_model"], rows: Int[Tensor, " row"]
    ) -> tuple[Active, Active] | None:
        """Of rows whose streams were changed so, what `resume` has to compute and what is read.

        None where the model does not pack, or the base run was not recorded for it.
        """
        if not self.base.recording.kept:
            return None
        reads = self.scorer.positions(self.examples[rows])
        first, last, length = reads[:, 0], reads[:, -1], change.shape[1]
        differs = (change != 0).any(-1)
        start = torch.where(differs.any(1), differs.int().argmax(1), first)
        return (
            Active.between(torch.minimum(start, first), last, length),
            Active.between(first, last, length),
        )

    def _change(self, base: Tensor, other: Tensor) -> Tensor:
        return self.from_other(base, other) - base


def contrasts(
    parts: Components,
    pairs: PromptPairs,
    metric: Metric,
    base: Run,
    *,
    memory: int = 0,
    for_packing: bool = False,
) -> Iterator[Contrast]:
    """Run the pairs in pieces that fit into memory, once for each kind of sequence that is read.

    Args:
        base: the run that is changed, "clean" or "corrupt".
        memory: bytes that the caller needs for each pair besides the two recordings.
        for_packing: whether `interp.forward.packing` will be used on the base run.
    """
    model = parts.model
    other: Run = "corrupt" if base == "clean" else "clean"
    for read in metric.reads:
        readings = {run: pairs.reading(run, read) for run in (base, other)}
        origin = origins(pairs, base, readings[base].ids.shape[1], readings[base].positions)
        scorer = Scorer.of(model, pairs, metric, read, readings[base])
        other_scorer = Scorer.of(model, pairs, metric, read, readings[other])
        packed = for_packing and packs(model, readings[base].ids)

        def work(start: int, stop: int) -> Contrast:
            part = slice(start, stop)
            runs = [
                parts.run(readings[run].ids[part], for_packing=packed and run == base)  # noqa: B023
                for run in (base, other)
            ]
            examples = torch.arange(start, stop)
            values = [
                found.value(run.pre(model.n_layers), examples)
                for found, run in zip((scorer, other_scorer), runs, strict=True)  # noqa: B023
            ]
            here = torch.from_numpy(origin[part]).to(model.device)  # noqa: B023
            return Contrast(parts, runs[0], runs[1], here, examples, scorer, values[0], values[1])  # noqa: B023

        length = max(reading.ids.shape[1] for reading in readings.values())
        streams = 2 * (3 * model.n_layers + 1) + model.n_layers * parts.heads_behind_norm(0)
        kept = streams * length * model.d_model * model.dtype.itemsize
        size = rows_that_fit(model, memory + kept + model.memory_per_row(length))
        for _, _, contrast in batches(len(pairs), size, work):
            yield contrast


def origins(
    pairs: PromptPairs, base: Run, width: int, reads: Int[Tensor, "example read"]
) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """For each position of the base run the other run's position, -1 where none corresponds.

    Prompts correspond by their alignment; after the prompt both runs read the same tokens, step
    by step, so that these correspond in order.
    """
    runs: dict[Run, np.ndarray[tuple[int, int], np.dtype[np.int64]]] = {
        "clean": pairs.alignment.clean,
        "corrupt": pairs.alignment.corrupt,
    }
    other: Run = "corrupt" if base == "clean" else "clean"
    out = np.full((len(pairs), width), -1, dtype=np.int64)
    for example in range(len(pairs)):
        here, there = runs[base][example], runs[other][example]
        both = (here >= 0) & (there >= 0)
        out[example, here[both]] = there[both]
        end, end_there = (int(pairs.prompts(run).lengths[example]) for run in (base, other))
        forced = np.arange(end, int(reads[example].max()) + 1)
        out[example, forced] = forced - end + end_there
    return out
