"""Runs of prompts with other free tokens, exact, of which only what these can reach is computed.

A row is one prompt with other streams from its first changed token on. Behind it, as far as is
read, positions are run again; all before are those of a recorded run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.forward.access import Change, changing
from interp.forward.passes import Recording, record, recording_memory, resume
from interp.forward.windows import Window, through, through_last, windows
from interp.model.memory import batches, rows_that_fit
from interp.model.model import Model
from interp.search.goal import Asked, Part, Projection
from interp.search.layout import Tokens
from interp.search.streams import Placed
from interp.sites import Site

Indices = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]
_ENTRY = Site("resid_pre", 0)


@dataclass(frozen=True)
class Rows:
    """Rows of one part, beside the run that they leave.

    Attributes:
        asked, part: what is read.
        recording: of the prompts of this piece with some free tokens.
        start: the first of these prompts.
        windowed: whether only the positions behind a change are laid out.
        slots: how many tokens are free.
    """

    model: Model
    asked: Asked
    part: Part
    recording: Recording
    start: int
    windowed: bool
    slots: int

    @property
    def offset(self) -> Int[Tensor, " example"]:
        """Where the first free token of each recorded prompt stands."""
        heads = self.asked.layout.head[self.start : self.start + self.recording.batch]
        return torch.tensor([len(head) for head in heads], device=self.model.device)

    def streams(self) -> Float[Tensor, "example slot d_model"]:
        """What the recorded prompts have at their free tokens before the first block."""
        at = self.offset[:, None] + torch.arange(self.slots, device=self.model.device)
        stream = self.recording[_ENTRY]
        return stream[torch.arange(len(stream), device=stream.device)[:, None], at]

    def read(
        self,
        example: Int[Tensor, " row"],
        first: Int[Tensor, " row"],
        vectors: Float[Tensor, "row slot d_model"],
        *,
        grad: bool = False,
    ) -> Float[Tensor, "row read d_model"]:
        """What is read of rows with these streams at their free tokens.

        Args:
            example: counted from the first recorded prompt.
            first: the first slot that is changed in each; earlier ones are left as recorded.
            grad: whether the result can be differentiated by `vectors`.
        """
        reads = self.part.reads[self.start + example.cpu()].to(self.model.device)
        goal, offset = self.asked.goal, self.offset[example]
        last = reads.amax(1)
        width = self.recording[_ENTRY].shape[1]
        if self.windowed:
            size = int((last - offset - first).max()) + 1
            window = Window.of(example, offset + first, last, size)
            hidden, origin = window.gather(self.recording[_ENTRY]), window.start
        else:
            hidden = self.recording[_ENTRY].index_select(0, example)
            origin = torch.zeros_like(last)
            size = width
        slot = torch.arange(self.slots, device=hidden.device)
        row, changed = (slot >= first[:, None]).nonzero(as_tuple=True)
        at = offset[row] - origin[row] + changed
        hidden = hidden.index_put((row, at), vectors[row, changed].to(hidden.dtype))
        depth = self.model.n_layers
        if isinstance(goal, Projection):
            depth = goal.layer + (Site(goal.site, goal.layer).kind.part != "before")
        one = reads.shape[1] == 1 and not isinstance(goal, Projection)
        seen: list[Tensor] = []
        for layer in range(depth):
            inside = _inside(goal, layer)
            with contextlib.ExitStack() as stack:
                if inside is not None:
                    stack.enter_context(changing(self.model, [(inside, _looking(seen))]))
                if not self.windowed:
                    hidden = resume(
                        self.model,
                        self.recording,
                        hidden,
                        example,
                        start=layer,
                        stop=layer + 1,
                        grad=grad,
                    )
                elif one and layer == self.model.n_layers - 1:
                    return through_last(self.model, self.recording, hidden, window, grad=grad)
                else:
                    hidden = through(
                        self.model,
                        self.recording,
                        layer,
                        hidden,
                        window,
                        packed=inside is None,
                        grad=grad,
                    )
            if inside is not None:
                hidden = seen[-1]
        return hidden[
            torch.arange(len(hidden), device=hidden.device)[:, None], reads - origin[:, None]
        ]

    def memory(self, size: int) -> int:
        """Bytes that a row takes of which so many positions are laid out (estimate)."""
        model, width = self.model, self.recording[_ENTRY].shape[1]
        d_head = int(model.bridge.cfg.d_head)
        size = size if self.windowed else width
        past = 4 * width * model.n_heads * d_head if self.windowed else 0
        scores = 5 * model.n_heads * size * width
        return model.memory_per_row(size) + (past + scores) * model.dtype.itemsize


def _looking(seen: list[Tensor]) -> Change:
    def look(value: Tensor) -> Tensor:
        # Some streams are added to in place afterwards, where no gradient forbids it.
        seen.append(value if value.requires_grad else value.clone())
        return value

    return look


def _inside(goal: object, layer: int) -> Site | None:
    """The site that a projection reads inside of this block."""
    if not isinstance(goal, Projection) or goal.layer != layer:
        return None
    site = Site(goal.site, layer)
    return site if site.kind.inside else None


def recorded(model: Model, asked: Asked, part: Part, tokens: Sequence[int]) -> Iterator[Rows]:
    """The prompts with these free tokens, run once, in pieces that fit into memory."""
    ids = asked.with_tokens(part, tokens)
    windowed = windows(model, ids)
    streams = 1 + (2 * model.n_layers if windowed else 0)
    size = rows_that_fit(model, 2 * recording_memory(model, ids.shape[1], streams))

    def work(start: int, stop: int) -> Recording:
        return record(model, ids[start:stop], [_ENTRY], past=windowed)

    for start, _, found in batches(len(ids), size, work):
        yield Rows(model, asked, part, found, start, windowed, len(tokens))


def scores(
    model: Model,
    asked: Asked,
    base: Tokens,
    candidates: Indices,
    batch_size: int | None = None,
) -> Scores:
    """The score of each prompt with each of some free tokens, as whole passes have it.

    Args:
        base: free tokens of which the prompts are run once; candidates leave these where they
            first differ.
        candidates: token ids [candidate, slot].
        batch_size: rows in one pass; as many as fit if left out.

    Returns:
        [candidate, example], of the goal.
    """
    n = len(asked.layout)
    out = np.zeros((len(candidates), n))
    if not len(candidates):
        return out
    differs = candidates != np.asarray(base)
    # What differs nowhere is run from its last token on.
    first = np.where(differs.any(1), differs.argmax(1), len(base) - 1)
    placed = Placed(model, [len(head) for head in asked.layout.head], torch.from_numpy(candidates))
    for part in asked.parts:
        for rows in recorded(model, asked, part, base):
            _add(out, rows, candidates, first, placed, batch_size)
    return out


def _add(
    out: Scores,
    rows: Rows,
    candidates: Indices,
    first: Indices,
    placed: Placed,
    batch_size: int | None,
) -> None:
    model, part = rows.model, rows.part
    batch = rows.recording.batch
    candidate, example = (
        index.ravel() for index in np.indices((len(candidates), batch), dtype=np.int64)
    )
    last = part.reads.amax(1).numpy()[rows.start + example]
    sizes = last - rows.offset.cpu().numpy()[example] - first[candidate] + 1
    # Rows of one length together: a batch is as long as its longest.
    order = np.argsort(sizes, kind="stable")
    start = 0
    while start < len(order):
        same = int(np.searchsorted(sizes[order], sizes[order[start]], "right"))
        stop = _stretched(sizes[order], start, same)
        mine = order[start:stop]

        def work(a: int, b: int, mine: Indices = mine) -> Tensor:
            some = mine[a:b]
            number = placed.number(rows.start + example[some], candidate[some])
            at = torch.from_numpy(example[some]).to(model.device)
            vectors = placed.values[number.to(model.device)]
            hidden = rows.read(
                at, torch.from_numpy(first[candidate[some]]).to(model.device), vectors
            )
            return part.value(hidden, rows.start + at, rows.asked.unit)

        size = batch_size or rows_that_fit(model, rows.memory(int(sizes[mine].max())))
        for a, b, found in batches(len(mine), size, work):
            some = mine[a:b]
            out[candidate[some], rows.start + example[some]] += found.double().cpu().numpy()
        start = stop


# Rows that are a little shorter than the longest of a batch waste little of it, and few rows most.
_WASTE, _FEW = 1.15, 32


def _stretched(sizes: Indices, start: int, stop: int) -> int:
    """As far as a batch may reach that begins at `start` and holds all rows before `stop`."""
    while stop < len(sizes):
        size = int(sizes[stop])
        beyond = int(np.searchsorted(sizes, size, "right"))
        done = int(sizes[start:stop].sum())
        short = stop - start < _FEW
        if not short and (stop - start) * size > _WASTE * done:
            break
        stop = beyond
    return stop


@dataclass(frozen=True)
class Slope:
    """Scores of the prompts, and their gradients.

    Attributes:
        scores: [example].
        by_slot: by the stream at each free token before the first block, mean over prompts
            [slot, d_model].
    """

    scores: Scores
    by_slot: Float[Tensor, "slot d_model"]


def slope(
    model: Model,
    asked: Asked,
    tokens: Tokens,
    moved: Float[Tensor, "slot d_model"] | None = None,
) -> Slope:
    """Scores with these free tokens, and the gradient of their mean.

    Args:
        moved: what is added to the streams of the free tokens, in every prompt.
    """
    n, k = len(asked.layout), len(tokens)
    out = np.zeros(n)
    total = torch.zeros(k, model.d_model, device=model.device)
    for part in asked.parts:
        for rows in recorded(model, asked, part, tokens):
            streams = rows.streams()
            if moved is not None:
                streams = streams + moved.to(streams.dtype)
            fit = rows_that_fit(model, model.n_layers * rows.memory(rows.part.ids.shape[1]))

            def work(a: int, b: int, rows: Rows = rows, streams: Tensor = streams) -> Tensor:
                example = torch.arange(a, b, device=model.device)
                leaf = streams[a:b].detach().requires_grad_()
                first = torch.zeros_like(example)
                with torch.enable_grad():
                    hidden = rows.read(example, first, leaf, grad=True)
                values, by = rows.part.gradient(
                    hidden.detach(), rows.start + example, rows.asked.unit
                )
                out[rows.start + a : rows.start + b] += values.double().cpu().numpy()
                (found,) = torch.autograd.grad(hidden, leaf, by.to(hidden.dtype))
                return found.float().sum(0)

            for _, _, found in batches(rows.recording.batch, fit, work):
                total += found
    return Slope(out, total / n)


def moved_scores(
    model: Model,
    asked: Asked,
    tokens: Tokens,
    moved: Float[Tensor, "draw slot d_model"],
    batch_size: int | None = None,
) -> Scores:
    """Scores with these free tokens, whose streams are moved [draw, example]."""
    out = np.zeros((len(moved), len(asked.layout)))
    for part in asked.parts:
        for rows in recorded(model, asked, part, tokens):
            batch = rows.recording.batch
            draw, example = (index.ravel() for index in np.indices((len(moved), batch)))
            streams = rows.streams()

            def work(
                a: int,
                b: int,
                rows: Rows = rows,
                streams: Tensor = streams,
                draw: Indices = draw,
                example: Indices = example,
            ) -> Tensor:
                at = torch.from_numpy(example[a:b]).to(model.device)
                by = moved[torch.from_numpy(draw[a:b]).to(moved.device)]
                vectors = streams[at] + by.to(streams.dtype)
                hidden = rows.read(at, torch.zeros_like(at), vectors)
                return rows.part.value(hidden, rows.start + at, rows.asked.unit)

            fit = batch_size or rows_that_fit(model, rows.memory(rows.part.ids.shape[1]))
            for a, b, found in batches(len(draw), fit, work):
                out[draw[a:b], rows.start + example[a:b]] += found.double().cpu().numpy()
    return out
