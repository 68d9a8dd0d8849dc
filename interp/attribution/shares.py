"""The share that each head, neuron group or token attended to has in a linear readout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.components.frozen import Linear, before_writing
from interp.components.linear import precise
from interp.components.writers import Writer
from interp.errors import ModelError
from interp.forward.passes import TOLERANCE, Recording, relative_error
from interp.model.model import Model
from interp.sites import Site

__all__ = ["Part", "at_end", "by_head", "by_neurons", "by_source"]


@dataclass(frozen=True)
class Part:
    """Some prompts of which one token is read.

    Attributes:
        recording: their activations.
        end: the token of each prompt that is read [example].
        linear: what is read, in terms of the final stream there.
        members: the neurons of each group; empty where neurons are not asked for.
    """

    model: Model
    recording: Recording
    end: Int[Tensor, " example"]
    linear: Linear
    members: Bool[Tensor, "group neuron"]

    def at(self, name: str, layer: int) -> Float[Tensor, "example ..."]:
        """An activation at the token that is read."""
        return at_end(self.recording, Site(name, layer), self.end)


Shares = tuple[Float[Tensor, "example ..."], Float[Tensor, " example"]]
"""Of the parts of a layer's attention or MLP, and of what else it adds there (biases)."""
By = Callable[[Part, int], Shares]


def at_end(
    recording: Recording, site: Site, end: Int[Tensor, " example"]
) -> Float[Tensor, "example ..."]:
    """The activation at one token of each example."""
    value = recording[site]
    example = torch.arange(len(value), device=value.device)
    return value[example, end.to(value.device)]


def by_head(part: Part, layer: int) -> Shares:
    """[example, head]: z · W_O · direction."""
    z = part.at("z", layer)
    per_unit, rest = _read_by_units(part, layer, "attn", z.flatten(1))
    return torch.einsum("ehk,ehk->eh", precise(z), per_unit.reshape(z.shape)), rest


def by_neurons(part: Part, layer: int) -> Shares:
    """[example, group]: activation · W_out · direction, of the neurons of each group together."""
    neurons = part.at("mlp_act", layer)
    per_unit, rest = _read_by_units(part, layer, "mlp", neurons)
    shares = precise(neurons) * per_unit
    members = precise(part.members.to(shares.device))
    return shares @ members.T, rest + shares @ (1 - members.sum(0))


def by_source(part: Part, layer: int) -> Shares:
    """[example, head, source]: pattern · v · W_O · direction.

    Raises:
        ModelError: head outputs are not values weighted by the pattern.
    """
    z = part.at("z", layer)
    per_unit, rest = _read_by_units(part, layer, "attn", z.flatten(1))
    values = part.recording[Site("v", layer)]
    pattern = part.recording[Site("pattern", layer)].transpose(1, 2)
    pattern = pattern[torch.arange(len(z), device=z.device), part.end.to(z.device)]
    values = values.repeat_interleave(z.shape[1] // values.shape[2], dim=2)
    mixed = torch.einsum("ehs,eshk->ehk", pattern, values)
    if not relative_error(mixed, z) <= TOLERANCE[part.model.dtype]:
        raise ModelError(
            f"The head outputs of {part.model.name} are not its values weighted by the attention "
            "pattern, so they cannot be attributed to the tokens attended to; attribute by head."
        )
    read = torch.einsum("eshk,ehk->ehs", precise(values), per_unit.reshape(z.shape))
    return precise(pattern) * read, rest


def _read_by_units(
    part: Part, layer: int, name: str, units: Float[Tensor, "example unit"]
) -> tuple[Float[Tensor, "example unit"], Float[Tensor, " example"]]:
    """What one of each unit adds to the readout, and what is added whatever the units do."""
    added = part.at(f"{name}_out", layer)
    writer = Writer.of(part.model, layer, name, units, added)
    if writer is None:
        what = "heads" if name == "attn" else "neurons"
        raise ModelError(
            f"What the {name} of layer {layer} of {part.model.name} adds to the residual stream is "
            f"not made of its {what} by one matrix, so it has no attribution by {what}; attribute "
            "by component."
        )
    linear = before_writing(writer, part.linear, units)
    per_unit = linear.direction @ precise(writer.matrix).T
    return per_unit, linear.of(precise(writer.bias).expand(len(units), -1)) + linear.constant
