"""Of each row only the last positions, as many in every row: what changed stands among them.

All else is the recorded run's. A block is called as it is while a text is generated: with the
positions that are new and a cache of keys and values. This cache is laid out as the recorded run's
was, with what the block has just made put in its place, so that masks and biases stay what they
were. So nothing of a block is written again, and nothing at other positions is laid out.

Of the last block one position is read. There the others that have changed give their keys and
values alone: the call ends where the block hands these to its cache.
"""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from interp.forward import packing
from interp.forward.attending import at_positions
from interp.forward.packing import Active
from interp.forward.passes import TOLERANCE, Recording, record, relative_error, resume
from interp.model.identity.structure import hooks, walk
from interp.model.memory import batches, is_out_of_memory
from interp.model.model import Model
from interp.sites import Site

# A shorter prompt does not tell two windows apart.
_LEAST = 4


@dataclass(frozen=True, eq=False)
class Window:
    """Where the windows of some rows lie.

    Attributes:
        example: of the recorded run [row].
        start: where each begins in the text [row].
        changed: what must be computed, as positions in windows.
        read: what will be read at the end, likewise.
        size: positions in each.
    """

    example: Int[Tensor, " row"]
    start: Int[Tensor, " row"]
    changed: Active
    read: Active
    size: int

    @classmethod
    def of(
        cls,
        example: Int[Tensor, " row"],
        first: Int[Tensor, " row"],
        last: Int[Tensor, " row"],
        size: int,
    ) -> Window:
        """Windows that end at `last` where the text is long enough.

        Args:
            first: the first position that has changed.
            last: the one that is read; no further from it than `size`.
        """
        start = (last - size + 1).clamp(min=0)
        changed = Active.between(first - start, last - start, size)
        return cls(example, start, changed, Active.between(last - start, last - start, size), size)

    @functools.cached_property
    def position(self) -> Int[Tensor, "row run"]:
        """Places in the text."""
        return self.start[:, None] + torch.arange(self.size, device=self.start.device)

    def gather(
        self, full: Float[Tensor, "example position width"]
    ) -> Float[Tensor, "row run width"]:
        """What stands there in the recorded run."""
        at = self.example[:, None] * full.shape[1] + self.position
        return full.flatten(0, 1).index_select(0, at.flatten()).view(*at.shape, -1)

    def moved(self, heads: int, length: int) -> tuple[Tensor, Tensor]:
        """Indices of what has changed, in windows and in texts: [row, head, position] flattened."""
        row, head = self.changed.row[:, None], torch.arange(heads, device=self.start.device)
        at = (row * heads + head, self.changed.position[:, None])
        here, there = at[1], at[1] + self.start[row]
        return (at[0] * self.size + here).flatten(), (at[0] * length + there).flatten()

    @functools.cached_property
    def end(self) -> Window:
        """Windows of what is read alone."""
        last = self.start + self.read.position
        return Window.of(self.example, last, last, 1)

    @functools.cached_property
    def others(self) -> Active:
        """What has changed and is not read."""
        row, position = self.changed.row, self.changed.position
        other = position != self.read.position[row]
        return Active(row[other], position[other])


@dataclass(frozen=True)
class _Apart:
    """Keys and values that were made apart, and where they go: [row, head, position] flattened."""

    keys: Float[Tensor, "place d_head"]
    values: Float[Tensor, "place d_head"]
    there: Int[Tensor, " place"]


class _Past(DynamicCache):  # type: ignore[misc]
    """Keys and values of one block: those of the recorded run but where the window has changed."""

    def __init__(self, kept: tuple[Tensor, Tensor], window: Window, apart: _Apart | None) -> None:
        super().__init__()
        self._kept, self._window, self._apart = kept, window, apart

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        here, there = self._window.moved(*self._kept[0].shape[1:3])
        apart = self._apart
        if apart is not None:
            there = torch.cat([there, apart.there])

        def placed(new: Tensor, kept: Tensor, more: Tensor | None) -> Tensor:
            full = kept.index_select(0, self._window.example)
            flat = new.reshape(-1, new.shape[-1]).index_select(0, here)
            if more is not None:
                flat = torch.cat([flat, more])
            # Detached, it is no view whose base the gradient would have to go through.
            return full.flatten(0, 2).detach().index_copy_(0, there, flat).view(full.shape)

        return (
            placed(keys, self._kept[0], apart.keys if apart else None),
            placed(values, self._kept[1], apart.values if apart else None),
        )


class _Reached(Exception):  # no error: a call has come as far as it should
    """Keys and values of a block, [row, head, position, d_head], as they would be compared."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys, values


class _Ending(DynamicCache):  # type: ignore[misc]
    """Ends the call of a block when it has made its keys and values."""

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        raise _Reached(keys, values)


def through(
    model: Model,
    recording: Recording,
    layer: int,
    hidden: Float[Tensor, "row run d_model"],
    window: Window,
    *,
    packed: bool = True,
    grad: bool = False,
    apart: _Apart | None = None,
) -> Float[Tensor, "row run d_model"]:
    """Windows out of one block, of which only positions that changed are computed.

    Args:
        recording: made with `past`.
        packed: whether modules see these positions alone; hooks inside of the block must see whole
            windows.
        grad: whether the result can be differentiated by `hidden`.
        apart: keys and values of positions that have changed outside of the windows.
    """
    past = _Past(recording.past[layer], window, apart)
    length = recording.past[layer][0].shape[2]
    block, rows = model.bridge.blocks[layer], window.example
    args, kwargs = at_positions(
        recording.calls[layer], rows, recording.batch, window.position, length, past
    )
    with model.lock, torch.set_grad_enabled(grad), contextlib.ExitStack() as stack:
        if packed:
            stack.enter_context(packing.packed(block, {}, rows, window.changed))
        output = block(hidden, *args, **kwargs)
        out: Tensor = output[0] if isinstance(output, tuple) else output
    return out


def through_last(
    model: Model,
    recording: Recording,
    hidden: Float[Tensor, "row run d_model"],
    window: Window,
    *,
    grad: bool = False,
) -> Float[Tensor, "row 1 d_model"]:
    """What is read of windows out of the last block.

    Args:
        recording: made with `past`.
        grad: whether the result can be differentiated by `hidden`.
    """
    layer, others = model.n_layers - 1, window.others
    row = torch.arange(len(hidden), device=hidden.device)
    with model.lock, torch.set_grad_enabled(grad):
        flat = hidden.flatten(0, 1)
        apart = None
        if len(others.row):
            one = flat.index_select(0, others.row * window.size + others.position)
            apart = _apart(model, recording, layer, one, window)
        end = flat.index_select(0, row * window.size + window.read.position)[:, None]
        return through(model, recording, layer, end, window.end, grad=grad, apart=apart)


def _apart(
    model: Model,
    recording: Recording,
    layer: int,
    hidden: Float[Tensor, "other d_model"],
    window: Window,
) -> _Apart:
    """Keys and values of what has changed and is not read; nothing else of the block is run."""
    heads, length = recording.past[layer][0].shape[1:3]
    others, block = window.others, model.bridge.blocks[layer]
    example, position = window.example[others.row], (window.start[others.row] + others.position)
    # Each is a row of its own, of one position; no query is made.
    row = torch.arange(len(hidden), device=hidden.device)
    each, none = Active(row, torch.zeros_like(row)), Active(row[:0], row[:0])
    args, kwargs = at_positions(
        recording.calls[layer], example, recording.batch, position[:, None], length, _Ending()
    )
    with packing.packed(block, {}, example, each, none):
        try:
            block(hidden[:, None], *args, **kwargs)
        except _Reached as made:
            head = torch.arange(heads, device=hidden.device)
            at = (others.row[:, None] * heads + head) * length + position[:, None]
            # One position each, so that heads follow one another.
            keys, values = (kind.reshape(-1, kind.shape[-1]) for kind in (made.keys, made.values))
            return _Apart(keys, values, at.flatten())
    raise RuntimeError("The block does not ask for keys and values.")


def windows(model: Model, ids: Int[Tensor, "example position"]) -> bool:
    """Whether `through` gives this model's numbers; tried once, on the first prompt."""
    if ids.shape[1] < _LEAST:
        return False  # nothing to try it on

    def trial() -> bool:
        # One piece of one prompt, so that it is told where not even this fits into memory.
        return next(batches(1, 1, lambda *_: _windows(model, ids[:1])))[-1]

    return model.once("windows", trial)


def _windows(model: Model, ids: Int[Tensor, "1 position"]) -> bool:
    if not all(packing.can_pack(block) for block in model.bridge.blocks):
        return False
    if any(not hook.momentary for hook in hooks(walk(model.bridge))):
        return False  # which was written for whole activations
    length, entry = ids.shape[1], Site("resid_pre", 0)
    # Windows of two lengths that end at different places, each with another token's stream first.
    row = torch.zeros(2, dtype=torch.long, device=model.device)
    last = torch.tensor([length - 1, length - 2], device=model.device)
    first = torch.tensor([length - 2, length // 2 - 1], device=model.device)
    at = torch.arange(2, device=model.device)
    try:
        recording = record(model, ids, [entry], past=True)
        stream = recording[entry].index_select(0, row)
        stream[at, first] = recording[entry][0, 0]
        size = int((last - first).max()) + 1
        window = Window.of(row, first, last, size)
        hidden = stream[at[:, None], window.position]
        for layer in range(model.n_layers - 1):
            hidden = through(model, recording, layer, hidden, window)
        ours = through_last(model, recording, hidden, window)[:, 0]
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, RuntimeError) and is_out_of_memory(error):
            raise
        return False
    theirs = resume(model, recording, stream, row, start=0)[at, last]
    return relative_error(ours, theirs) <= TOLERANCE[model.dtype]
