"""Two coordinates of an activation exchanged, as they are there or as another run had them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import DirectionError
from interp.forward.interventions import Intervention

__all__ = ["Exchange"]


@dataclass(frozen=True, eq=False)
class Exchange(Intervention):
    """x + amount · (c* − c) V, with c = x V⁺ the coordinates of x along two directions V.

    What stands at right angles to both directions is left as it is. Make one with
    `JacobianLens.swap`.

    Attributes:
        basis: V, the two directions, not parallel [2, d_model].
        coordinates: c* of each token [example, position, 2]; tokens beyond are left alone. Without,
            c* are the coordinates that stand there, the other way round.
    """

    basis: Float[Tensor, "2 d_model"] | None = None
    coordinates: Float[Tensor, "example position 2"] | None = None

    def changed(
        self,
        value: Float[Tensor, "row token d_model"],
        examples: Tensor | None,
        positions: Tensor | None = None,
    ) -> Float[Tensor, "row token d_model"]:
        """The activation of some examples.

        Args:
            examples: their numbers; None where these are not known.
            positions: where the tokens stand in their texts [row, token]; from 0 on if left out.

        Raises:
            DirectionError: it is not known which example, or the width is another one.
        """
        assert self.basis is not None
        if value.shape[-1] != self.basis.shape[-1]:
            raise DirectionError(
                f"A swap along directions of {self.basis.shape[-1]} dims does not fit a stream of "
                f"{value.shape[-1]}; make it with a lens of this model."
            )
        basis = self.basis.to(value.device, torch.float32)
        there = value.float() @ torch.linalg.pinv(basis)
        if self.coordinates is None:
            moved = self.amount * ((there.flip(-1) - there) @ basis)
        else:
            wanted, known = self._wanted(value, examples, positions)
            moved = self.amount * ((wanted - there) @ basis)
            moved = torch.where(known[..., None], moved, 0.0)
        found: Tensor = (value.float() + moved).to(value.dtype)
        return found

    def _wanted(
        self, value: Tensor, examples: Tensor | None, positions: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """c* [row, token, 2], and where there are any [row, token]."""
        assert self.coordinates is not None
        kept = self.coordinates
        if len(kept) == 1:
            examples = torch.zeros(len(value), dtype=torch.long)
        if examples is None or int(examples.max()) >= len(kept):
            raise DirectionError(
                f"Coordinates are kept of {len(kept)} prompts, and it is not known which of them "
                "is run here; pass the interventions to capture, logits or generate, with the "
                "prompts that they were made for."
            )
        index = torch.arange(value.shape[1])[None] if positions is None else positions.cpu()
        index = index.expand(len(value), -1)
        wanted = kept[examples.cpu()[:, None], index.clamp(max=kept.shape[1] - 1)]
        known = (index < kept.shape[1]) & torch.isfinite(wanted).all(-1)
        return wanted.to(value.device, torch.float32), known.to(value.device)
