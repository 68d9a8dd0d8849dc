"""Gradients of the metric by activations, block by block from the top down.

Each block is run once more for its gradient, so that only one block's graph is in memory at a time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.forward.access import Change, changing
from interp.forward.passes import Recording, resume
from interp.kinds import site_kind
from interp.model.model import Model
from interp.sites import Site

BlockRule = Callable[[Model, int], AbstractContextManager[Sequence[tuple[Site, Change]]]]
"""Around a block that is differentiated: what of its derivatives is to be others, and the changes
by which that is done."""


@contextlib.contextmanager
def as_it_is(_model: Model, _layer: int) -> Iterator[Sequence[tuple[Site, Change]]]:
    """The derivatives themselves."""
    yield ()


@dataclass(frozen=True)
class Descent:
    """A gradient on its way down.

    Attributes:
        recording: a run of the prompts that the rows were made from.
        streams: into each block from `start` on, the stream of each row [row, position, d_model].
        rows: for each row the recorded example it belongs to.
        start: the lowest block.
        inside: by layer the sites inside of this block whose gradients are wanted.
        rule: what is done to the derivatives of each block.
        dropped: by how many variants of the gradient there are, the block that each of them does
            not pass, but beside it along the residual stream; None for one that passes all.
    """

    recording: Recording
    streams: Mapping[int, Float[Tensor, "row position d_model"]]
    rows: Tensor
    start: int
    inside: Mapping[int, Sequence[str]]
    rule: BlockRule = as_it_is
    dropped: Sequence[int | None] = (None,)

    def run(
        self, model: Model, gradient: Float[Tensor, "row position d_model"]
    ) -> Iterator[tuple[int, Tensor, dict[str, Tensor]]]:
        """From the gradient by the final stream down.

        Yields:
            From the top block down: the layer, the gradients by the stream into it [variant, row,
            position, d_model], and those by each site inside [variant, row, …].
        """
        gradients = [gradient] * len(self.dropped)
        for layer in range(model.n_layers - 1, self.start - 1, -1):
            stream = self.streams[layer].detach().requires_grad_()
            names = tuple(self.inside.get(layer, ()))
            seen: dict[str, list[Tensor]] = {name: [] for name in names}
            keepers = [
                (Site(site_kind(name).gradient_at or name, layer), _keeper(seen[name]))
                for name in names
            ]
            with self.rule(model, layer) as changes, changing(model, [*changes, *keepers]):
                out = resume(
                    model,
                    self.recording,
                    stream,
                    self.rows,
                    start=layer,
                    stop=layer + 1,
                    grad=True,
                )
            leaves = [stream, *(seen[name][-1] for name in names)]
            found: list[list[Tensor]] = []
            for number, (one, beside) in enumerate(zip(gradients, self.dropped, strict=True)):
                if beside == layer:
                    found.append([one, *(torch.zeros_like(leaf) for leaf in leaves[1:])])
                    continue
                more = number + 1 < len(gradients)
                by_leaf = torch.autograd.grad(
                    out, leaves, one, retain_graph=more, allow_unused=True
                )
                # What the rule keeps from the metric moves nothing.
                pairs = zip(by_leaf, leaves, strict=True)
                found.append([torch.zeros_like(x) if g is None else g for g, x in pairs])
            gradients = [of_variant[0] for of_variant in found]
            by_site = {
                name: torch.stack([of_variant[1 + at] for of_variant in found])
                for at, name in enumerate(names)
            }
            yield layer, torch.stack(gradients), by_site


def _keeper(seen: list[Tensor]) -> Change:
    def keep(value: Tensor) -> Tensor:
        # Handed back, so that what follows is computed from the very tensor that is kept: by
        # head it is a view that would otherwise lead nowhere. What a rule holds fixed has no
        # derivative of its own, but moves what comes after it.
        kept = value if value.requires_grad else value.detach().requires_grad_()
        seen.append(kept)
        return kept

    return keep
