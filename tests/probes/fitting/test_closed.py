"""Formulas agree with scikit-learn, with brute force, and with themselves in pieces."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge

from probes import Eraser, Moments, fit_probes
from probes.fitting.closed import ridge_path
from tests.probes.material import data


def one_hot(y: np.ndarray) -> torch.Tensor:
    return torch.eye(int(y.max()) + 1, dtype=torch.float64)[y]


def test_moments_in_pieces_are_those_of_the_whole() -> None:
    x, y = data("far from zero", 3)
    values, targets = torch.from_numpy(x), one_hot(y)
    whole = Moments.of(values, targets)
    parts = [Moments.of(values[:, i : i + 70], targets[i : i + 70]) for i in range(0, 300, 70)]
    summed = parts[0] + parts[1] + parts[2] + parts[3] + parts[4]
    for name in ("x_mean", "t_mean", "xx", "xt", "tt"):
        torch.testing.assert_close(
            getattr(summed, name), getattr(whole, name), rtol=1e-9, atol=1e-6
        )
    assert summed.n == 300
    np.testing.assert_allclose(whole.xx[0] / 300, np.cov(x[0].T, bias=True), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("n_classes", [2, 4])
def test_lda_is_scikit_learns(n_classes: int) -> None:
    x, y = data("plain", n_classes)
    found = fit_probes(torch.from_numpy(x), y, "lda", l2=1e-9)
    for site in range(len(x)):
        expected = LinearDiscriminantAnalysis(solver="lsqr").fit(x[site], y)
        z = found.decision(torch.from_numpy(x))[site].numpy()
        theirs = expected.decision_function(x[site])
        if n_classes == 2:
            np.testing.assert_allclose(z[:, 0], theirs, rtol=1e-6, atol=1e-6)
        else:
            # Scores of all classes may be shifted together.
            np.testing.assert_allclose(
                z - z.mean(1, keepdims=True),
                theirs - theirs.mean(1, keepdims=True),
                rtol=1e-6,
                atol=1e-6,
            )


def test_difference_of_means_is_that() -> None:
    x, y = data("plain")
    found = fit_probes(torch.from_numpy(x), y, "mean")
    for site in range(len(x)):
        first, second = x[site][y == 0].mean(0), x[site][y == 1].mean(0)
        np.testing.assert_allclose(found.coef[site, 0], second - first, rtol=1e-9)
        nearer = ((x[site] - second) ** 2).sum(1) < ((x[site] - first) ** 2).sum(1)
        np.testing.assert_array_equal(found.predict(torch.from_numpy(x))[site], nearer.astype(int))


@pytest.mark.parametrize("name", ["plain", "collinear", "n < d", "far from zero"])
def test_ridge_is_scikit_learns(name: str) -> None:
    x, _ = data(name)
    targets = np.random.default_rng(0).standard_normal((x.shape[1], 3)) + x[0][:, :3]
    found = fit_probes(torch.from_numpy(x), targets, "ridge", l2=2.5)
    for site in range(len(x)):
        expected = Ridge(alpha=2.5).fit(x[site], targets)
        np.testing.assert_allclose(found.coef[site], expected.coef_, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(found.intercept[site], expected.intercept_, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["plain", "n < d", "constant feature"])
def test_leaving_one_out_in_closed_form_is_leaving_one_out(name: str) -> None:
    x, _ = data(name, sites=1)
    targets = np.random.default_rng(0).standard_normal((x.shape[1], 2)) + x[0][:, :2]
    strengths = [0.1, 10.0]
    path = ridge_path(torch.from_numpy(x), torch.from_numpy(targets), strengths)
    for number, l2 in enumerate(strengths):
        expected = Ridge(alpha=l2).fit(x[0], targets)
        np.testing.assert_allclose(path.coef[0, number], expected.coef_, rtol=1e-6, atol=1e-9)
        for i in (0, 7, 31):
            others = np.arange(x.shape[1]) != i
            without = Ridge(alpha=l2).fit(x[0][others], targets[others])
            np.testing.assert_allclose(
                path.left_out[0, number, i], without.predict(x[0][i : i + 1])[0], rtol=1e-6
            )
    errors = ((path.left_out[0].numpy() - targets) ** 2).mean((1, 2))
    np.testing.assert_allclose(path.errors(torch.from_numpy(targets))[0], errors)


@pytest.mark.parametrize("n_classes", [2, 4])
def test_after_erasure_no_linear_probe_beats_a_constant(n_classes: int) -> None:
    x, y = data("collinear", n_classes)
    values = torch.from_numpy(x)
    erased = Eraser.fit(Moments.of(values, one_hot(y)))(values).numpy()
    for site in range(len(x)):
        assert (
            LinearRegression()
            .fit(x[site], np.eye(n_classes)[y])
            .score(x[site], np.eye(n_classes)[y])
            > 0.02
        )
        left = LinearRegression().fit(erased[site], np.eye(n_classes)[y])
        assert abs(left.score(erased[site], np.eye(n_classes)[y])) < 1e-8
        fitted = LogisticRegression(C=1e6, max_iter=5000).fit(erased[site], y)
        majority = np.bincount(y) / len(y)
        loss = -np.log(fitted.predict_proba(erased[site])[np.arange(len(y)), y]).mean()
        assert loss == pytest.approx(-(majority * np.log(majority)).sum(), abs=1e-4)


def test_erasure_changes_less_than_projecting_the_means_out() -> None:
    """Belrose et al. 2023: of all that erases, the change of least mean square."""
    x, y = data("unequal scales", sites=1)
    x = x @ np.linalg.qr(np.random.default_rng(3).standard_normal((12, 12)))[0]
    values = torch.from_numpy(x)
    erased = Eraser.fit(Moments.of(values, one_hot(y)))(values).numpy()
    direction = x[0][y == 1].mean(0) - x[0][y == 0].mean(0)
    direction /= np.linalg.norm(direction)
    centred = x[0] - x[0].mean(0)
    projected = x[0] - np.outer(centred @ direction, direction)
    assert ((erased[0] - x[0]) ** 2).sum() < ((projected - x[0]) ** 2).sum()


@pytest.mark.slow
def test_an_mlp_decodes_what_no_linear_probe_can() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 400, 4))
    y = (x[0, :, 0] * x[0, :, 1] > 0).astype(int)
    values = torch.from_numpy(x).float()
    linear = float(fit_probes(values, y).accuracy(values, y).mean())
    bent = fit_probes(values, y, "mlp", l2=0.1, neurons=16)
    assert linear < 0.65
    assert float(bent.accuracy(values, y).mean()) > 0.95
