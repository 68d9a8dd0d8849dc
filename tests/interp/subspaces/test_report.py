"""The boundary is clear of its controls, and seldom found where there is nothing."""

from __future__ import annotations

import numpy as np
import pytest

from interp.subspaces.controls import CONTROLS, Hits
from interp.subspaces.report import boundary, describe, generalises, intervals


def hits(rng: np.random.Generator, n: int, rate: float, shape: tuple[int, int]) -> Hits:
    """Interchanges that succeed at the same rate, whatever is interchanged."""

    def draw(*size: int) -> np.ndarray:
        return (rng.random(size) < rate).astype(np.float32)

    return Hits(draw(n, *shape), draw(len(CONTROLS), n, *shape), draw(n, *shape), draw(n, shape[0]))


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("repeats", [1, 4])
def test_chance_is_seldom_a_boundary(rate: float, repeats: int) -> None:
    """12 held-out groups of one or of four pairs that are all right or all wrong."""
    rng = np.random.default_rng(0)
    places, n = 120, 40
    drawn = hits(rng, n, rate, (places, 3))
    drawn = Hits(
        *(
            np.repeat(each, repeats, axis=each.ndim - 3)
            if each.ndim > 2
            else np.repeat(each, repeats, axis=0)
            for each in (drawn.learned, drawn.control, drawn.natural, drawn.whole)
        )
    )
    groups = np.repeat(np.arange(n), repeats)
    found = describe(drawn, groups, groups < 12, (places, 1), (1, 2, 4))
    false = float(np.isfinite(found["boundary"][1]).mean())
    assert false <= 0.02


def test_what_is_there_is_found() -> None:
    rng = np.random.default_rng(0)
    drawn = hits(rng, 40, 0.02, (1, 3))
    drawn.learned[:, 0, 1:] = rng.random((40, 2)) < 0.9
    drawn.natural[:, 0, 1:] = drawn.learned[:, 0, 1:]
    groups = np.arange(40)
    found = describe(drawn, groups, groups < 12, (1, 1), (1, 2, 4))
    assert found["generalises"][1].tolist() == [[[False, True, True]]]
    assert found["boundary"][1].tolist() == [[2.0]]
    # Where it works only beyond where activations vary it is told, and no boundary.
    drawn.natural[:, 0, 1] = 0
    found = describe(drawn, groups, groups < 12, (1, 1), (1, 2, 4))
    assert found["dormant"][1].tolist() == [[[False, True, False]]]
    assert found["boundary"][1].tolist() == [[4.0]]


def test_each_control_can_forbid_it() -> None:
    low, high = np.full((1, 1, 1), 0.6), np.full((4, 1, 1, 1), 0.5)
    assert generalises(low, high, 5.0).all()
    assert not generalises(low, high, 4.9).any()  # too few groups, whatever they show
    for control in range(4):
        one = high.copy()
        one[control] = 0.6
        assert not generalises(low, one, 12.0).any()


def test_boundary_is_the_smallest_rank_that_holds() -> None:
    holds = np.array([[[0, 1, 1], [0, 0, 0]], [[1, 0, 1], [0, 0, 1]]], dtype=bool)
    np.testing.assert_array_equal(boundary(holds, (1, 4, 16)), [[4, np.nan], [1, 16]])


def test_pairs_of_a_group_are_no_evidence_of_their_own() -> None:
    once = np.array([1, 1, 1, 0, 1, 1, 0, 1], dtype=np.float32)
    alone = intervals(once, np.arange(8))
    many = intervals(np.repeat(once, 5), np.repeat(np.arange(8), 5))
    apart = intervals(np.repeat(once, 5), np.arange(40))
    assert many[1] <= alone[1] + 0.02
    assert apart[1] > alone[1] + 0.1
    missing = intervals(np.append(once, np.nan).astype(np.float32), np.arange(9))
    np.testing.assert_allclose(missing, alone)
