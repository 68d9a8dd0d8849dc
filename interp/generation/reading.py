"""Texts that grow by a token at each step, read on without reading again what was read.

Keys and values of earlier tokens are kept (`interp.forward.past`), so that a step runs one token of
each text, where this gives the model's own numbers: it is tried on the prompts first, against whole
passes. Otherwise every step runs the whole texts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from interp import sites as site_names
from interp.forward.access import Points
from interp.forward.interventions import Plan
from interp.forward.passes import TOLERANCE, recording_memory, relative_error
from interp.forward.past import Past, is_rotated_by_length, past_memory, stepping_memory
from interp.forward.plain import PlainBlocks
from interp.forward.source import is_hooked
from interp.forward.trials import shown
from interp.generation.logits import predict
from interp.model.memory import (
    MemoryExhausted,
    batches,
    is_out_of_memory,
    room_to_keep,
    rows_that_fit,
)
from interp.model.model import Model
from interp.sites import Site

# Tokens that a trial reads on.
_TRIED = 2

Found = tuple[Tensor, dict[str, Tensor]]
"""Logits of the next token [row, vocabulary], and activations by site [row, …]."""
Work = Callable[[int, int], Found]


class Reader:
    """What a model says next of some texts, again and again while others append to them.

    Args:
        model: the model.
        changes: interventions, made for all examples.
        sites: of activations to keep.
        ids: token ids [example, position], right-padded, with room for what is appended.
        lengths: tokens of each text now [example]; whoever appends a token adds to it.
        shared: whether others may change the model between two steps.
    """

    def __init__(
        self,
        model: Model,
        changes: Plan,
        sites: Sequence[Site],
        ids: Int[Tensor, "example position"],
        lengths: Int[Tensor, " example"],
        *,
        shared: bool,
    ) -> None:
        self._model, self._changes, self._sites = model, changes, tuple(sites)
        self._ids, self._lengths, self._shared = ids, lengths, shared
        self._points: Points = {}
        self._plain: PlainBlocks | None = None
        self._parts: list[_Part] | None = None
        self._state: object = None

    def rows_to_keep(self) -> int:
        """How many texts' keys and values may be kept at once."""
        each = past_memory(self._model, self._ids.shape[1])
        return max(1, room_to_keep(self._model) // each)

    def read(self, rows: Int[Tensor, " row"]) -> Found:
        """Logits and activations at the ends of some of the texts read before, in order."""
        with self._model.lock:
            if self._is_new():
                self._parts = self._divided(rows)
            assert self._parts is not None
            self._parts = [part for part in self._parts if part.restrict(rows)]
            return _joined([self._advance(part) for part in self._parts])

    def _is_new(self) -> bool:
        """Whether the model is not the one that has read the texts so far."""
        if self._parts is not None and not self._shared:
            return False
        # A trial that finds nothing out: its result is another one once the model has changed.
        state = self._model.once("reading", object), is_hooked(self._model)
        if self._parts is not None and state == self._state:
            return False
        self._state = state
        self._points = shown(self._model, {Site(site.name, site.layer) for site in self._sites})
        self._changes = self._changes.renewed()
        self._plain = PlainBlocks.of(self._model) if self._model.is_as_built() else None
        return True

    def _divided(self, rows: Tensor) -> list[_Part]:
        lengths = self._lengths[rows]
        if not self._keeps(rows):
            return [_Part(rows, None)]
        length = self._ids.shape[1]
        width = sum(site_names.width_at(self._model, site.name, length) for site in self._points)
        size = rows_that_fit(self._model, stepping_memory(self._model, length, width))
        n = min(self.rows_to_keep(), len(lengths))
        parts = [_Part(rows[i : min(i + size, n)], Past()) for i in range(0, n, size)]
        return parts if n == len(rows) else [*parts, _Part(rows[n:], None)]

    def _advance(self, part: _Part) -> Found:
        if part.past is not None:
            try:
                return self._on(part) if len(part.past) else self._first(part)
            except MemoryExhausted:
                pass
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            # Without keys and values, and in smaller pieces.
            part.past = None
        return self._whole(part.rows)

    def _first(self, part: _Part) -> Found:
        """Read prompts, and keep their keys and values."""
        pieces: list[Past] = []

        def work(start: int, stop: int) -> Found:
            past = Past()
            found = self._pass(part.rows[start:stop], past)
            past.has_read(self._lengths[part.rows[start:stop]])
            pieces.append(past)
            return found

        found = self._in_pieces(part.rows, work)
        part.past = Past.joined(pieces)
        return found

    def _on(self, part: _Part) -> Found:
        assert part.past is not None
        rows = part.rows
        ids = self._ids[rows, self._lengths[rows] - 1][:, None]
        first = torch.zeros(len(rows), 1, dtype=torch.long)
        logits, kept = predict(
            self._model,
            ids,
            first,
            self._changes,
            rows,
            self._points,
            past=part.past,
            plain=self._plain,
        )
        part.past.has_read_on()
        return logits[:, 0], self._at(kept, first[:, 0])

    def _whole(self, rows: Tensor) -> Found:
        return self._in_pieces(rows, lambda start, stop: self._pass(rows[start:stop], None))

    def _pass(self, rows: Tensor, past: Past | None) -> Found:
        """A pass over whole texts."""
        ends = self._lengths[rows] - 1
        ids = self._ids[rows, : int(ends.max()) + 1]
        logits, kept = predict(
            self._model, ids, ends[:, None], self._changes, rows, self._points, past=past
        )
        return logits[:, 0], self._at(kept, ends)

    def _in_pieces(self, rows: Tensor, work: Work) -> Found:
        length = int(self._lengths[rows].max())
        width = sum(site_names.width_at(self._model, site.name, length) for site in self._points)
        streams = -(-width // self._model.d_model)
        each = recording_memory(self._model, length, streams) + past_memory(self._model, length)
        return _joined([f for *_, f in batches(len(rows), rows_that_fit(self._model, each), work)])

    def _at(self, kept: dict[Site, Tensor], ends: Int[Tensor, " row"]) -> dict[str, Tensor]:
        found = {}
        for site in self._sites:
            value = kept[Site(site.name, site.layer)]
            row = torch.arange(len(value), device=value.device)
            value = value[row, ends.to(value.device)]
            found[str(site)] = value if site.head is None else value[:, site.head]
        return found

    def _keeps(self, rows: Tensor) -> bool:
        """Whether reading on gives the numbers of whole passes; tried once, on the prompts."""
        lengths = self._lengths[rows]
        # Who placed hooks may have written them for whole activations. Of the last token that is
        # written nobody reads on.
        if is_hooked(self._model) or self._ids.shape[1] < int(lengths.max()) + 2:
            return False
        two = torch.stack([rows[lengths.argmax()], rows[lengths.argmin()]])
        ends = self._lengths[two]
        key = ("reads on", bool(ends[0] > ends[1]), tuple(sorted(self._points)))

        def keeps(plain: PlainBlocks | None) -> bool:
            def trial(*_: int) -> bool:
                return _reads_on(self._model, self._ids[two], ends, self._points, plain)

            tried = (*key, plain is not None)
            return self._model.once(tried, lambda: next(batches(1, 1, trial))[-1])

        try:
            if self._plain is not None and keeps(self._plain):
                return True
            self._plain = None
            return keeps(None)
        except MemoryExhausted:
            return False  # whole passes take less


@dataclass
class _Part:
    """Texts that are run together, and their keys and values where these are kept."""

    rows: Int[Tensor, " row"]
    past: Past | None

    def restrict(self, rows: Int[Tensor, " row"]) -> bool:
        """Go on with these texts only; whether any is left."""
        left = torch.isin(self.rows, rows).nonzero()[:, 0]
        if len(left) < len(self.rows):
            self.rows = self.rows[left]
            if self.past is not None and len(self.past) and len(left):
                self.past.keep(left)
        return len(left) > 0


def _joined(found: Sequence[Found]) -> Found:
    """Rows one after the other."""
    if len(found) == 1:
        return found[0]  # logits are large, and a copy of them costs as much as a softmax
    names = found[0][1]
    logits = torch.cat([logits for logits, _ in found])
    return logits, {name: torch.cat([kept[name] for _, kept in found]) for name in names}


def _reads_on(
    model: Model,
    ids: Int[Tensor, "row position"],
    ends: Int[Tensor, " row"],
    points: Points,
    plain: PlainBlocks | None,
) -> bool:
    """Compare some tokens that are read one by one with a whole pass."""
    if is_rotated_by_length(model):
        return False
    more = min(_TRIED, model.n_ctx - int(ends.max()))
    row = torch.arange(len(ids))
    whole = torch.zeros(len(ids), int(ends.max()) + more, dtype=torch.long)
    whole[:, : int(ends.max())] = ids[:, : int(ends.max())]
    for step in range(more):
        whole[row, ends + step] = ids[:, step]
    where = ends[:, None] - 1 + torch.arange(more + 1)
    none = Plan(model, (), {})
    logits, kept = predict(model, whole, where, none, row, points)
    past = Past()
    try:
        for step in range(more + 1):
            at = where[:, step, None]
            if step:
                token = whole.gather(1, at)
                read = predict(model, token, 0 * at, none, row, points, past=past, plain=plain)
                past.has_read_on()
                index = 0 * at
            else:
                width = int(ends.max())
                read = predict(model, whole[:, :width], at, none, row, points, past=past)
                past.has_read(ends)
                index = at
            pairs = [(read[0][:, 0], logits[:, step])]
            pairs += [
                (read[1][site][row, index[:, 0]], value[row, at[:, 0]])
                for site, value in kept.items()
            ]
            for ours, theirs in pairs:
                if ours.shape != theirs.shape:
                    return False
                if not relative_error(ours, theirs) <= TOLERANCE[model.dtype]:
                    return False
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, RuntimeError) and is_out_of_memory(error):
            raise
        return False
    return True
