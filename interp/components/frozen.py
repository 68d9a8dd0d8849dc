"""What turns a layer's output into logits, as linear as it is once its norms are frozen.

A norm divides by a number that depends on the whole stream. With that number, and the mean, held at
what they are, logits are linear in the final residual stream, so that each part of it has a share
that is exact: the shares add up to the logits themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.components.linear import position_wise, precise
from interp.components.norms import Norm, closed_norm
from interp.components.writers import Writer
from interp.errors import ModelError
from interp.forward.passes import readout
from interp.model.memory import batches, rows_that_fit
from interp.model.model import Model

__all__ = ["Linear", "Readout", "before_writing", "frozen_readout", "logit_transform"]

# Logits at which a soft cap shows, or a scale that is none.
_PROBES = (-1e3, -1.0, 0.0, 1.0, 1e3)


@dataclass(frozen=True)
class Linear:
    """A logit, or a difference of two, as direction · stream + constant for each example.

    Attributes:
        direction: [example, d_model], float64 (float32 on MPS).
        constant: [example], likewise.
    """

    direction: Float[Tensor, "example d_model"]
    constant: Float[Tensor, " example"]

    def of(self, part: Float[Tensor, "example ... d_model"]) -> Float[Tensor, "example ..."]:
        """The share of parts of the stream."""
        shares: Tensor = torch.einsum("e...d,ed->e...", precise(part), self.direction)
        return shares


def frozen_norm(norm: Norm, read: Float[Tensor, "example d_model"], after: Linear) -> Linear:
    """`after`, which is linear in what the norm puts out, in terms of what it reads."""
    _, inverse_scale = norm.moments(read)
    direction = after.direction * precise(norm.gain) * inverse_scale
    constant = after.constant + after.direction @ precise(norm.shift)
    if norm.centred:
        direction = direction - direction.mean(1, keepdim=True)
    return Linear(direction, constant)


@dataclass(frozen=True)
class Readout:
    """How the final streams of some examples become the logits that are attributed.

    Attributes:
        linear: with the norm frozen at these streams.
        value: what the model itself computes from them, before any soft cap [example].
        output: the same after it [example].
        capped: whether there is a soft cap.
    """

    linear: Linear
    value: Float[Tensor, " example"]
    output: Float[Tensor, " example"]
    capped: bool


def frozen_readout(
    model: Model,
    final: Float[Tensor, "example d_model"],
    answers: Int[Tensor, " example"],
    foils: Int[Tensor, " example"] | None,
) -> Readout:
    """The logit of each answer, minus that of each foil, in terms of the final stream.

    Raises:
        ModelError: the final norm is neither a layer norm nor an RMS norm.
    """
    norm = closed_norm(model, model.bridge.ln_final, final)
    if norm is None:
        raise ModelError(
            f"The final norm of {model.name} is neither a layer norm nor an RMS norm, so its "
            "logits cannot be attributed; use another architecture."
        )
    scale, capped = logit_transform(model, final.dtype)

    def work(start: int, stop: int) -> tuple[Tensor, ...]:
        part = slice(start, stop)
        wanted = [t[part, None].to(final.device) for t in (answers, foils) if t is not None]

        def picked(logits: Tensor) -> Tensor:
            found = [logits.gather(1, tokens)[:, 0].float() for tokens in wanted]
            return found[0] if len(found) == 1 else found[0] - found[1]

        with model.lock:
            with torch.no_grad():
                normed = position_wise(model.bridge.ln_final, final[part])
                zero = position_wise(model.bridge.unembed, torch.zeros_like(normed))
            with torch.enable_grad():
                normed.requires_grad_()
                logits = picked(position_wise(model.bridge.unembed, normed))
                (direction,) = torch.autograd.grad(logits.sum(), normed)
        output = picked(readout(model, final[part]))
        found = direction * scale, picked(zero) * scale, logits.detach() * scale, output
        return tuple(precise(value) for value in found)

    size = rows_that_fit(model, 5 * model.d_vocab * 4)
    pieces = [found for _, _, found in batches(len(final), size, work)]
    direction, constant, value, output = (torch.cat(p) for p in zip(*pieces, strict=True))
    linear = frozen_norm(norm, final, Linear(direction, constant))
    return Readout(linear, value if capped else output, output, capped)


def before_writing(writer: Writer, readout: Linear, units: Float[Tensor, "example unit"]) -> Linear:
    """The readout in terms of what the writer's matrix and bias make, with its norm frozen."""
    # The constant of the readout belongs to nobody's output.
    linear = Linear(readout.direction * writer.factor, torch.zeros_like(readout.constant))
    if writer.norm is None:
        return linear
    return frozen_norm(writer.norm, units @ writer.matrix + writer.bias, linear)


def logit_transform(model: Model, dtype: torch.dtype) -> tuple[float, bool]:
    """What logits are multiplied with after the unembedding, and whether they are capped."""
    probes = torch.tensor(_PROBES, device=model.device, dtype=dtype)
    with model.lock, torch.no_grad():
        found = model.bridge.adapter.apply_output_logits_transform(probes[None, None])[0, 0]
    scale = float(found[-1] / probes[-1])
    if torch.allclose(found, scale * probes, rtol=1e-3):
        return scale, False
    return 1.0, True
