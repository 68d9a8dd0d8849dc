"""A layer norm or RMS norm in closed form, found by trying the model's own module.

Readers of one layer differ in what they read, not in how it is normed. Knowing the norm as
gain · (x − mean) / scale + shift, its gain goes into their matrices, and only two numbers for each
reader and position are left to compute, instead of a normed copy of the stream for each reader.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.components.linear import position_wise
from interp.forward.passes import TOLERANCE, relative_error
from interp.model.model import Model

# Streams so large, and so small, that the constant in the root does not matter, or shows.
_LARGE, _SMALL = 1e3, 1e-3


@dataclass(frozen=True)
class Norm:
    """gain · (x − mean(x)) / sqrt(variance(x) + epsilon) + shift; an RMS norm without the means.

    Attributes:
        gain, shift: [d_model], float32.
        centred: whether the mean is taken away.
        epsilon: in the unit of squared activations.
    """

    gain: Float[Tensor, " d_model"]
    shift: Float[Tensor, " d_model"]
    centred: bool
    epsilon: float

    @classmethod
    @torch.no_grad()
    def found_in(cls, module: Callable[[Tensor], Tensor], width: int, like: Tensor) -> Norm:
        """Try a module on a few streams; whether it is a norm is to be checked on others.

        Args:
            module: from [stream, d_model] to the same.
            like: a tensor of the model's device and dtype.
        """
        # Without zeros, and with a mean of zero, so that both kinds of norm treat it alike.
        probe = torch.ones(width, device=like.device)
        probe[1::2] = -1.0
        if width % 2:
            probe[-3:] = torch.tensor([2.0, -1.0, -1.0])
        power = float(probe.square().mean())
        streams = torch.stack([_LARGE * probe, -_LARGE * probe, _SMALL * probe, probe + 1.0])
        try:  # in half precision gains would be rounded; some modules take nothing else
            made = module(streams.to(like.dtype) if like.dtype.itemsize >= 4 else streams)
        except RuntimeError:
            made = module(streams.to(like.dtype))
        up, down, small, lifted = made.float()
        shift = (up + down) / 2
        gain = (up - down) / 2 * power**0.5 / probe
        direction = gain * probe
        inverse_scale = float((small - shift) @ direction / (direction @ direction)) / _SMALL
        epsilon = max(0.0, inverse_scale**-2 - _SMALL**2 * power) if inverse_scale else 0.0
        kinds = [cls(gain, shift, centred, epsilon) for centred in (True, False)]
        stream = (probe + 1.0)[None]
        return min(kinds, key=lambda kind: float((kind(stream)[0] - lifted).norm()))

    def __call__(self, stream: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        mean, inverse_scale = self.moments(stream)
        return (stream.float() - mean) * inverse_scale * self.gain + self.shift

    def moments(
        self, stream: Float[Tensor, "... d_model"]
    ) -> tuple[Float[Tensor, "... 1"], Float[Tensor, "... 1"]]:
        """What is taken away (0 in an RMS norm), and one over what it is divided by."""
        stream = stream.float()
        square = torch.linalg.vector_norm(stream, dim=-1, keepdim=True).square() / stream.shape[-1]
        mean = torch.zeros_like(square)
        if self.centred:
            mean = stream.mean(-1, keepdim=True)
            square = (square - mean.square()).clamp(min=0.0)
        return mean, (square + self.epsilon).rsqrt()


def closed_norm(model: Model, module: Any, read: Float[Tensor, "... d_model"]) -> Norm | None:
    """A module of the model as a norm; None where on what it `read` it is none."""
    with model.lock, torch.no_grad():
        norm = Norm.found_in(lambda streams: position_wise(module, streams), read.shape[-1], read)
        theirs = position_wise(module, read)
    return norm if relative_error(norm(read), theirs) <= TOLERANCE[model.dtype] else None
