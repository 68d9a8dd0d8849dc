"""The fit's Jacobians by closed blocks, where a model is made of such; see `products`."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from interp.components.components import Components
from interp.errors import ModelError, SiteError
from interp.forward.attending import Compared, attending
from interp.forward.passes import Recording, record, relative_error
from interp.lens.jacobian.closed import ClosedBlock
from interp.lens.jacobian.gradients import Summed, Work
from interp.lens.jacobian.products import Attended, Mixed, carried
from interp.model.identity.structure import hooks, walk
from interp.model.memory import (
    available_memory,
    fitting_threads,
    is_out_of_memory,
    rows_that_fit,
)
from interp.model.model import Model
from interp.prompts.tokens import pad
from interp.sites import Site

__all__ = ["Carrying", "carrying"]

T = TypeVar("T")
U = TypeVar("U")

# Bytes of the rows that are computed together: what stays near the caches.
PART_BYTES = 3 << 18
# Combinations of rows in the trial, tokens at a prompt's end that it averages over, and what its
# errors are at most (in float32 about 1e-6).
_TRIED, _TRIED_TOKENS, _SAME = 4, 8, 2e-5
# Of the work of making all matrices.
_PIECES = 8
# Tokens of short prompts that are computed together.
_TOKENS = 48


@dataclass(frozen=True)
class _Run:
    """Prompts that were run without their last tokens."""

    recording: Recording
    streams: dict[int, Tensor]
    compared: dict[int, Compared]


@dataclass(frozen=True)
class _Group:
    """Consecutive prompts of one length.

    Attributes:
        rows: of the batch.
        tokens: of V of all prompts of the batch, one after the other.
    """

    rows: slice
    tokens: slice
    length: int


@dataclass(frozen=True)
class _Batch:
    """What is carried down.

    Attributes:
        parts: groups, by number, and rows of the Jacobians that are computed together.
        matrices: of the MLP at hand, for each token; used for one block after the other.
        above: by part, what is carried.
    """

    run: _Run
    groups: list[_Group]
    parts: list[tuple[int, slice]]
    matrices: Float[Tensor, "token d_model d_model"]
    above: list[Tensor | None]


@dataclass(frozen=True)
class Carrying:
    """How Jacobians are computed on a model of closed blocks; attributes as of `Work`."""

    model: Model
    layers: tuple[int, ...]
    skip_first: int
    blocks: dict[int, ClosedBlock]
    prompts_at_once: int
    threads: int

    def __call__(self, rows: Sequence[Sequence[int]], told: Callable[[int], None]) -> Summed:
        """As `Work` does."""
        first, width = self.layers[0], self.model.d_model
        batch = self._batch(rows)
        total = torch.zeros(len(self.layers), width, width)
        squares = torch.zeros(len(self.layers), dtype=torch.float64)
        steps = (self.model.n_layers - first) * len(batch.parts)
        done = 0
        with _workers(self.threads) as each:
            for layer in reversed(range(first, self.model.n_layers)):
                found = self._below(batch, layer, each)
                for (_, part), means in zip(batch.parts, found, strict=True):
                    if layer in self.layers:
                        number = self.layers.index(layer)
                        total[number, part] += means.sum(0)
                        squares[number] += means.double().square().sum()
                    done += 1
                    told(width * done // steps)
        return Summed(total, squares)

    def _batch(self, rows: Sequence[Sequence[int]]) -> _Batch:
        width, groups = self.model.d_model, self._groups(rows)
        with fitting_threads(self.model):
            run = _run(self.model, self.layers[0], rows)
        fewest = self.threads if len(groups) < self.threads else 1
        parts = [(i, part) for i, one in enumerate(groups) for part in _parts(one, width, fewest)]
        matrices = torch.empty(groups[-1].tokens.stop, width, width)
        return _Batch(run, groups, parts, matrices, [None] * len(parts))

    def _below(self, batch: _Batch, layer: int, each: _Each) -> Iterator[Tensor]:
        """Carry all rows through one block; by part, the means below it."""
        block, matrices = self.blocks[layer], batch.matrices
        mixed = self._mixed(block, batch)
        for _ in each(lambda piece: mixed.fill(matrices, piece, _PIECES), range(_PIECES)):
            pass
        attended = list(each(lambda group: self._attended(block, batch.run, group), batch.groups))

        def carry(number: int) -> Tensor:
            group, part = batch.parts[number]
            mlp, above = matrices[batch.groups[group].tokens], batch.above[number]
            on = layer > self.layers[0]
            batch.above[number], means = carried(attended[group], mlp, part, above, on=on)
            return means

        yield from each(carry, range(len(batch.parts)))

    def _groups(self, rows: Sequence[Sequence[int]]) -> list[_Group]:
        found, row, token = [], 0, 0
        for length, alike in itertools.groupby(len(ids) - 1 for ids in rows):
            left, inside = len(list(alike)), length - self.skip_first
            most = max(1, _TOKENS // inside)
            while left:
                n = min(left, most)
                tokens = slice(token, token + n * inside)
                found.append(_Group(slice(row, row + n), tokens, length))
                row, token, left = row + n, tokens.stop, left - n
        return found

    @torch.no_grad()
    def _mixed(self, block: ClosedBlock, batch: _Batch) -> Mixed:
        run = batch.run
        stream, compared = run.streams[block.layer], run.compared[block.layer]
        if not block.parallel:
            z = (compared.scores.softmax(-1) @ compared.v).transpose(1, 2)
            stream = stream + block.components.attention_out(block.layer, z)
        flat = torch.cat(
            [stream[g.rows, self.skip_first : g.length].flatten(0, 1) for g in batch.groups]
        )
        return Mixed.at(block, block.slopes(flat), flat)

    def _attended(self, block: ClosedBlock, run: _Run, group: _Group) -> Attended:
        compared, rows, length = run.compared[block.layer], group.rows, group.length
        here = (compared.q, compared.k, compared.v)
        q, k, v = (value[rows, :, :length] for value in here)
        scores = compared.scores[rows, :, :length, :length]
        stream = run.streams[block.layer][rows, :length]
        return Attended.at(block, stream, Compared(q, k, v, scores), self.skip_first)


def carrying(
    model: Model, layers: Sequence[int], skip_first: int, rows: Sequence[Sequence[int]]
) -> Carrying | None:
    """How to compute the Jacobians of these prompts; None where the model is built otherwise.

    What closed blocks make of the shortest and the longest prompt is held against gradients.
    """
    if model.device.type != "cpu" or model.dtype != torch.float32:
        return None
    if hooks(walk(model.bridge)):
        return None  # which may change what a block computes
    longest = max(map(len, rows)) - 1 - skip_first
    each = longest * model.d_model**2 * model.dtype.itemsize
    memory, size = available_memory(), rows_that_fit(model, each // 4)
    if memory is not None:
        size = min(size, memory // (8 * each))
    if not size:
        return None
    try:
        blocks = _closed(model, layers[0], rows[-1])
        if blocks is None:
            return None
        found = Carrying(
            model,
            tuple(layers),
            skip_first,
            blocks,
            size,
            torch.get_num_threads(),
        )
        return found if all(_agrees(found, row) for row in (rows[0], rows[-1])) else None
    except (ModelError, SiteError, AttributeError, IndexError, KeyError, TypeError):
        return None
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        return None


def _agrees(found: Carrying, row: Sequence[int]) -> bool:
    """Whether on this prompt some combinations of rows are those that gradients make."""
    model, skip = found.model, max(found.skip_first, len(row) - 1 - _TRIED_TOKENS)
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(_TRIED, model.d_model, generator=generator)
    work = Work(model, found.layers, skip, 1, _TRIED, 1)
    ours = directions @ replace(found, skip_first=skip)([row], lambda _: None).total
    pairs = zip(ours, work.along(row, directions), strict=True)
    return all(relative_error(*pair) <= _SAME for pair in pairs)


def _closed(model: Model, first: int, row: Sequence[int]) -> dict[int, ClosedBlock] | None:
    with fitting_threads(model):
        components = Components(model, torch.tensor([row]))
        run = _run(model, first, [row])
        found = {}
        for layer in range(first, model.n_layers):
            block = ClosedBlock.of(
                components, layer, run.recording, run.compared[layer], run.streams[layer]
            )
            if block is None:
                return None
            found[layer] = block
    return found


def _run(model: Model, first: int, rows: Sequence[Sequence[int]]) -> _Run:
    ids = pad([list(row)[:-1] for row in rows], ("",) * len(rows)).ids
    layers = range(first, model.n_layers)
    sites = {layer: Site("resid_pre", layer) for layer in layers}
    with contextlib.ExitStack() as stack:
        stack.enter_context(model.lock)
        seen = {layer: stack.enter_context(attending(model, layer)) for layer in layers}
        recording = record(model, ids, sites.values())
    streams = {layer: recording[site] for layer, site in sites.items()}
    return _Run(recording, streams, {layer: found[0] for layer, found in seen.items()})


def _parts(group: _Group, width: int, fewest: int) -> Iterator[slice]:
    each = (group.tokens.stop - group.tokens.start) * width * torch.float32.itemsize
    n = min(width, max(fewest, -(-width * each // PART_BYTES)))
    bounds = [i * width // n for i in range(n + 1)]
    return (slice(*pair) for pair in itertools.pairwise(bounds))


class _Each:
    """Runs a function on each of some things, on several threads; results in order."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool

    def __call__(self, work: Callable[[T], U], things: Iterable[T]) -> Iterator[U]:
        return self._pool.map(work, things)


@contextlib.contextmanager
def _workers(threads: int) -> Iterator[_Each]:
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=_alone)
    try:
        torch.set_num_threads(1)
        yield _Each(pool)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


def _alone() -> None:
    # Of this thread only, as are gradients.
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
