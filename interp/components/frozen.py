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
from interp.forward.passes import TOLERANCE, readout, relative_error
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
        value: what the model itself computes from them, before any soft cap [example]; in half
            precision what `linear` gives, since logits are rounded by more than shares differ.
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
        raise _unreadable(model)
    scale, capped = logit_transform(model)
    given = [tokens for tokens in (answers, foils) if tokens is not None]

    def work(start: int, stop: int) -> tuple[Tensor, ...]:
        part = slice(start, stop)
        wanted = torch.stack([tokens[part].to(final.device) for tokens in given], 1)
        with model.lock:
            with torch.no_grad():
                normed = position_wise(model.bridge.ln_final, final[part])
                zero = position_wise(model.bridge.unembed, torch.zeros_like(normed))
            with torch.enable_grad():
                normed.requires_grad_()
                logits = position_wise(model.bridge.unembed, normed).gather(1, wanted)
                # One at a time: differences would be rounded in half precision.
                directions = [
                    torch.autograd.grad(one.sum(), normed, retain_graph=True)[0]
                    for one in logits.unbind(1)
                ]
        output = readout(model, final[part]).gather(1, wanted)
        found = torch.stack(directions, 1), zero.gather(1, wanted), logits.detach(), output
        return tuple(precise(value) for value in found)

    size = rows_that_fit(model, 5 * model.d_vocab * 4)
    pieces = [found for _, _, found in batches(len(final), size, work)]
    directions, constants, values, outputs = (torch.cat(p) for p in zip(*pieces, strict=True))
    directions, constants, values = directions * scale, constants * scale, values * scale
    if model.dtype.itemsize < 4:
        each = zip(directions.unbind(1), constants.unbind(1), strict=True)
        frozen = [frozen_norm(norm, final, Linear(*one)) for one in each]
        exact = torch.stack([one.of(final) + one.constant for one in frozen], 1)
        if not relative_error(exact, values) <= TOLERANCE[model.dtype]:
            raise _unreadable(model)
        values, outputs = exact, precise(_transformed(model, exact / scale))
    sign = torch.tensor([1.0, -1.0], device=final.device, dtype=values.dtype)[: len(given)]
    linear = Linear(torch.einsum("etd,t->ed", directions, sign), constants @ sign)
    value, output = values @ sign, outputs @ sign
    linear = frozen_norm(norm, final, linear)
    return Readout(linear, value if capped else output, output, capped)


def before_writing(writer: Writer, readout: Linear, units: Float[Tensor, "example unit"]) -> Linear:
    """The readout in terms of what the writer's matrix and bias make, with its norm frozen."""
    # The constant of the readout belongs to nobody's output.
    linear = Linear(readout.direction * writer.factor, torch.zeros_like(readout.constant))
    if writer.norm is None:
        return linear
    made = precise(units) @ precise(writer.matrix) + precise(writer.bias)
    return frozen_norm(writer.norm, made, linear)


def logit_transform(model: Model) -> tuple[float, bool]:
    """What logits are multiplied with after the unembedding, and whether they are capped."""
    # In float32 whatever the model's type: a scale would be rounded in half precision.
    probes = torch.tensor(_PROBES, device=model.device)
    found = _transformed(model, probes[None])[0]
    scale = float(found[-1] / probes[-1])
    if torch.allclose(found, scale * probes, rtol=1e-3):
        return scale, False
    return 1.0, True


@torch.no_grad()
def _transformed(model: Model, logits: Float[Tensor, "row logit"]) -> Float[Tensor, "row logit"]:
    """Logits of the unembedding as the model puts them out."""
    with model.lock:
        found: Tensor = model.bridge.adapter.apply_output_logits_transform(logits.float()[None])[0]
    return found


def _unreadable(model: Model) -> ModelError:
    return ModelError(
        f"The final norm of {model.name} is neither a layer norm nor an RMS norm, so its logits "
        "cannot be attributed; use another architecture."
    )
