"""Does a probe that was trained here work there: at another site, under another condition?"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr

from cache.arguments import Seed, typed
from interp.errors import ProbeError
from probes.controls import splits
from probes.controls.significance import group_interval
from probes.evaluate import answers
from probes.features import Features, example_groups, fittable
from probes.fitting import Problems, Workspace, rotated, solve
from probes.fitting.parallel import over_sites
from probes.labels import Labels, check_numbers, encode, group_codes

Array = np.ndarray[Any, np.dtype[Any]]


@typed
def transfer_sites(
    features: Any,
    labels: Any,
    *,
    groups: Any = None,
    strength: float = 10.0,
    folds: int = 5,
    seed: Seed = 0,
) -> xr.Dataset:
    """Logistic probes of every site tested at every site, on groups that they have not seen.

    Args:
        features: as for `probe_report`, and likewise `labels`, `groups`, `folds` and `seed`.
        strength: penalty, times the site's mean variance per dim.

    Returns:
        accuracy(train, test), with `_low` and `_high` over groups.
    """
    found = fittable(features)
    encoded = encode(labels, len(found))
    check_numbers([strength], folds=(folds, 2), seed=(seed, 0))
    by_group = example_groups(found, groups)
    fold_of = splits.folds(encoded, by_group, folds, np.random.default_rng(seed))
    training = np.stack([fold_of != fold for fold in range(folds)])
    coef, intercept = _fit(found, encoded, training, strength)
    codes = torch.as_tensor(encoded.codes)
    correct = np.zeros((len(found.sites), len(found.sites), len(found)))
    for fold in range(folds):
        tested = torch.as_tensor(fold_of == fold)
        x = found.values[:, tested].cpu()
        for train in range(len(found.sites)):
            z = x @ coef[train, fold].mT + intercept[train, fold]
            right = answers(z.mT, codes[tested]).right
            correct[train][:, tested.numpy()] = right.numpy()
    low, high = group_interval(correct, by_group)
    dims = ("train", "test")
    sites = list(found.sites)
    return xr.Dataset(
        {
            "accuracy": (dims, correct.mean(2)),
            "accuracy_low": (dims, low),
            "accuracy_high": (dims, high),
            "majority": ((), encoded.majority),
        },
        {"train": sites, "test": sites},
        _attrs(found, "transfer_sites", folds, strength, seed),
    )


@typed
def transfer_conditions(
    features: Any,
    labels: Any,
    conditions: Any,
    *,
    groups: Any = None,
    strength: float = 10.0,
    folds: int = 5,
    seed: Seed = 0,
) -> xr.Dataset:
    """Logistic probes trained on the examples of one condition and tested on those of another.

    Conditions may be templates, languages or data sets. Groups are left out under every condition,
    so that a group seen under one does not help under another.

    Args:
        features: as for `probe_report`, and likewise `labels`, `groups`, `folds` and `seed`.
        conditions: the condition of each example.
        strength: penalty, times the site's mean variance per dim.

    Returns:
        accuracy(site, train, test), with `_low` and `_high` over groups.

    Raises:
        ProbeError: fewer than two conditions, or one without a class in some training part.
    """
    found = fittable(features)
    encoded = encode(labels, len(found))
    given = np.asarray(conditions)
    if pd.isna(given).any():
        raise ProbeError("Some examples have no condition; give each one, or leave them out.")
    if given.dtype.kind == "O":
        given = given.astype(str)
    names, condition = np.unique(given, return_inverse=True)
    if condition.shape != (len(found),) or len(names) < 2:
        raise ProbeError(
            f"Give each of the {len(found)} examples one of at least two conditions, or use "
            "transfer_sites."
        )
    check_numbers([strength], folds=(folds, 2), seed=(seed, 0))
    by_group = example_groups(found, groups)
    fold_of = splits.folds(encoded, by_group, folds, np.random.default_rng(seed))
    training = np.stack(
        [
            (condition == one) & (fold_of != fold)
            for one in range(len(names))
            for fold in range(folds)
        ]
    )
    for number, row in enumerate(training):
        if len(np.unique(encoded.codes[row])) < encoded.n_classes:
            raise ProbeError(
                f"Condition '{names[number // folds]}' lacks a class in a training part; give it "
                "more examples, or use fewer folds."
            )
    coef, intercept = _fit(found, encoded, training, strength)
    codes = torch.as_tensor(encoded.codes)
    correct = np.zeros((len(found.sites), len(names), len(found)))
    for number in range(len(training)):
        tested = torch.as_tensor(fold_of == number % folds)
        z = found.values[:, tested].cpu() @ coef[:, number].mT + intercept[:, number, None]
        right = answers(z.mT, codes[tested]).right
        correct[:, number // folds, tested.numpy()] = right.numpy()
    shape = (len(found.sites), len(names), len(names))
    means, lows, highs = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for test in range(len(names)):
        here = condition == test
        inside = group_codes(by_group[here], int(here.sum()))
        means[..., test] = correct[..., here].mean(2)
        lows[..., test], highs[..., test] = group_interval(correct[..., here], inside)
    dims = ("site", "train", "test")
    texts = [str(name) for name in names]
    return xr.Dataset(
        {
            "accuracy": (dims, means),
            "accuracy_low": (dims, lows),
            "accuracy_high": (dims, highs),
            "majority": ((), encoded.majority),
        },
        {"site": list(found.sites), "train": texts, "test": texts},
        _attrs(found, "transfer_conditions", folds, strength, seed),
    )


def _fit(
    found: Features, labels: Labels, training: Array, strength: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Coefficients [site, part, column, dim] and intercepts [site, part, column]."""
    x = found.values
    codes = torch.as_tensor(labels.codes, device=x.device).expand(len(training), -1)
    weights = torch.as_tensor(training, device=x.device).to(x)

    def fit(some: slice, work: Workspace) -> tuple[torch.Tensor, torch.Tensor]:
        basis = rotated(x[some])
        l2 = strength * basis.variance
        problems = Problems(codes, weights, l2[:, None].expand(-1, len(training)), labels.n_classes)
        solved = solve(basis, problems, workspace=work).weights
        flat, intercept = basis.coefficients(solved.flatten(1, 2))
        shape = solved.shape[:3]
        return flat.view(*shape, -1).cpu(), intercept.view(shape).cpu()

    parts = list(over_sites(fit, [slice(i, i + 1) for i in range(len(x))], x.device))
    coef, intercept = (torch.cat(of) for of in zip(*parts, strict=True))
    return coef, intercept


def _attrs(
    found: Features, name: str, folds: int, strength: float, seed: int
) -> dict[str, str | int | float]:
    return {
        **found.identity,
        "obverse_version": version("obverse"),
        "instrument": name,
        "folds": folds,
        "strength": strength,
        "seed": seed,
    }
