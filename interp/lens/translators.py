"""The affine maps of a tuned lens while they are trained.

Streams differ by orders of magnitude between layers and between their dimensions, so the maps are
learned on standardised streams, where one learning rate suits all: layer l reads
h + scale · (((h − mean) / spread) @ weight + bias), which begins as the identity and is an affine
map of h after all.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from interp.forward.passes import readout
from interp.lens.readings import kl_divergence
from interp.model.memory import batches, rows_that_fit
from interp.model.model import Model

__all__ = ["Streams", "Translators"]

Streams = Sequence[Float[Tensor, "token d_model"]]
"""The residual stream of some tokens at every layer, the final one last."""

# Of a dimension that never varies the spread is that of the others, times this.
_LEAST_SPREAD = 1e-3
# Tensors as wide as the vocabulary that a token takes while its loss is differentiated, in float32.
_WIDE = 10
_BETAS = (0.9, 0.98)
_BIAS_RATE = 0.01


class Translators:
    """One map for each layer, its Adam moments, and the mean KL to the model's own prediction.

    Args:
        model: the model.
        sample: streams that show how large each layer's are.
        learning_rate: of Adam for weights, times d_model; that for biases is a hundredth.
    """

    def __init__(self, model: Model, sample: Streams, learning_rate: float) -> None:
        self._model = model
        width, device = model.d_model, model.device
        early = [stream.float().to(device) for stream in sample[:-1]]
        self._mean = [stream.mean(0) for stream in early]
        spreads = [stream.std(0, correction=0) for stream in early]
        self._scale = [s.square().mean().sqrt().clamp(min=1e-6) for s in spreads]
        self._spread = [
            torch.maximum(s, _LEAST_SPREAD * scale)
            for s, scale in zip(spreads, self._scale, strict=True)
        ]
        self.weight = [torch.zeros(width, width, device=device) for _ in early]
        self.bias = [torch.zeros(width, device=device) for _ in early]
        for parameter in (*self.weight, *self.bias):
            parameter.requires_grad_(True)
        # Adam steps all numbers by as much, and d_model weights add up where there is one bias.
        self._rates = (learning_rate / width, _BIAS_RATE * learning_rate)
        groups = [{"params": self.weight}, {"params": self.bias}]
        self._optimizer = torch.optim.Adam(groups, lr=0.0, betas=_BETAS)

    def __len__(self) -> int:
        return len(self.weight)

    def step(self, streams: Streams, layers: Sequence[int], progress: float) -> None:
        """One step of Adam on some layers, from the mean KL over the tokens.

        Args:
            progress: which share of all steps is done; the learning rate falls to 0 with it.
        """
        # Layers that are finished get no gradient at all, and so keep what they have.
        self._optimizer.zero_grad(set_to_none=True)

        def work(start: int, stop: int) -> list[tuple[Tensor, ...]]:
            part = [stream[start:stop] for stream in streams]
            final = self._final(part)
            return [
                torch.autograd.grad(
                    self._divergence(layer, part, final, grad=True).sum() / len(streams[0]),
                    (self.weight[layer], self.bias[layer]),
                )
                for layer in layers
            ]

        for _, _, gradients in batches(len(streams[0]), self._tokens_at_once(), work):
            for layer, found in zip(layers, gradients, strict=True):
                for parameter, gradient in zip(
                    (self.weight[layer], self.bias[layer]), found, strict=True
                ):
                    before = parameter.grad
                    parameter.grad = gradient if before is None else before + gradient
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * (1 - progress)
        self._optimizer.step()

    def kl(self, streams: Streams) -> Float[Tensor, " layer"]:
        """The sum of each layer's KL over the tokens, in nats."""

        def work(start: int, stop: int) -> Tensor:
            part = [stream[start:stop] for stream in streams]
            final = self._final(part)
            found = [self._divergence(layer, part, final, grad=False) for layer in range(len(self))]
            return torch.stack(found).cpu().double().sum(1)

        pieces = batches(len(streams[0]), self._tokens_at_once(), work)
        return torch.stack([found for _, _, found in pieces]).sum(0)

    def affine(
        self, layer: int
    ) -> tuple[Float[Tensor, "d_model d_model"], Float[Tensor, " d_model"]]:
        """What a layer's map adds to the identity, and its bias, for streams as they are."""
        scale = self._scale[layer]
        weight = scale * self.weight[layer].detach() / self._spread[layer][:, None]
        bias = scale * self.bias[layer].detach() - self._mean[layer] @ weight
        return weight.cpu(), bias.cpu()

    def state(self) -> dict[str, Tensor]:
        """Everything that changes, by name."""
        out = {f"weight.{i}": tensor.detach() for i, tensor in enumerate(self.weight)}
        out |= {f"bias.{i}": tensor.detach() for i, tensor in enumerate(self.bias)}
        for number, moments in self._optimizer.state_dict()["state"].items():
            out |= {f"adam.{number}.{name}": value for name, value in moments.items()}
        return {name: tensor.cpu().contiguous().clone() for name, tensor in out.items()}

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state`."""
        for i in range(len(self)):
            self.weight[i].copy_(state[f"weight.{i}"])
            self.bias[i].copy_(state[f"bias.{i}"])
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in state.items():
            if name.startswith("adam."):
                _, number, key = name.split(".")
                moments.setdefault(int(number), {})[key] = tensor
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": moments, "param_groups": groups})

    def _final(self, streams: Streams) -> Float[Tensor, "token vocabulary"]:
        return readout(self._model, streams[-1].to(self._model.device)).log_softmax(-1)

    def _divergence(
        self, layer: int, streams: Streams, final: Tensor, *, grad: bool
    ) -> Float[Tensor, " token"]:
        """The KL of one layer at each token."""
        hidden = streams[layer].to(final.device).float()
        with torch.set_grad_enabled(grad):
            standard = (hidden - self._mean[layer]) / self._spread[layer]
            change = standard @ self.weight[layer] + self.bias[layer]
            read = (hidden + self._scale[layer] * change).to(self._model.dtype)
            logprobs = readout(self._model, read, grad=grad).log_softmax(-1)
            return kl_divergence(final, logprobs)

    def _tokens_at_once(self) -> int:
        return rows_that_fit(self._model, _WIDE * self._model.d_vocab * 4)
