"""The online code of control labels is as short as it can be, and says nothing of noise."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from probes import probe_report
from probes.controls.splits import prefixes
from probes.evaluate import answers, complete

pytestmark = pytest.mark.slow


def test_the_control_is_told_at_its_own_strength() -> None:
    """Labels that a weak penalty tells best: at it, random labels would cost far more than bits."""
    rng = np.random.default_rng(0)
    y = rng.permutation(200) % 2
    x = rng.standard_normal((200, 60))
    x[:, 0] += 40 * y
    report = probe_report(x, y)
    assert float(report["l2"][0, int(report["chosen"][0])]) < float(
        report["l2"][0, int(report["control_chosen"][0])]
    )
    assert float(report["code"][0]) < 60
    assert 200 < float(report["control_code"][0]) < 1.1 * 200


@pytest.mark.parametrize("n_classes", [2, 3])
def test_on_noise_neither_code_is_the_shorter_one(n_classes: int) -> None:
    rng, shorter = np.random.default_rng(0), 0
    for run in range(40):
        y = rng.choice(n_classes, 50, p=[0.84, 0.16] if n_classes == 2 else [0.7, 0.15, 0.15])
        y[: 2 * n_classes] = np.tile(np.arange(n_classes), 2)
        report = probe_report(
            rng.standard_normal((50, 5)), y, nulls=3, bootstraps=1, folds=2, seed=run
        )
        shorter += int(report["code"][0] < report["control_code"][0])
    assert 10 <= shorter <= 30


@pytest.mark.parametrize("n_classes", [2, 3])
def test_no_number_hangs_on_the_tolerance_where_a_class_is_missing(n_classes: int) -> None:
    """Word types of one group each: a fold that leaves it out does not know their control label."""
    rng = np.random.default_rng(1)
    groups = np.arange(120) // 4
    y, types = rng.integers(0, n_classes, 120), np.maximum(0, groups - 30 + n_classes)
    x = rng.standard_normal((120, 6))
    names = ("code", "control_code", "bits", "control_bits", "path_bits", "control")
    found = [probe_report(x, y, groups=groups, types=types, tol=tol) for tol in (1e-3, 1e-8)]
    for name in names:
        np.testing.assert_allclose(found[0][name], found[1][name], rtol=0.01)


def test_a_class_that_was_not_seen_gets_what_the_rule_of_succession_gives_it() -> None:
    z = torch.tensor([[1.0, 2.0], [0.5, -1.0], [30.0, -40.0]])
    complete(z, np.array([6, 4, 0]))
    p = torch.softmax(z, 0)
    torch.testing.assert_close(p[2], torch.full((2,), 1 / 13))
    expected = torch.softmax(torch.tensor([[1.0, 2.0], [0.5, -1.0]]), 0) * 12 / 13
    torch.testing.assert_close(p[:2], expected)
    for lacking, right in ((0, 1), (1, 0)):
        z = torch.tensor([[13.0, -2.0]])
        counts = np.array([8, 8])
        counts[lacking] = 0
        complete(z, counts)
        held = answers(z, torch.tensor([right, lacking]))
        assert held.right.tolist() == [1.0, 0.0]
        torch.testing.assert_close(held.bits, -torch.log2(torch.tensor([0.9, 0.1])))
    z = torch.tensor([[13.0, -2.0]])
    complete(z, np.array([8, 1]))
    assert z.tolist() == [[13.0, -2.0]]


def test_prefixes_hold_every_class_of_every_labelling() -> None:
    rng = np.random.default_rng(0)
    both = np.stack([rng.integers(0, 2, 64), np.arange(64) // 8])
    order, ends = prefixes(both, np.arange(64), 6, rng)
    assert len(ends) > 1
    for end in ends[:-1]:
        assert [len(set(each[order[:end]])) for each in both] == [2, 8]


def test_a_group_is_always_left_out_of_a_resample() -> None:
    """Of five groups one draw in 26 would leave none to be tested on."""
    x, groups = np.random.default_rng(0).standard_normal((40, 3)), np.arange(40) % 5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = probe_report(x, np.arange(40) // 20, groups=groups, bootstraps=200, nulls=3)
    assert np.isfinite(report["resampled"]).all()
    assert np.isfinite(report["cosine"]).all()
