"""A forward pass where the C library keeps freed memory, as Obverse asks it to, and where not.

GPT-2-small shape, random weights, batches of 4 rows of 256 tokens on the CPU, each way in processes
of its own, in turns.

    python -m benchmarks.allocator [--dtype bfloat16] [--turns 3]
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time

import torch

from benchmarks._common import build, describe_machine

ROWS, LENGTH, BATCHES = 4, 256, 16
# A setting of glibc's own, of no effect, after which Obverse leaves the allocator alone.
AS_IT_IS = {"GLIBC_TUNABLES": "glibc.malloc.perturb=0"}


def measure(dtype: torch.dtype) -> None:
    """Print tokens a second and page faults of the second of two rounds."""
    model = build(12, "cpu", dtype)
    ids = torch.randint(1, 50_000, (ROWS, LENGTH))
    hf_model = model.bridge.original_model
    for _ in range(2):
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        start = time.perf_counter()
        with torch.inference_mode():
            for _ in range(BATCHES):
                hf_model.transformer(ids)
        seconds = time.perf_counter() - start
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    print(BATCHES * ids.numel() / seconds, faults)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        measure(getattr(torch, asked.dtype))
        return
    print(f"{describe_machine('cpu')}\n")
    ways: dict[str, dict[str, str]] = {"given back (glibc's default)": AS_IT_IS, "kept": {}}
    found: dict[str, list[tuple[float, int]]] = {way: [] for way in ways}
    for _ in range(asked.turns):
        for way, environment in ways.items():
            out = subprocess.run(
                [sys.executable, "-m", "benchmarks.allocator", "--measure", "--dtype", asked.dtype],
                env={**os.environ, **environment},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            rate, faults = out.stdout.split()[-2:]
            found[way].append((float(rate), int(faults)))
    first = max(rate for rate, _ in found["given back (glibc's default)"])
    print(f"| freed memory is, {asked.dtype} | tokens/s, best of {asked.turns} | pages cleared | |")
    print("|---|---|---|---|")
    for way, runs in found.items():
        rate = max(rate for rate, _ in runs)
        print(f"| {way} | {rate:,.0f} | {min(n for _, n in runs):,} | {rate / first:.2f}× |")


if __name__ == "__main__":
    main()
