"""The run that is changed and the one that values come from; rows that are changed at one place.

Both runs are recorded once. Rows then walk up the blocks with a batch that grows, as in a sweep:
each joins at the block of its place, and only positions that the change reaches are computed.
Unlike there what is written is any vector, and what comes out can be differentiated by it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import ModelError
from interp.forward.passes import Recording, packs, readout, record, recording_memory
from interp.forward.windows import windows
from interp.model.memory import available_memory, batches, memory_budget, rows_that_fit
from interp.model.model import Model
from interp.patching.values import RUNS, Direction, places
from interp.patching.walk import entry
from interp.prompts.pairs import PromptPairs
from interp.prompts.tokens import TokenBatch
from interp.sites import Site, width_at
from interp.subspaces.walk import Walk

Indices = npt.NDArray[np.int64]

# A graph holds several times what a plain pass does.
_GRAPH = 3
# Beside few rows of a small model, what happens between the matrix products costs more than these:
# measured on the bundled organism, 512 rows at once are two and a half times as fast as 20.
_CPU_ROWS = 512


@dataclass(frozen=True)
class Rows:
    """Changed runs, sorted by place.

    Attributes:
        place: which layer and position is changed, layer by layer [row].
        example: of which pair [row].
    """

    place: Indices
    example: Indices

    def __len__(self) -> int:
        return len(self.place)

    def part(self, start: int, stop: int) -> Rows:
        return Rows(self.place[start:stop], self.example[start:stop])

    @classmethod
    def grid(cls, places: Indices, examples: Indices) -> Rows:
        """Every example at each place."""
        return cls(np.repeat(places, len(examples)), np.tile(examples, len(places)))


class Runs:
    """Both runs of all pairs, at a grid of layers and positions, which is numbered layer by layer.

    Attributes:
        site: where in each layer.
        layer, slot: of each place [place].
        present: whether an example has such a token in both runs [place, example].
        base, source: activations of the run that is changed and of the other
            [place, example, width], in float32 or finer; 0 where an example has no such token.
        choices: the tokens that answers are chosen among, ascending; None for the vocabulary.
    """

    def __init__(
        self,
        model: Model,
        pairs: PromptPairs,
        direction: Direction,
        site: str,
        layers: tuple[int, ...],
        slots: tuple[int, ...],
        choices: Int[Tensor, " choice"] | None = None,
    ) -> None:
        self.model, self.choices = model, choices
        base, source = (pairs.prompts(run) for run in RUNS[direction])
        self._base, self._read = base, base.lengths - 1
        self._length = max(base.ids.shape[1], source.ids.shape[1])
        self.layer = np.repeat(np.array(layers), len(slots))
        self.slot = np.tile(np.array(slots), len(layers))
        where = places(pairs, direction, constant=False)
        self._position = where.destination[:, self.slot].T  # [place, example]
        self.present: npt.NDArray[np.bool_] = self._position >= 0
        kind = Site(site, 0).kind
        self.site, self._inside = site, kind.inside
        self._start = self.layer + (kind.part == "after")
        self._windows = windows(model, base.ids)
        self._packed = not self._windows and packs(model, base.ids)
        self._sites = [Site(site, layer) for layer in layers]
        self._last = Site("resid_post", model.n_layers - 1)
        self._streams = {entry(model.n_layers, int(at)) for at in self._start}
        self.width = width_at(model, site, self._length)
        self._kept: Recording | None = None
        shape = (len(self.layer), len(pairs), self.width)
        dtype = torch.promote_types(model.dtype, torch.float32)
        self.base = torch.zeros(shape, dtype=dtype, device=model.device)
        self.source = torch.zeros_like(self.base)
        self._final = torch.zeros(len(pairs), model.d_model, dtype=model.dtype, device=model.device)

        def work(start: int, stop: int) -> None:
            part = np.arange(start, stop)
            here = self._record(part)
            # A couple of prompts is often asked both ways: then each is changed, and a source.
            known = {prompt: row for row, prompt in enumerate(_prompts(base, part))}
            row = np.array([known.get(prompt, -1) for prompt in _prompts(source, part)])
            self._pick(here, part - start, where.destination, part, self.base)
            self._pick(here, row[row >= 0], where.origin, part[row >= 0], self.source)
            rest = part[row < 0]
            if len(rest):
                there = record(model, source.ids[rest], self._sites)
                self._pick(there, np.arange(len(rest)), where.origin, rest, self.source)
            read = self._read[part].to(model.device)
            self._final[start:stop] = here[self._last][torch.arange(len(part)), read]
            # Where all pairs fit into memory together, they are run only once.
            self._kept = here if len(part) == len(pairs) else None

        for _ in batches(len(pairs), self._pairs_that_fit(len(pairs)), work):
            pass
        if not all(bool(torch.isfinite(t).all()) for t in (self.base, self.source, self._final)):
            raise ModelError(
                f"Activations of {model.name} at '{site}' are not finite on these prompts; load it "
                "in float32."
            )

    def read(
        self,
        rows: Rows,
        vectors: Float[Tensor, "row width"],
        targets: Int[Tensor, " row"],
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
        """Whether each row's target is the likeliest token, and its log-probability in nats.

        The row's place holds its vector.
        """

        def read(logits: Tensor, wanted: Tensor) -> tuple[npt.NDArray[Any], ...]:
            chosen, number = self._chosen(logits), self._number(wanted)
            loss = torch.nn.functional.cross_entropy(chosen, number, reduction="none")
            return self._is_first(logits, wanted), -loss.cpu().numpy()

        right, logprob = self._each(rows, vectors, targets, read)
        return right, logprob

    def right(
        self,
        rows: Rows,
        vectors: Float[Tensor, "row width"],
        targets: Int[Tensor, " row"],
    ) -> npt.NDArray[np.bool_]:
        """The first of what `read` gives."""
        one = self._each(rows, vectors, targets, lambda *read: (self._is_first(*read),))
        return one[0]

    def _each(
        self,
        rows: Rows,
        vectors: Tensor,
        targets: Tensor,
        read: Callable[[Tensor, Tensor], tuple[npt.NDArray[Any], ...]],
    ) -> list[npt.NDArray[Any]]:
        """What is read of the logits and targets of all rows."""

        def work(start: int, stop: int) -> tuple[npt.NDArray[Any], ...]:
            logits = self._logits(rows.part(start, stop), vectors[start:stop], grad=False)
            return read(logits, targets[start:stop])

        parts = [part for *_, part in batches(len(rows), self._rows_that_fit(1), work)]
        return [np.concatenate(kind) for kind in zip(*parts, strict=True)]

    def right_unchanged(self, targets: Int[Tensor, " example"]) -> npt.NDArray[np.bool_]:
        """The same of the run as it is, for all pairs."""
        size = rows_that_fit(self.model, 3 * self.model.d_vocab * 4)
        parts = batches(
            len(targets),
            size,
            lambda a, b: self._is_first(readout(self.model, self._final[a:b]), targets[a:b]),
        )
        return np.concatenate([part for _, _, part in parts])

    def gradient(
        self,
        rows: Rows,
        vectors: Float[Tensor, "row width"],
        targets: Int[Tensor, " row"],
    ) -> tuple[Float[Tensor, " row"], Float[Tensor, "row width"]]:
        """Each row's cross-entropy of its target in nats, and the gradient by its vector."""
        losses = torch.empty(len(rows), device=vectors.device)
        gradients = torch.empty_like(vectors)

        def work(start: int, stop: int) -> None:
            part = vectors[start:stop].detach().requires_grad_()
            with torch.enable_grad():
                logits = self._chosen(self._logits(rows.part(start, stop), part, grad=True))
                wanted = self._number(targets[start:stop])
                loss = torch.nn.functional.cross_entropy(logits, wanted, reduction="none")
                (gradients[start:stop],) = torch.autograd.grad(loss.sum(), part)
            losses[start:stop] = loss.detach()

        for _ in batches(len(rows), self._rows_that_fit(_GRAPH * self.model.n_layers), work):
            pass
        return losses, gradients

    def _logits(
        self, rows: Rows, vectors: Float[Tensor, "row width"], *, grad: bool
    ) -> Float[Tensor, "row vocabulary"]:
        model, start = self.model, self._start[rows.place]
        recording, example = self._recording(rows.example)
        position = torch.from_numpy(self._position[rows.place, rows.example]).to(model.device)
        read = self._read[rows.example].to(model.device)
        into = vectors.to(model.dtype)
        walk = Walk(model, self.site, recording, example, position, read, into, grad)
        hidden: Tensor | None = None
        for block in range(int(start[0]), model.n_layers + 1):
            n = int(np.searchsorted(start, block, "right"))
            if self._inside:
                hidden = walk.through(block, hidden)
                hidden = walk.joined(hidden, block, n, inside=True)
            else:
                hidden = walk.joined(hidden, block, n, inside=False)
                hidden = walk.through(block, hidden)
        assert hidden is not None  # the first rows start at the first block of the walk
        return readout(model, walk.last(hidden), grad=grad)

    def _is_first(self, logits: Tensor, targets: Tensor) -> npt.NDArray[np.bool_]:
        logits, wanted = self._chosen(logits), self._number(targets)
        # A token that shares the first place has not been chosen.
        score = logits.gather(1, wanted[:, None])
        return np.asarray(((logits >= score).sum(1) == 1).cpu().numpy())

    def _chosen(self, logits: Tensor) -> Tensor:
        return logits if self.choices is None else logits[:, self.choices.to(logits.device)]

    def _number(self, targets: Tensor) -> Tensor:
        if self.choices is not None:
            targets = torch.searchsorted(self.choices, targets)
        return targets.to(self.model.device)

    def _record(self, examples: Indices) -> Recording:
        sites = {*self._sites, *self._streams, self._last}
        past, packed = self._windows, self._packed
        ids = self._base.ids[examples]
        return record(self.model, ids, sites, for_packing=packed, past=past)

    def _recording(self, examples: Indices) -> tuple[Recording, Tensor]:
        """A recording of the base run, and which of its examples each row is of."""
        if self._kept is not None:
            return self._kept, torch.from_numpy(examples).to(self.model.device)
        mine, local = np.unique(examples, return_inverse=True)
        return self._record(mine), torch.from_numpy(local.reshape(-1)).to(self.model.device)

    def _pick(
        self, run: Recording, rows: Indices, index: Indices, examples: Indices, into: Tensor
    ) -> None:
        """Put rows of a recorded run, at each place, where their examples are in `into`.

        Args:
            index: positions [example, slot].
            into: [place, example, width].
        """
        for number, (layer, slot) in enumerate(zip(self.layer, self.slot, strict=True)):
            at = torch.from_numpy(index[examples, slot]).to(self.model.device)
            found = run[Site(self.site, int(layer))][rows, at.clamp(min=0)].to(into.dtype)
            into[number, examples] = found * (at >= 0)[:, None]

    def _pairs_that_fit(self, n: int) -> int:
        model = self.model
        width = len(self._sites) * -(-self.width // model.d_model) + len(self._streams) + 1
        row = 2 * recording_memory(model, self._length, width + 3 * model.n_layers)
        most = memory_budget(model)
        if model.device.type == "cpu":
            # Recorded once and for all, they spare a pass at each step of a search.
            most = max(most, (available_memory() or 0) // 8)
        return max(1, min(n, most // row))

    def _rows_that_fit(self, passes: int) -> int:
        model = self.model
        row = passes * model.memory_per_row(self._length) + 3 * model.d_vocab * 4
        fit = rows_that_fit(model, row)
        if model.device.type != "cpu":
            return fit
        return max(fit, min(_CPU_ROWS, (available_memory() or 0) // 8 // row))


def _prompts(batch: TokenBatch, examples: Indices) -> list[tuple[int, ...]]:
    """The tokens of each, without padding."""
    ids, lengths = batch.ids[examples].tolist(), batch.lengths[examples].tolist()
    return [tuple(row[:length]) for row, length in zip(ids, lengths, strict=True)]
