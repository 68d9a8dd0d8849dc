"""Several matrices are fitted at once as one after the other."""

from __future__ import annotations

import numpy as np
import pytest

from interp.errors import StatisticsError
from interp.stats import specificity


@pytest.mark.parametrize("alike", [True, False], ids=["the same entries", "others in each"])
def test_a_stack_is_as_one_matrix_after_the_other(alike: bool) -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(2, 3, 9, 9)) * 10.0 + 50.0
    left_out = rng.random((9, 9) if alike else scores.shape) < 0.3
    scores[np.broadcast_to(left_out, scores.shape)] = np.nan
    found = specificity(scores)
    assert found.shape == (2, 3, 9)
    for at in np.ndindex(2, 3):
        # By an independent fit: a column of ones for each row and column of the matrix.
        kept = ~np.isnan(scores[at]) & ~np.eye(9, dtype=bool)
        i, j = np.nonzero(kept)
        design = np.concatenate([np.eye(9)[i], np.eye(9)[j]], axis=1)
        effects = np.linalg.lstsq(design, scores[at][kept], rcond=None)[0]
        np.testing.assert_allclose(
            found[at], np.diagonal(scores[at]) - effects[:9] - effects[9:], atol=1e-8
        )


def test_no_matrix_and_one_that_is_not_square() -> None:
    assert specificity(np.zeros((0, 4, 4))).shape == (0, 4)
    with pytest.raises(StatisticsError):
        specificity(np.zeros((5, 3, 4)))
    with pytest.raises(StatisticsError):
        specificity(np.zeros(4))
