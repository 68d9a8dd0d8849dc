"""Several runs recorded side by side, block by block.

Where blocks are read from the disk, or brought from other memory, a pass costs as much as that, and
nearly nothing more for another run that goes along. So runs of different prompts take each step
together, and whatever builds on them can take it with them, while the block is there. The numbers
are those of `record`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from interp.forward import packing
from interp.forward.access import keeping
from interp.forward.calls import Gives, called_with
from interp.forward.passes import Recording, check_resumable, recorded
from interp.forward.trials import shown
from interp.model.model import Model
from interp.sites import Site

__all__ = ["Ask", "Together", "record_all"]


@dataclass(frozen=True)
class Ask:
    """A run that is to be recorded; see `interp.forward.passes.record`.

    Attributes:
        ids: token ids [example, position].
        sites: where activations are kept.
        for_packing, queries: whether what packed blocks need is kept too.
    """

    ids: Int[Tensor, "example position"]
    sites: frozenset[Site]
    for_packing: bool = False
    queries: bool = False


def record_all(model: Model, asks: Sequence[Ask]) -> tuple[Recording, ...]:
    """Record runs, side by side where blocks are not in memory.

    Raises:
        ModelError: this architecture cannot be resumed exactly.
        SiteError: the model has no such site.
    """
    together = Together.of(model, asks)
    if together is not None:
        together.finish()
        return together.recordings
    check_resumable(model, asks[0].ids)
    return tuple(
        recorded(model, ask.ids, ask.sites, for_packing=ask.for_packing, queries=ask.queries)[0]
        for ask in asks
    )


class Together:
    """Runs that are recorded as far as somebody wants them.

    Attributes:
        recordings: of each run, filled as it goes on.
        reached: the block that comes next.
    """

    def __init__(self, model: Model, asks: Sequence[Ask], gives: Gives) -> None:
        self._model, self._asks = model, asks
        self._points = shown(model, {site for ask in asks for site in ask.sites})
        self._streams: list[Tensor] = []
        found = []
        for ask in asks:
            stream, calls = called_with(model, ask.ids, gives)
            self._streams.append(stream)
            kept: tuple[dict[str, Tensor], ...] = ()
            if ask.for_packing:
                kept = tuple({} for _ in range(model.n_layers))
            activations: dict[Site, Tensor] = {}
            found.append(Recording(calls, len(ask.ids), activations, kept))
        self.recordings = tuple(found)
        self.reached = 0

    @classmethod
    def of(cls, model: Model, asks: Sequence[Ask]) -> Together | None:
        """None where all blocks are in memory, or one does not give what the next is called with.

        Raises:
            ModelError: this architecture cannot be resumed exactly.
            SiteError: the model has no such site.
        """
        if model.elsewhere is None:
            return None
        gives = check_resumable(model, asks[0].ids)
        return None if gives is None else cls(model, asks, gives)

    def pass_block(self, layer: int) -> None:
        """Record every run up to and through a block."""
        while self.reached <= min(layer, self._model.n_layers - 1):
            layer_now = self.reached
            streams = [
                self._through(layer_now, ask, recording, stream)
                for ask, recording, stream in zip(
                    self._asks, self.recordings, self._streams, strict=True
                )
            ]
            self._streams, self.reached = streams, layer_now + 1

    def finish(self) -> None:
        """Record every run to its end."""
        self.pass_block(self._model.n_layers)

    def _through(self, layer: int, ask: Ask, recording: Recording, stream: Tensor) -> Tensor:
        model, block = self._model, self._model.bridge.blocks[layer]
        sites = [site for site in ask.sites if site.layer == layer]
        rows = torch.arange(recording.batch, device=stream.device)
        args, kwargs = recording.calls[layer].at(rows, recording.batch)
        with model.lock, torch.no_grad(), contextlib.ExitStack() as stack:
            kept = stack.enter_context(keeping(model, sites, points=self._points))
            if ask.for_packing:
                others = recording.kept[layer]
                assert isinstance(others, dict)
                for remove in packing.keep_for_others(block, others, queries=ask.queries):
                    stack.callback(remove)
            output = block(stream, *args, **kwargs)
        assert isinstance(recording.activations, dict)
        recording.activations.update(kept)
        out: Tensor = output[0] if isinstance(output, tuple) else output
        return out
