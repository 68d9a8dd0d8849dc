"""Splits keep groups together, and shuffles keep what the null hypothesis keeps."""

from __future__ import annotations

import numpy as np
import pytest

from interp.errors import ProbeError
from probes.controls.splits import control_labels, folds, prefixes, resamples
from probes.labels import encode

RNG = np.random.default_rng(0)
GROUPS = np.repeat(np.arange(40), RNG.integers(1, 6, 40))
LABELS = RNG.integers(0, 3, len(GROUPS))


def test_no_group_crosses_folds_and_folds_are_alike() -> None:
    found = folds(encode(LABELS, len(LABELS)), GROUPS, 5, np.random.default_rng(1))
    for fold in range(5):
        assert not set(GROUPS[found != fold]) & set(GROUPS[found == fold])
        share = np.bincount(LABELS[found == fold], minlength=3) / np.bincount(LABELS)
        assert (np.abs(share - 0.2) < 0.1).all()


def test_too_few_groups_and_classes_of_one_group_are_refused() -> None:
    labels = encode([0, 1] * 10, 20)
    with pytest.raises(ProbeError, match="need at least 5 groups"):
        folds(labels, np.repeat([0, 1], 10), 5, RNG)
    lonely = encode([2, 2, *[0, 1] * 9], 20)
    with pytest.raises(ProbeError, match="Class '2' is in one fold only"):
        folds(lonely, np.concatenate([[0, 0], np.arange(1, 19)]), 5, RNG)


def test_control_labels_depend_on_the_word_type_alone() -> None:
    types = RNG.integers(0, 30, len(LABELS))
    found = control_labels(LABELS, types, np.random.default_rng(0))
    for kind in range(30):
        assert len(set(found[types == kind])) <= 1
    assert set(found) == set(LABELS)


def test_resamples_draw_whole_groups() -> None:
    found = resamples(LABELS, GROUPS, 7, np.random.default_rng(0))
    for row in found:
        times = [set(row[g == GROUPS]) for g in range(40)]
        assert all(len(one) == 1 for one in times)
        assert sum(one.pop() for one in times) == 40


def test_prefixes_grow_and_cut_no_group() -> None:
    order, ends = prefixes(LABELS, GROUPS, 4, np.random.default_rng(0))
    assert sorted(order) == list(range(len(LABELS)))
    assert list(ends) == sorted(set(ends))
    assert ends[-1] == len(LABELS)
    for end in ends[:-1]:
        assert not set(GROUPS[order[:end]]) & set(GROUPS[order[end:]])
        assert len(set(LABELS[order[:end]])) == 3
    assert abs(ends[-2] / len(LABELS) - 0.5) < 0.05
