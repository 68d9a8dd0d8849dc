"""Probes: Obverse and scikit-learn in one process, equal answers checked.

First one plain logistic fit for each site, then the whole report: folds × strengths for true and
control labels, shuffled labels, bootstraps, and prefixes of the online code, about 150 problems a
site, which scikit-learn fits one by one on all cores (joblib). Its loop runs on some sites, spread
evenly, and its time is scaled up. Every problem is the same on both sides, strengths included.

    python -m benchmarks.probes
    python -m benchmarks.probes --decay 0.5          # a spectrum as activations have
    python -m benchmarks.probes --device cuda
"""

from __future__ import annotations

import argparse
import os
import resource
import time
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from joblib import Parallel, delayed
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from benchmarks._common import describe_machine, timed
from probes import fit_probes, probe_report
from probes.controls.design import Design
from probes.labels import encode, group_codes
from probes.report import STRENGTHS

Floats = npt.NDArray[np.float32]
HEADER = ("work", "problems", "scikit-learn", "Obverse", "ratio", "our loss above theirs, nats")


class Problem(NamedTuple):
    """One fit of the loop."""

    labels: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float64]
    l2: float


def make(sites: int, n: int, dim: int, decay: float) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Features [site, example, dim] whose variances fall as rank^-2·decay, labels along one
    direction: not at all at the first site, two standard deviations at the last."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, n)
    x = rng.standard_normal((sites, n, dim), dtype=np.float32)
    x[..., 0] += np.outer(np.linspace(0, 2, sites), 2 * labels - 1)
    scale = np.arange(1, dim + 1) ** -decay
    turn = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    x = x * (scale / np.sqrt((scale**2).mean())).astype(np.float32) @ turn.astype(np.float32)
    return np.ascontiguousarray(x), labels


def one_fit(x: Floats, problem: Problem) -> tuple[float, int]:
    """scikit-learn's loss at its solution, relative to the number of examples, and its steps."""
    rows = np.repeat(np.arange(len(x)), problem.weights.astype(int))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = LogisticRegression(C=1 / problem.l2, max_iter=1000)
        fitted.fit(x[rows], problem.labels[rows])
    return loss(x, problem, fitted.coef_[0], float(fitted.intercept_[0])), int(fitted.n_iter_[0])


def loss(x: Floats, problem: Problem, coef: npt.NDArray[np.floating], intercept: float) -> float:
    """Mean over examples of what both sides minimise."""
    z = x.astype(np.float64) @ coef.astype(np.float64) + intercept
    each = np.logaddexp(0, -(2 * problem.labels - 1) * z)
    penalty = problem.l2 / 2 * float((coef.astype(np.float64) ** 2).sum())
    return float((problem.weights * each).sum() + penalty) / float(problem.weights.sum())


def problems_of(
    design: Design, l2: npt.NDArray[np.float64], chosen: int, control_chosen: int
) -> Iterator[Problem]:
    """What a report fits on a site, in its order."""
    paths = design.path(torch.ones(1))
    for i, (codes, weights) in enumerate(zip(paths.labels, paths.weights, strict=True)):
        strength = i // (design.folds + 1) % len(design.strengths)
        yield Problem(codes.numpy(), weights.numpy(), float(l2[strength]))
    strengths = (design.middle, chosen, control_chosen)
    rest = design.rest(*(torch.tensor([l2[strength]]) for strength in strengths))
    for codes, weights, penalty in zip(rest.labels, rest.weights, rest.l2[0], strict=True):
        yield Problem(codes.numpy(), weights.numpy(), float(penalty))


def plain(x: Floats, labels: npt.NDArray[np.int64], device: str, repeats: int) -> list[str]:
    """One fit for each site on both sides."""
    tensor = torch.from_numpy(x).to(device)
    ours, probes = timed(lambda: fit_probes(tensor, labels), repeats, device)
    everyone = Problem(labels, np.ones(len(labels)), 1.0)

    def loop() -> list[tuple[float, int]]:
        return [one_fit(site, everyone) for site in x]

    theirs, results = timed(loop, repeats, "cpu")
    coef, intercept = probes.coef[:, 0].cpu().numpy(), probes.intercept[:, 0].cpu().numpy()
    differences = [
        loss(site, everyone, c, float(b)) - found
        for site, c, b, (found, _) in zip(x, coef, intercept, results, strict=True)
    ]
    return row("one fit a site", len(x), theirs, ours, differences)


def report(
    x: Floats,
    labels: npt.NDArray[np.int64],
    device: str,
    peer_sites: int,
    cores: int | None = None,
) -> list[str]:
    """The whole report on both sides, scikit-learn on so many cores (all, if left out)."""
    tensor = torch.from_numpy(x).to(device)
    types = np.random.default_rng(1).integers(0, len(labels) // 4, len(labels))
    probe_report(tensor[:2], labels, types=types)  # warm up
    ours, result = timed(lambda: probe_report(tensor, labels, types=types), 2, device)
    groups = group_codes(None, len(labels))
    design = Design.draw(
        encode(labels, len(labels)),
        groups,
        group_codes(types, len(labels)),
        strengths=STRENGTHS,
        folds=5,
        nulls=10,
        bootstraps=20,
        prefixes=7,
        seed=0,
    )
    sites = np.unique(np.linspace(0, len(x) - 1, peer_sites).round().astype(int))
    work = [
        (int(site), problem)
        for site in sites
        for problem in problems_of(
            design,
            result["l2"].values[site],
            int(result["chosen"][site]),
            int(result["control_chosen"][site]),
        )
    ]
    cores = cores or os.cpu_count() or 1
    # One thread a process: the loop is parallel over fits.
    with Parallel(n_jobs=cores, backend="loky") as pool:
        pool(delayed(one_fit)(x[0], work[0][1]) for _ in range(cores))
        start = time.perf_counter()
        pool(delayed(one_fit)(x[site], problem) for site, problem in work)
        theirs = (time.perf_counter() - start) * len(x) / len(sites)
    differences = []
    for site in sites:
        at_all = Problem(
            labels, np.ones(len(labels)), float(result["l2"][site, int(result["chosen"][site])])
        )
        found = one_fit(x[site], at_all)[0]
        mine = loss(
            x[site], at_all, result["coef"].values[site, 0], float(result["intercept"][site, 0])
        )
        differences.append(mine - found)
    return row("report", design.n_problems * len(x), theirs, ours, differences)


def row(name: str, count: int, theirs: float, ours: float, differences: list[float]) -> list[str]:
    """One line of the table; ours may not be the worse optimum, as far as the tolerance goes."""
    worst = max(differences)
    assert worst < 1e-4, worst
    cells = [name, f"{count:,}", f"{theirs:.2f} s", f"{ours:.2f} s", f"**{theirs / ours:.1f}×**"]
    return [*cells, f"{worst:.1e}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sites", type=int, default=96)
    parser.add_argument("--examples", type=int, default=1500)
    parser.add_argument("--dims", type=int, default=256)
    parser.add_argument("--decay", type=float, nargs="+", default=[0.0, 0.5])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peer-sites", type=int, default=8, help="sites in scikit-learn's loop")
    given = parser.parse_args()
    print(describe_machine(given.device))
    for decay in given.decay:
        print(f"\n{given.sites} × {given.examples} × {given.dims}, float32, decay {decay:g}\n")
        print(f"| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}")
        x, labels = make(given.sites, given.examples, given.dims, decay)
        print(f"| {' | '.join(plain(x, labels, given.device, given.repeats))} |", flush=True)
        before = peak()
        print(f"| {' | '.join(report(x, labels, given.device, given.peer_sites))} |", flush=True)
        print(
            f"\nfeatures {x.nbytes / 1e9:.2f} GB, peak before {before:.2f}, after {peak():.2f} GB"
        )


def peak() -> float:
    """The most memory this process has had, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


if __name__ == "__main__":
    main()
