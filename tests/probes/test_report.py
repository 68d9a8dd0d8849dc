"""A report's numbers are those of scikit-learn's loop, and mean what they are said to."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.stats import kstest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from interp.stats import holm
from probes import Probes, probe_report, probe_steps
from probes.controls.design import Design
from probes.labels import encode, group_codes
from probes.report import STRENGTHS
from tests.probes.material import data

pytestmark = pytest.mark.slow

GROUPS = np.repeat(np.arange(75), 4)


def labelled(n_classes: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x, y = data("plain", n_classes)
    return x, y, np.random.default_rng(5).integers(0, 40, len(y))


def settled(n_classes: int = 2) -> tuple[xr.Dataset, Design]:
    """A report to a tight tolerance, and what it was drawn by."""
    x, y, types = labelled(n_classes)
    report = probe_report(torch.from_numpy(x), y, groups=GROUPS, types=types, tol=1e-8)
    design = Design.draw(
        encode(y, len(y)),
        group_codes(GROUPS, len(y)),
        group_codes(types, len(y)),
        strengths=STRENGTHS,
        folds=5,
        nulls=10,
        bootstraps=20,
        prefixes=7,
        seed=0,
    )
    return report, design


def fit(x: np.ndarray, y: np.ndarray, l2: float, weights: np.ndarray) -> LogisticRegression:
    fitted = LogisticRegression(C=1 / l2, tol=1e-10, max_iter=10_000)
    return fitted.fit(x, y, sample_weight=weights)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_held_out_answers_are_scikit_learns(n_classes: int) -> None:
    x, y, _ = labelled(n_classes)
    report, design = settled(n_classes)
    fold_of = report["fold"].values
    for name, labels in (("true", y), ("control", design.control)):
        for number in range(len(STRENGTHS)):
            right, bits = np.zeros(len(y)), np.zeros(len(y))
            l2 = float(report["l2"][1, number])
            for fold in range(5):
                tested = fold_of == fold
                fitted = fit(x[1], labels, l2, (~tested).astype(float))
                p = fitted.predict_proba(x[1][tested])
                right[tested] = fitted.predict(x[1][tested]) == labels[tested]
                bits[tested] = -np.log2(p[np.arange(tested.sum()), labels[tested]])
            path = report.sel(labels=name).isel(site=1, strength=number)
            assert float(path["path"]) == pytest.approx(right.mean(), abs=1e-9)
            assert float(path["path_bits"]) == pytest.approx(bits.mean(), rel=1e-4)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_area_under_the_curve_is_that_of_pairs_inside_of_folds(n_classes: int) -> None:
    x, y, _ = labelled(n_classes)
    report, _ = settled(n_classes)
    won = pairs = 0.0
    for fold in range(5):
        tested = report["fold"].values == fold
        l2 = float(report["l2"][0, 2])
        p = fit(x[0], y, l2, (~tested).astype(float)).predict_proba(x[0][tested])
        for one in range(n_classes):
            mine = y[tested] == one
            count = mine.sum() * (~mine).sum()
            won += roc_auc_score(mine, p[:, one]) * count
            pairs += count
    assert float(report["auroc"][0]) == pytest.approx(won / pairs, abs=1e-6)


def test_the_online_code_is_that_of_growing_prefixes() -> None:
    x, y, _ = labelled()
    report, design = settled()
    works = (("code", "chosen", y), ("control_code", "control_chosen", design.control))
    for name, chosen, labels in works:
        l2 = float(report["l2"][0, int(report[chosen][0])])
        bits = design.ends[0] * 1.0 + np.log2(len(STRENGTHS))
        for start, end in zip(design.ends, design.ends[1:], strict=False):
            seen = np.zeros(len(y))
            seen[design.order[:start]] = 1
            fitted = fit(x[0], labels, l2, seen)
            block = design.order[start:end]
            p = fitted.predict_proba(x[0][block])[np.arange(len(block)), labels[block]]
            bits -= np.log2(p).sum()
        assert float(report[name][0]) == pytest.approx(bits, rel=1e-4)
    by_control = report["path_bits"].sel(labels="control").argmin("strength")
    assert (report["control_chosen"] == by_control).all()
    assert float(report["compression"][0]) == pytest.approx(300 / float(report["code"][0]))


def test_each_fold_is_judged_at_the_strength_that_the_others_choose() -> None:
    x, y, _ = labelled()
    report, _ = settled()
    fold_of, bits = report["fold"].values, np.zeros((5, len(y)))
    for number in range(5):
        for fold in range(5):
            tested = fold_of == fold
            l2 = float(report["l2"][0, number])
            p = fit(x[0], y, l2, (~tested).astype(float)).predict_proba(x[0][tested])
            bits[number, tested] = -np.log2(p[np.arange(tested.sum()), y[tested]])
    expected = np.zeros(len(y))
    for fold in range(5):
        tested = fold_of == fold
        best = bits[:, ~tested].sum(1).argmin()
        expected[tested] = bits[best, tested]
    assert float(report["bits"][0]) == pytest.approx(expected.mean(), rel=1e-4)
    assert int(report["chosen"][0]) == bits.sum(1).argmin()


def test_the_probe_of_all_examples_and_its_resamples() -> None:
    x, y, _ = labelled()
    report, design = settled()
    l2 = float(report["l2"][0, int(report["chosen"][0])])
    expected = fit(x[0], y, l2, np.ones(len(y)))
    np.testing.assert_allclose(report["coef"][0], expected.coef_, rtol=1e-3, atol=1e-5)
    for number in (0, 19):
        again = fit(x[0], y, l2, design.resamples[number])
        left_out = design.resamples[number] == 0
        right = (again.predict(x[0][left_out]) == y[left_out]).mean()
        assert float(report["resampled"][0, number]) == pytest.approx(right, abs=1e-9)
        cosine = np.dot(again.coef_[0], expected.coef_[0]) / (
            np.linalg.norm(again.coef_) * np.linalg.norm(expected.coef_)
        )
        assert float(report["cosine"][0, number]) == pytest.approx(cosine, abs=1e-4)
    probes = Probes.of_report(report)
    np.testing.assert_array_equal(probes.predict(torch.from_numpy(x))[0], expected.predict(x[0]))


def test_units_and_rotations_of_the_features_do_not_matter() -> None:
    x, y, types = labelled()
    turned = 37.0 * x @ np.linalg.qr(np.random.default_rng(0).standard_normal((12, 12)))[0]
    settings = {"groups": GROUPS, "types": types, "tol": 1e-8}
    one, other = (probe_report(torch.from_numpy(v), y, **settings) for v in (x, turned + 5))
    for name in ("accuracy", "control", "auroc", "p_value"):
        np.testing.assert_allclose(one[name], other[name], atol=1e-6)


def test_pieces_and_threads_give_the_same_report(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = data("plain", 3, sites=5)
    whole = probe_report(torch.from_numpy(x), y, groups=GROUPS)
    monkeypatch.setattr("probes.evaluate.SMALL", 1)
    monkeypatch.setattr("probes.evaluate.LARGE", 40 * 300 * 3 * 8)
    torch.set_num_threads(2)
    pieces = probe_report(torch.from_numpy(x), y, groups=GROUPS)
    torch.set_num_threads(1)
    for name in whole.data_vars:
        if name not in ("gradient", "iterations"):
            np.testing.assert_allclose(whole[name], pieces[name], rtol=1e-2, atol=1e-3)


def test_steps_are_reports_of_ever_more_sites(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = data("plain", sites=3)
    features = torch.from_numpy(x)
    monkeypatch.setattr("probes.report.sites_at_once", lambda *given: 1)
    whole = probe_report(features, y, groups=GROUPS, types=GROUPS)
    told: list[tuple[int, int]] = []

    def tell(done: int, total: int) -> None:
        told.append((done, total))

    steps = list(probe_steps(features, y, groups=GROUPS, types=GROUPS, progress=tell))
    assert [step.sizes["site"] for step in steps] == [1, 2, 3]
    assert told == [(1, 3), (2, 3), (3, 3)]
    for step in steps:
        first = whole.isel(site=slice(step.sizes["site"]))
        for name in ("accuracy", "control", "selectivity_low", "null", "correct"):
            np.testing.assert_array_equal(step[name], first[name])
        np.testing.assert_allclose(step["p_corrected"], holm(first["p_value"].values), rtol=1e-6)
    assert steps[-1].attrs == whole.attrs


def test_the_commonest_control_label_is_told() -> None:
    x, y = data("unbalanced")
    report = probe_report(torch.from_numpy(x), y, groups=GROUPS, types=np.zeros(len(y)))
    # Of one word type all have one label, which a probe that looks at nothing tells.
    assert float(report["control_majority"]) == 1.0
    assert float(report["majority"]) == np.bincount(y).max() / len(y)
    np.testing.assert_array_equal(report["control"], 1.0)


def test_memorised_word_types_lift_the_control_and_lower_selectivity() -> None:
    """Hewitt & Liang: where types repeat across the split, a probe can learn them by heart."""
    rng = np.random.default_rng(0)
    types = rng.integers(0, 20, 400)
    x = np.eye(20)[types] + 0.1 * rng.standard_normal((400, 20))
    y = (types < 10).astype(int)
    report = probe_report(x, y, types=types)
    assert float(report["accuracy"][0]) > 0.95
    assert float(report["control"][0]) > 0.95
    assert abs(float(report["selectivity"][0])) < 0.05
    apart = probe_report(x, y, types=types, groups=types)
    assert float(apart["control"][0]) < 0.8


def noise(run: int, kind: str) -> xr.Dataset:
    rng = np.random.default_rng(run)
    n, dim = (60, 12) if kind != "n < d" else (40, 60)
    groups = np.arange(n) // 3 if kind == "groups" else None
    x = rng.standard_normal((4, n, dim))
    y = rng.integers(0, 2, n)
    if groups is not None:
        y = rng.integers(0, 2, n // 3)[groups]
        x += 2 * rng.standard_normal((4, n // 3, dim))[:, groups]
    return probe_report(
        x, y, groups=groups, prefixes=1, bootstraps=1, seed=run, strengths=(1, 10, 100)
    )


@pytest.mark.parametrize("kind", ["plain", "groups", "n < d"])
def test_on_pure_noise_the_corrected_test_cries_wolf_in_one_of_twenty_runs(kind: str) -> None:
    runs = [noise(run, kind) for run in range(100)]
    cries = sum(bool((report["p_corrected"] < 0.05).any()) for report in runs)
    # 11 or more have a probability of one percent at the nominal rate.
    assert cries < 11
    p = np.array([float(report["p_value"][0]) for report in runs])
    assert kstest(p, "uniform").pvalue > 0.01


def test_corrected_p_values_are_holms() -> None:
    report, _ = settled()
    np.testing.assert_allclose(report["p_corrected"], holm(report["p_value"].values))


def test_a_planted_direction_is_found() -> None:
    rng = np.random.default_rng(0)
    planted = rng.standard_normal(32)
    planted /= np.linalg.norm(planted)
    y = rng.integers(0, 2, 3000)
    x = rng.standard_normal((3, 3000, 32))
    x[1] += np.outer(2 * y - 1, planted)
    report = probe_report(x, y)
    assert (report["p_corrected"].values < 0.05).tolist() == [False, True, False]
    direction = Probes.of_report(report).direction("site 1").numpy()
    assert direction @ planted >= 0.95
    assert report["accuracy_low"][1] > report["majority"]
    assert float(report["cosine"][1].min()) > 0.9
