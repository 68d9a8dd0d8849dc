"""A small nonlinear probe, for comparison."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

_STEPS, _RATE = 300, 1e-2

MlpWeights = tuple[Tensor, Tensor, Tensor, Tensor]


def fit_mlp(
    x: Float[Tensor, "site example dim"],
    labels: Int[Tensor, " example"],
    n_classes: int,
    *,
    l2: float,
    neurons: int,
    seed: int,
) -> MlpWeights:
    """One hidden ReLU layer for each site, all trained at once by Adam on the whole data.

    The loss is that of the logistic probe, with the penalty on both matrices. Features are
    standardised inside; the weights that are returned take them as they were given.

    Returns:
        hidden weights [site, neuron, dim], hidden biases [site, neuron], coefficients
        [site, column, neuron], intercepts [site, column].
    """
    sites, n, dim = x.shape
    columns = 1 if n_classes == 2 else n_classes
    mean, scale = x.mean(1, keepdim=True), x.std(1, keepdim=True)
    scale = torch.where(scale > 1e-6 * scale.amax(-1, keepdim=True), scale, torch.inf)
    inputs = (x - mean) / scale
    generator = torch.Generator().manual_seed(seed)

    def start(*shape: int) -> Tensor:
        value = torch.randn(*shape, generator=generator) / float(shape[-1]) ** 0.5
        started: Tensor = value.to(x).requires_grad_()
        return started

    first, second = start(sites, neurons, dim), start(sites, columns, neurons)
    bias, intercept = x.new_zeros(sites, neurons), x.new_zeros(sites, columns)
    parameters = [first, second, bias.requires_grad_(), intercept.requires_grad_()]
    optimiser = torch.optim.Adam(parameters, lr=_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, _STEPS)
    with torch.enable_grad():
        for _ in range(_STEPS):
            z = torch.relu(inputs @ first.mT + bias[:, None]) @ second.mT + intercept[:, None]
            penalty = l2 / (2 * n) * (first.square().sum() + second.square().sum())
            loss = _loss(z, labels) * sites + penalty
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            schedule.step()
    weight = first.detach() / scale
    shifted = bias.detach() - (weight * mean).sum(-1)
    return weight, shifted, second.detach(), intercept.detach()


def _loss(z: Tensor, labels: Tensor) -> Tensor:
    if z.shape[-1] == 1:
        target = labels.to(z).expand(z.shape[:2])
        return torch.nn.functional.binary_cross_entropy_with_logits(z[..., 0], target)
    flat = labels.expand(z.shape[:2]).flatten()
    return torch.nn.functional.cross_entropy(z.flatten(0, 1), flat)
