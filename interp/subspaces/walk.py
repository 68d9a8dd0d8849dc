"""One walk up the blocks with rows that are changed at one place each."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.forward.access import changing
from interp.forward.packing import Active
from interp.forward.passes import Recording, resume
from interp.forward.windows import Window, through, through_last
from interp.model.model import Model
from interp.patching.walk import entry
from interp.sites import Site


class Walk:
    """One walk up the blocks: its rows, and what is written where.

    Where the model can be run so, a row holds no more positions than the change of any can reach,
    and behind the last block the one that is read.
    """

    def __init__(
        self,
        model: Model,
        site: str,
        recording: Recording,
        example: Int[Tensor, " row"],
        position: Int[Tensor, " row"],
        read: Int[Tensor, " row"],
        vectors: Float[Tensor, "row width"],
        grad: bool,
    ) -> None:
        self._model, self._site, self._grad = model, site, grad
        self._recording, self._example, self._vectors = recording, example, vectors
        self._first, self._last = position, read
        self._size = int((read - position).max()) + 1 if recording.past else None
        self._windows: dict[tuple[int, int], Window] = {}

    def joined(self, hidden: Tensor | None, block: int, n: int, *, inside: bool) -> Tensor | None:
        """The batch with all of the first n rows: new ones come in with their place changed.

        Args:
            inside: whether it lies inside of the block; then the new rows are run through it.
        """
        before = 0 if hidden is None else len(hidden)
        if n == before:
            return hidden
        new, n_layers = slice(before, n), self._model.n_layers
        # What changes inside of the last block reaches no other position either.
        end = block == n_layers - inside
        window = self._window(new, end=end)
        stream = self._recording[entry(n_layers, block)]
        row, at = torch.arange(n - before, device=stream.device), self._first[new]
        if window is None:
            stream = stream.index_select(0, self._example[new])
        else:
            stream, at = window.gather(stream), at - window.start
            row = (at >= 0).nonzero()[:, 0] if end else row
        where, vectors = row * stream.shape[1] + at[row], self._vectors[new][row]

        def write(value: Tensor) -> Tensor:
            flat = value.flatten(0, 1).index_copy(0, where, vectors.to(value.dtype))
            return flat.view(value.shape)

        if not inside:
            stream = write(stream)
        else:
            # A hook must see all positions that there are, so these rows are not packed.
            with changing(self._model, [(Site(self._site, block), write)]):
                stream = self._run(block, stream, new, window, packed=False)
        return stream if hidden is None else torch.cat([hidden, stream])

    def through(self, block: int, hidden: Tensor | None) -> Tensor | None:
        """All rows of the batch out of a block."""
        if hidden is None or block == self._model.n_layers:
            return hidden
        rows = slice(0, len(hidden))
        window = self._window(rows)
        if window is not None and block == self._model.n_layers - 1:
            return through_last(self._model, self._recording, hidden, window, grad=self._grad)
        return self._run(block, hidden, rows, window, packed=True)

    def last(self, hidden: Tensor) -> Float[Tensor, "row d_model"]:
        """What is read of every row."""
        if self._size is not None:
            return hidden[:, 0]
        return hidden[torch.arange(len(hidden), device=hidden.device), self._last]

    def _window(self, rows: slice, *, end: bool = False) -> Window | None:
        """Where the windows of some rows lie; at the end, of what is read alone."""
        if self._size is None:
            return None
        key = rows.start, rows.stop
        if key not in self._windows:
            example, first, last = (t[rows] for t in (self._example, self._first, self._last))
            self._windows[key] = Window.of(example, first, last, self._size)
        return self._windows[key].end if end else self._windows[key]

    def _run(
        self, block: int, hidden: Tensor, rows: slice, window: Window | None, *, packed: bool
    ) -> Tensor:
        if window is not None:
            return through(
                self._model,
                self._recording,
                block,
                hidden,
                window,
                packed=packed,
                grad=self._grad,
            )
        span = None
        if packed and self._recording.kept:
            first, last, length = self._first[rows], self._last[rows], hidden.shape[1]
            span = Active.between(first, last, length), Active.between(last, last, length)
        return resume(
            self._model,
            self._recording,
            hidden,
            self._example[rows],
            start=block,
            stop=block + 1,
            span=span,
            grad=self._grad,
        )
