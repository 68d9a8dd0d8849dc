"""One logistic fit a site, in the features' own dims and in their eigenvectors, in one process.

`fit_probes` chooses by the number of dims; this shows what it chooses between. Seconds are those of
the processor, on one thread, so that other work on the machine counts little.

    python -m benchmarks.single_fit
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from benchmarks._common import describe_machine
from benchmarks.probes import make
from probes.fitting import Basis, Problems, Workspace, factored, plain, rotated, solve

TOL = 1e-4
SHAPES = ((12, 1000, 256), (4, 2000, 768), (2, 2000, 1024), (1, 3000, 1536), (1, 4000, 2048))


def in_eigenvectors(x: torch.Tensor, problem: Problems, work: Workspace) -> torch.Tensor:
    basis = rotated(x)
    return coefficients(basis, solve(basis, problem, tol=TOL, workspace=work).weights)


def in_dims(x: torch.Tensor, problem: Problems, work: Workspace) -> torch.Tensor:
    """As `fit_probes` does it: some steps, then a Cholesky factor where these do not promise."""
    basis, few = plain(x, work), max(5, x.shape[2] // 10)
    found = solve(basis, problem, tol=TOL, max_iter=few, trial=(8, 50 * TOL), workspace=work)
    if bool((found.gradient > TOL).any()):
        basis = factored(basis, 1.0, 0.25)
        found = solve(basis, problem, tol=TOL, start=found.weights, workspace=work)
    return coefficients(basis, found.weights)


def coefficients(basis: Basis, weights: torch.Tensor) -> torch.Tensor:
    return basis.coefficients(weights[:, 0])[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(describe_machine("cpu"))
    print("| sites × examples × dims | variances fall as | dims, s | eigenvectors, s | ratio |")
    print("|---|---|---|---|---|")
    for (sites, n, dim), decay in ((shape, decay) for shape in SHAPES for decay in (0.5, 1.0)):
        features, labels = make(sites, n, dim, decay)
        x = torch.from_numpy(features)
        problem = Problems(torch.as_tensor(labels)[None], x.new_ones(1, n), x.new_tensor([1.0]), 2)
        seconds: dict[str, list[float]] = {"dims": [], "eigenvectors": []}
        for _ in range(given.rounds):
            for name, fit in (("dims", in_dims), ("eigenvectors", in_eigenvectors)):
                begun = time.process_time()
                fit(x, problem, Workspace())
                seconds[name].append(time.process_time() - begun)
        ratios = [b / a for a, b in zip(seconds["dims"], seconds["eigenvectors"], strict=True)]
        dims, vectors = (statistics.median(seconds[name]) for name in seconds)
        print(
            f"| {sites} × {n:,} × {dim:,} | rank^−{2 * decay:g} | {dims:.3f} | {vectors:.3f} "
            f"| {statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f}) |",
            flush=True,
        )


if __name__ == "__main__":
    main()
