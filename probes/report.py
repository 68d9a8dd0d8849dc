"""A probe with everything that it has to be compared with."""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
import xarray as xr

from cache.arguments import Seed, typed
from interp.errors import ProbeError
from interp.progress import Progress
from interp.stats import holm
from probes.controls.design import CONTROL, TRUE, Design
from probes.controls.order import DRIFT, drifts, in_sequence
from probes.controls.shuffling import arrangements, too_few
from probes.controls.significance import against_shuffled, difference_interval, group_interval
from probes.evaluate import Findings, Held, find, sites_at_once
from probes.features import Features, example_groups, fittable
from probes.fitting import Workspace, rotated
from probes.fitting.parallel import over_sites
from probes.labels import check_numbers, encode, group_codes

STRENGTHS = (0.1, 1.0, 10.0, 100.0, 1000.0)


@typed
def probe_report(
    features: Any,
    labels: Any,
    *,
    groups: Any = None,
    types: Any = None,
    strengths: Sequence[float] = STRENGTHS,
    folds: int = 5,
    nulls: int = 10,
    bootstraps: int = 20,
    prefixes: int = 7,
    seed: Seed = 0,
    tol: float = 1e-4,
    max_iter: int = 1000,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Logistic probes at all sites, with controls, intervals and corrected p values.

    Args:
        features: as for `fit_probes`.
        labels: class of each example.
        groups: examples of one group (a prompt, an entity) never stand on both sides of a split;
            each prompt of `features` if left out, each example where there are none. Examples that
            are the very same are of one group then.
        types: word type of each example, which control labels are assigned to; the tokens of
            `features` if left out, and groups where there are none.
        strengths: penalties to choose from, times the site's mean variance per dim (l2, which is
            scikit-learn's 1/C for features of unit variance).
        folds: of the cross-validation.
        nulls: how often labels are shuffled, at least 3.
        bootstraps: how often probes are fitted to resampled groups.
        prefixes: most blocks of the online code.
        seed: of all that is drawn.
        tol: see `fit_probes`.
        max_iter: see `fit_probes`.
        progress: called with (sites done, sites in all).

    Returns:
        For each site: `accuracy`, `control` and `selectivity` (their difference), each with `_low`
        and `_high`; `bits` and `control_bits` (held-out loss of an example); `null`, the
        accuracy on shuffled labels (…, null); `auroc` and `null_auroc`, at the middle strength,
        which the test compares; `p_value` and `p_corrected` (Holm, over sites); `code`,
        `control_code`, each at its own strength, and `compression` (uniform code over code);
        `resampled` and `cosine` (…, bootstrap); `path` and `path_bits` (labels, …, strength);
        `l2`, `chosen` and `control_chosen`; and the probe of all examples, `coef` and `intercept`.
        For each example: `correct` and `control_correct`, held out. `majority` and
        `control_majority` are what answering without looking gets. Intervals are NaN with fewer
        than 5 groups. Attributes: `arrangements`, in how many ways labels can be shuffled, counted
        up to a million (no p value is below one over it); `inside_groups`, how they are (see
        `shuffled`); and `drift`.

    Warns:
        UserWarning: there are too few groups for any p value to be small, or groups that follow
            each other are alike in labels and features (`drift` is 1), so that p values may be too
            small.

    Raises:
        ProbeError: features, labels or groups do not make a probe; the message says why.
    """
    steps = _steps(
        features,
        labels,
        groups,
        types,
        _Settings(strengths, folds, nulls, bootstraps, prefixes, seed, tol, max_iter),
        progress,
    )
    return _dataset(*deque(steps, maxlen=1).pop())


@typed
def probe_steps(
    features: Any,
    labels: Any,
    *,
    groups: Any = None,
    types: Any = None,
    seed: Seed = 0,
    progress: Progress | None = None,
) -> Iterator[xr.Dataset]:
    """What `probe_report` returns, ever more sites of it; the last one is the report.

    Arguments are those of `probe_report`, whose other settings are as usual.

    Returns:
        Reports of the sites that are done, in their order. What goes for several sites together
        (`p_corrected`) goes for those.

    Raises:
        ProbeError: as `probe_report`, at the first step.
    """
    steps = _steps(features, labels, groups, types, _Settings(seed=seed), progress)
    return (_dataset(*step) for step in steps)


@dataclass(frozen=True)
class _Settings:
    """Those of `probe_report`, which says what they are."""

    strengths: Sequence[float] = STRENGTHS
    folds: int = 5
    nulls: int = 10
    bootstraps: int = 20
    prefixes: int = 7
    seed: int = 0
    tol: float = 1e-4
    max_iter: int = 1000


def _steps(
    features: Any,
    labels: Any,
    groups: Any,
    types: Any,
    chosen: _Settings,
    progress: Progress | None,
) -> Iterator[tuple[Features, Design, Findings, dict[str, Any]]]:
    """What makes a report, of ever more sites."""
    found = fittable(features)
    encoded = encode(labels, len(found))
    check_numbers(
        chosen.strengths,
        folds=(chosen.folds, 2),
        nulls=(chosen.nulls, 3),
        bootstraps=(chosen.bootstraps, 1),
        prefixes=(chosen.prefixes, 1),
        seed=(chosen.seed, 0),
        max_iter=(chosen.max_iter, 1),
    )
    if not chosen.tol > 0:
        raise ProbeError(f"The tolerance must be positive, not {chosen.tol}.")
    by_group = example_groups(found, groups)
    by_type = by_group
    if types is not None or found.tokens:
        by_type = group_codes(found.tokens if types is None else types, len(found))
    turned = in_sequence(found.values, by_group)
    design = Design.draw(
        encoded,
        by_group,
        by_type,
        strengths=chosen.strengths,
        folds=chosen.folds,
        nulls=chosen.nulls,
        bootstraps=chosen.bootstraps,
        prefixes=chosen.prefixes,
        seed=chosen.seed,
        turned=turned,
    )
    _check_ranks(design)
    ways = arrangements(encoded.codes, by_group, turned=turned, symmetric=True)
    drift = drifts(found.values, encoded.codes, by_group)
    for warning in (too_few(ways, len(found.sites)), DRIFT if drift else ""):
        if warning:
            warnings.warn(warning, stacklevel=3)
    settings = {
        **{name: getattr(chosen, name) for name in ("folds", "nulls", "bootstraps", "seed", "tol")},
        "arrangements": ways,
        "inside_groups": "turned" if turned else "shuffled",
        "drift": int(drift),
    }
    for findings in _all_sites(found, design, chosen.tol, chosen.max_iter, progress):
        done = len(findings.chosen)
        some = replace(found, values=found.values[:done], sites=found.sites[:done])
        yield some, design, findings, settings


def _all_sites(
    found: Features,
    design: Design,
    tol: float,
    max_iter: int,
    progress: Progress | None,
) -> Iterator[Findings]:
    """What was found at the sites that are done, batch by batch."""
    x = found.values
    columns = 1 if design.labels.n_classes == 2 else design.labels.n_classes
    size = sites_at_once(design, x.element_size(), columns, x.device.type)

    def work(some: slice, workspace: Workspace) -> Findings:
        return find(rotated(x[some]), design, tol, max_iter, workspace)

    batches = [slice(start, start + size) for start in range(0, len(x), size)]
    parts = []
    for part in over_sites(work, batches, x.device):
        parts.append(part)
        if progress:
            progress(sum(len(each.chosen) for each in parts), len(x))
        yield _joined(parts)


def _check_ranks(design: Design) -> None:
    """Refuse folds of one class each, in which no example can be ranked above another."""
    codes = design.labels.codes
    if all(len(np.unique(codes[design.fold_of == fold])) == 1 for fold in range(design.folds)):
        raise ProbeError(
            f"Each of the {design.folds} folds holds examples of one class only, so that nothing "
            "can be compared inside of a fold; use fewer folds, or more groups."
        )


def _joined(parts: list[Findings]) -> Findings:
    columns: dict[str, Any] = {}
    for field in fields(Findings):
        values = [getattr(part, field.name) for part in parts]
        columns[field.name] = (
            Held(torch.cat([v.right for v in values]), torch.cat([v.bits for v in values]))
            if isinstance(values[0], Held)
            else torch.cat(values)
        )
    return Findings(**columns)


def _dataset(found: Features, design: Design, f: Findings, settings: dict[str, Any]) -> xr.Dataset:
    groups, sites = design.groups, len(found.sites)
    fold_of = torch.as_tensor(design.fold_of, device=f.chosen.device)
    # Each example is judged at the strength that the other folds chose.
    index = f.chosen_folds[:, :, fold_of]
    right, bits = (
        value.gather(2, index[:, :, None])[:, :, 0].double().cpu().numpy()
        for value in (f.path.right, f.path.bits)
    )
    correct, control = right[:, TRUE], right[:, CONTROL]
    area = f.area.cpu().numpy()
    p = against_shuffled(area[:, 0], area[:, 1:], least=1 / settings["arrangements"])
    code = f.code.cpu().numpy()
    uniform = len(found) * math.log2(design.labels.n_classes)
    values: dict[str, Any] = {
        "bits": ("site", bits[:, TRUE].mean(1)),
        "control_bits": ("site", bits[:, CONTROL].mean(1)),
        "null": (("site", "null"), f.null.right.double().mean(2).cpu().numpy()),
        "auroc": ("site", area[:, 0]),
        "null_auroc": (("site", "null"), area[:, 1:]),
        "p_value": ("site", p),
        "p_corrected": ("site", holm(p)),
        "code": ("site", code[:, TRUE]),
        "control_code": ("site", code[:, CONTROL]),
        "compression": ("site", uniform / code[:, TRUE]),
        "resampled": (("site", "bootstrap"), f.resampled.double().cpu().numpy()),
        "cosine": (("site", "bootstrap"), f.cosine.double().cpu().numpy()),
        "path": (("site", "labels", "strength"), _mean(f.path.right)),
        "path_bits": (("site", "labels", "strength"), _mean(f.path.bits)),
        "l2": (("site", "strength"), f.l2.double().cpu().numpy()),
        "chosen": ("site", f.chosen[:, TRUE].cpu().numpy()),
        "control_chosen": ("site", f.chosen[:, CONTROL].cpu().numpy()),
        "coef": (("site", "column", "dim"), f.coef.cpu().numpy()),
        "intercept": (("site", "column"), f.intercept.cpu().numpy()),
        "gradient": ("site", f.gradient.amax(1).double().cpu().numpy()),
        "iterations": ("site", f.iterations.double().mean(1).cpu().numpy()),
        "correct": (("site", "example"), correct),
        "control_correct": (("site", "example"), control),
        "majority": ((), design.labels.majority),
        "control_majority": ((), float(np.bincount(design.control).max() / len(found))),
    }
    measured = {
        "accuracy": (correct, group_interval(correct, groups)),
        "control": (control, group_interval(control, groups)),
        "selectivity": (correct - control, difference_interval(correct, control, groups)),
    }
    for name, (each, (low, high)) in measured.items():
        values |= {
            name: ("site", each.mean(1)),
            f"{name}_low": ("site", low),
            f"{name}_high": ("site", high),
        }
    coords: dict[str, Any] = {
        "site": list(found.sites),
        "labels": ["true", "control"],
        "strength": list(design.strengths),
        "label": ("example", [design.labels.classes[i] for i in design.labels.codes]),
        "group": ("example", groups),
        "fold": ("example", design.fold_of),
    }
    if found.tokens:
        coords["token"] = ("example", list(found.tokens))
    attrs = {
        **found.identity,
        "obverse_version": version("obverse"),
        "instrument": "probe_report",
        "classes": list(design.labels.classes),
        "groups": int(groups.max()) + 1,
        "problems": design.n_problems * sites,
        **settings,
    }
    return xr.Dataset(values, coords, attrs)


def _mean(values: torch.Tensor) -> Any:
    return values.double().mean(3).cpu().numpy()
