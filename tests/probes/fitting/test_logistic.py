"""Logistic probes are scikit-learn's optimum, on data where that is hard."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from probes import fit_probes
from probes.fitting import Problems, factored, plain, rotated, solve
from probes.fitting.workspace import Workspace
from tests.probes.material import KINDS, data

Array = npt.NDArray[np.float64]


@pytest.fixture(autouse=True, params=["in their own dims", "in eigenvectors"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wide features are fitted in their own dims, others in eigenvectors: here all in both."""
    monkeypatch.setattr("probes.fit.WIDE", 0 if request.param == "in their own dims" else 1 << 30)


def reference(x: Array, y: Array, l2: float, weights: Array | None = None) -> LogisticRegression:
    """scikit-learn's own, to a tight tolerance (newton-cholesky from the lbfgs result)."""
    fitted = LogisticRegression(C=1 / l2, tol=1e-12, max_iter=50_000, solver="newton-cholesky")
    return fitted.fit(x, y, sample_weight=weights)


def objective(
    coef: Array, intercept: Array, x: Array, y: Array, l2: float, weights: Array | None = None
) -> float:
    """Σ weight · −log p(label) + l2/2 |coef|², written out."""
    z = x @ coef.T + intercept
    if z.shape[1] == 1:
        z = np.concatenate([np.zeros_like(z), z], 1)
    log_p = z - np.logaddexp.reduce(z, 1, keepdims=True)
    each = -log_p[np.arange(len(y)), y]
    return float((each * (1 if weights is None else weights)).sum() + l2 / 2 * (coef**2).sum())


@pytest.mark.parametrize("l2", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("name", KINDS)
def test_probes_are_scikit_learns(name: str, n_classes: int, l2: float) -> None:
    x, y = data(name, n_classes)
    found = fit_probes(torch.from_numpy(x), y, l2=l2, tol=1e-9)
    for site in range(len(x)):
        expected = reference(x[site], y, l2)
        coef, intercept = found.coef[site].numpy(), found.intercept[site].numpy()
        ours = objective(coef, intercept, x[site], y, l2)
        theirs = objective(expected.coef_, expected.intercept_, x[site], y, l2)
        assert ours <= theirs * (1 + 1e-6)
        scale = np.abs(expected.coef_).max()
        assert np.abs(coef - expected.coef_).max() <= 1e-3 * scale
        assert (found.predict(x)[site].numpy() == expected.predict(x[site])).mean() > 0.99
    assert float(found.gradient.max()) <= 1e-8


@pytest.mark.parametrize("name", ["plain", "separable", "unbalanced", "n < d"])
def test_float32_reaches_the_same_optimum(name: str) -> None:
    x, y = data(name)
    found = fit_probes(torch.from_numpy(x).float(), y, l2=1.0, tol=1e-6)
    for site in range(len(x)):
        expected = reference(x[site], y, 1.0)
        coef = found.coef[site].double().numpy()
        intercept = found.intercept[site].double().numpy()
        ours = objective(coef, intercept, x[site], y, 1.0)
        theirs = objective(expected.coef_, expected.intercept_, x[site], y, 1.0)
        assert ours <= theirs * (1 + 1e-6)
        assert np.abs(coef - expected.coef_).max() <= 1e-3 * np.abs(expected.coef_).max()


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("name", ["plain", "separable", "collinear", "n < d"])
def test_many_problems_at_once_are_each_scikit_learns(name: str, n_classes: int) -> None:
    """Folds, bootstraps, other labels and other strengths share one basis and one descent."""
    x, y = data(name, n_classes, sites=2)
    rng = np.random.default_rng(1)
    n = len(y)
    labels = np.stack([y, y, y, rng.permutation(y), y])
    weights = np.ones((5, n))
    weights[1] = rng.integers(0, 5, n) != 0
    weights[2] = np.bincount(rng.integers(0, n, n), minlength=n)
    weights[1:3, : 3 * n_classes] = 1
    l2 = np.array([1.0, 0.1, 10.0, 0.5, 1000.0])
    problems = Problems(
        torch.from_numpy(labels), torch.from_numpy(weights), torch.from_numpy(l2), n_classes
    )
    basis = rotated(torch.from_numpy(x))
    solution = solve(basis, problems, tol=1e-9)
    assert float(solution.gradient.max()) <= 1e-9
    for site in range(2):
        for number in range(5):
            coef, intercept = basis.coefficients(solution.weights[:, number])
            expected = reference(x[site], labels[number], l2[number], weights[number])
            at = (x[site], labels[number], l2[number], weights[number])
            ours = objective(coef[site].numpy(), intercept[site].numpy(), *at)
            theirs = objective(expected.coef_, expected.intercept_, *at)
            assert ours <= theirs * (1 + 1e-6)
            scale = np.abs(expected.coef_).max()
            assert np.abs(coef[site].numpy() - expected.coef_).max() <= 1e-3 * scale


def test_both_bases_lead_to_the_same_probe() -> None:
    x, y = data("unequal scales")
    problem = Problems(torch.from_numpy(y)[None], torch.ones(1, len(y)), torch.tensor([1.0]), 2)
    values = torch.from_numpy(x)
    diagonal = plain(values, Workspace())
    found = [
        basis.coefficients(solve(basis, problem, tol=1e-10).weights[:, 0])[0]
        for basis in (diagonal, factored(diagonal, 1.0, 0.25), rotated(values))
    ]
    for other in found[1:]:
        torch.testing.assert_close(found[0], other, rtol=1e-6, atol=1e-8)


def test_the_gradient_reported_is_the_gradient() -> None:
    x, y = data("far from zero")
    found = fit_probes(torch.from_numpy(x), y, l2=1.0, max_iter=2)
    for site in range(len(x)):
        coef, intercept = found.coef[site].numpy()[0], found.intercept[site].numpy()[0]
        step, entries = 1e-5, []
        for i in range(len(coef) + 1):
            moved = np.zeros(len(coef) + 1)
            moved[i] = step
            up, down = (
                objective(
                    (coef + s * moved[:-1])[None],
                    np.array([intercept + s * moved[-1]]),
                    x[site],
                    y,
                    1.0,
                )
                for s in (1, -1)
            )
            entries.append((up - down) / (2 * step) / len(y))
        assert np.abs(entries).max() == pytest.approx(float(found.gradient[site]), rel=1e-3)
