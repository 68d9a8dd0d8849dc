"""The controls are what they are called."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from interp.subspaces.controls import CONTROLS, Varying, judge, within
from interp.subspaces.rotations import Rotations, moved, orthonormal, random_rotations
from interp.subspaces.runs import Rows, Runs
from tests.interp.subspaces.planted import ENTITY, Kind, Planted


@pytest.mark.slow
def test_each_control_changes_what_it_says(
    model_of: Callable[[Kind], Planted], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = model_of("variable")
    runs = Runs(made.model, made.pairs(), "denoising", "resid_pre", (0,), (ENTITY,))
    like, n = runs.base, 60
    found = {2: random_rotations(2, 2, 32, (1,), like)}
    first = {2: random_rotations(1, 2, 32, (2,), like)}
    other = {2: random_rotations(1, 2, 32, (3,), like)}
    answers = [torch.arange(n) + 60, torch.arange(n).flip(0) + 60]
    seen: list[tuple[Rows, torch.Tensor, torch.Tensor]] = []

    def right(self: Runs, rows: Rows, vectors: torch.Tensor, targets: torch.Tensor) -> np.ndarray:
        seen.append((rows, vectors, targets))
        return np.ones(len(rows), dtype=bool)

    monkeypatch.setattr(Runs, "right", right)
    held = np.arange(n) % 3 == 0
    hits = judge(runs, found, first, other, answers, held)
    ((rows, vectors, targets),) = seen
    change, base = runs.source[0] - runs.base[0], runs.base[0]
    mine, tested = np.arange(n), np.flatnonzero(held)
    sizes = [len(tested), n, len(tested), n, len(tested), len(tested)]
    whole, learned, natural, arbitrary, plain, placebo = vectors.split(sizes)
    np.testing.assert_array_equal(
        rows.example, np.concatenate([tested, mine, tested, mine, *[tested] * 2])
    )
    torch.testing.assert_close(whole, runs.source[0][tested])
    torch.testing.assert_close(learned - base, moved(found[2][0], change), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(arbitrary - base, moved(found[2][1], change), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(
        plain - base[tested], moved(first[2][0], change[tested]), atol=1e-4, rtol=1e-3
    )
    # As long as the learned one, pair by pair, and in the other subspace.
    away = placebo - base[tested]
    torch.testing.assert_close(
        away.norm(dim=1), (learned - base)[tested].norm(dim=1), atol=1e-4, rtol=1e-3
    )
    torch.testing.assert_close(moved(other[2][0], away), away, atol=1e-4, rtol=1e-3)
    part = within(found[2][0], Varying.of(change))
    torch.testing.assert_close(
        natural - base[tested], moved(part, change[tested]), atol=1e-4, rtol=1e-3
    )
    asked = targets.split(sizes)
    assert torch.equal(asked[3], answers[1])
    assert torch.equal(asked[1], answers[0])
    assert np.isnan(hits.control[CONTROLS.index("random subspace"), ~held]).all()
    assert np.isfinite(hits.control[CONTROLS.index("arbitrary labels")]).all()


def test_directions_that_never_differ_are_dropped() -> None:
    change = torch.zeros(10, 4)
    change[:, 0] = torch.linspace(-1, 1, 10)
    change[:, 1] = 0.05 * torch.randn(10, generator=torch.Generator().manual_seed(0))
    varying = Varying.of(change)
    kept = within(torch.eye(4)[:3], varying)
    # The third never differs; the second differs little, and is moved no farther than it does.
    torch.testing.assert_close(moved(kept, torch.eye(4)), torch.diag(torch.tensor([1.0, 1, 0, 0])))
    mixed = torch.tensor([[1.0, 0, 1, 0]]) / 2**0.5
    torch.testing.assert_close(within(mixed, varying).abs(), torch.eye(4)[:1], atol=1e-3, rtol=0)
    # Along the second the mixture moves ten times as far as that one differs.
    mixed = torch.tensor([[1.0, 1, 0, 0]]) / 2**0.5
    torch.testing.assert_close(within(mixed, varying).abs(), torch.eye(4)[:1], atol=0.1, rtol=0)
    assert len(within(torch.eye(4)[3:], varying)) == 0


@pytest.mark.slow
def test_a_step_goes_downhill_by_the_slope_of_the_subspace() -> None:
    generator = torch.Generator().manual_seed(0)
    change, wanted = torch.randn(2, 3, 7, 10, generator=generator, dtype=torch.float64)
    start = random_rotations(3, 4, 10, (0,), change)

    def loss(rows: torch.Tensor) -> torch.Tensor:
        return ((moved(rows, change) - wanted) ** 2).sum((1, 2))

    one = Rotations(start)
    before = loss(one.rows)
    for _ in range(60):
        slope = 2 * (moved(one.rows, change) - wanted)
        one.step(torch.arange(3), change, slope, 0.05)
    torch.testing.assert_close(
        one.rows @ one.rows.mT, torch.eye(4, dtype=torch.float64).expand(3, 4, 4)
    )
    assert (loss(one.rows) < 0.9 * before).all()
    # As low as plain descent through a decomposition gets.
    free = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([free], lr=0.02)
    for _ in range(400):
        optimizer.zero_grad()
        loss(orthonormal(free)).sum().backward()
        optimizer.step()
    assert (loss(one.rows) < 1.05 * loss(orthonormal(free.detach()))).all()
