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

import probes.fit
from benchmarks._common import describe_machine
from benchmarks.probes import make
from probes import fit_probes

SHAPES = ((12, 1000, 256), (4, 2000, 768), (2, 2000, 1024), (1, 3000, 1536), (1, 4000, 2048))
# More dims than these are fitted as they are.
WIDE = {"dims": 0, "eigenvectors": 1 << 30}


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
        seconds: dict[str, list[float]] = {name: [] for name in WIDE}
        for _ in range(given.rounds):
            for name, probes.fit.WIDE in WIDE.items():
                begun = time.process_time()
                fit_probes(x, labels)
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
