"""Muon's update against the singular value decomposition, and state that survives storage."""

from __future__ import annotations

import pytest
import torch

from experiments.organisms.training.optimizer import (
    Muon,
    load_state_tensors,
    orthogonalised,
    state_tensors,
)


@pytest.mark.parametrize("shape", [(12, 30), (30, 12), (16, 16)])
def test_the_update_keeps_the_singular_vectors_and_evens_the_values(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    left, _ = torch.linalg.qr(torch.randn(shape[0], min(shape), generator=generator))
    right, _ = torch.linalg.qr(torch.randn(shape[1], min(shape), generator=generator))
    values = torch.logspace(0, -1.5, min(shape))
    update = orthogonalised(left * values @ right.T)
    inside = left.T @ update @ right
    assert update.shape == shape
    assert torch.allclose(update, left @ inside @ right.T, atol=1e-4)
    assert torch.allclose(inside, torch.diag(inside.diagonal()), atol=1e-3)
    assert inside.diagonal().min() > 0.6
    assert inside.diagonal().max() < 1.3


@pytest.mark.slow
def test_muon_fits_a_linear_map() -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(8, 8, generator=generator)
    weight = torch.zeros(8, 8, requires_grad=True)
    optimizer = Muon([weight], lr=0.05)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 300)
        optimizer.zero_grad()
        ((weight - target) ** 2).sum().backward()
        optimizer.step()
    assert (weight - target).abs().max() < 0.02


def test_muon_takes_decay_off_apart_from_the_gradient() -> None:
    start = torch.arange(12.0).reshape(3, 4)
    gradient = torch.ones(3, 4).cumsum(0)
    moved = []
    for decay in (0.0, 0.5):
        weight = start.clone().requires_grad_()
        weight.grad = gradient.clone()
        Muon([weight], lr=0.1, weight_decay=decay).step()
        moved.append(weight.detach())
    torch.testing.assert_close(moved[1], moved[0] - 0.1 * 0.5 * start)


@pytest.mark.parametrize("kind", [Muon, torch.optim.AdamW])
def test_an_optimizer_goes_on_from_its_stored_state(kind: type[torch.optim.Optimizer]) -> None:
    def steps(
        weight: torch.Tensor, optimizer: torch.optim.Optimizer, targets: range
    ) -> torch.Tensor:
        for target in targets:
            optimizer.zero_grad()
            ((weight - target) ** 2).sum().backward()
            optimizer.step()
        return weight.detach().clone()

    start = torch.arange(12.0).reshape(3, 4)
    straight = start.clone().requires_grad_()
    whole = steps(straight, kind([straight], lr=0.1), range(6))

    first = start.clone().requires_grad_()
    optimizer = kind([first], lr=0.1)
    half = steps(first, optimizer, range(3))
    stored = {name: value.clone() for name, value in state_tensors(optimizer).items()}
    second = half.requires_grad_()
    resumed = kind([second], lr=0.1)
    load_state_tensors(resumed, stored)
    assert torch.equal(steps(second, resumed, range(3, 6)), whole)
