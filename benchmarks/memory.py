"""What sweeps take in memory, against what was estimated, in a process of their own.

A 24-layer, 1024-wide GPT-2 with random weights (355 million parameters), one pair of 300 tokens,
float32 on the CPU. The sweeps are cut short, but their batches are as large as in whole ones.

    python -m benchmarks.memory [--length 300] [--layers 24] [--width 1024] [--limit 6]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

import torch

from benchmarks._common import build, describe_machine, random_pair
from interp import sweep
from interp.model.memory import memory_budget, rows_that_fit

GB = 1e9


def peak() -> int:
    """The most bytes that this process has held so far."""
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def sweeps(layers: int, length: int, rows: int) -> list[tuple[str, dict[str, Any]]]:
    """Sites and options; each with at least one batch of `rows` in the later blocks."""
    late = range(layers - 4, layers)
    positions = range(0, length, max(1, 4 * length // (2 * rows)))
    return [
        ("resid_pre", {"positions": positions, "layers": late}),
        ("resid_mid", {"positions": positions, "layers": late}),
        ("z", {"layers": [layers - 2, layers - 1]}),
        ("resid_pre", {"positions": [length - 1]}),  # through all blocks
    ]


def measure(length: int, layers: int, width: int) -> dict[str, Any]:
    """Run the sweeps here and report."""
    model = build(layers, "cpu", torch.float32, width, width // 64)
    pairs = random_pair(model, length)
    loaded = peak()
    budget = memory_budget(model)
    rows = rows_that_fit(model, model.memory_per_row(length))
    found = []
    for site, options in sweeps(layers, length, rows):
        start = time.perf_counter()
        result = sweep(model, pairs, site, **options)
        seconds = time.perf_counter() - start
        found.append((site, int(result["patched"].size), seconds, peak()))
    return {
        "parameters": model.n_parameters,
        "loaded": loaded,
        "budget": budget,
        "rows": rows,
        "sweeps": found,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--length", type=int, default=300)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--limit", type=float, default=6.0, help="GB that must not be exceeded")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.length, given.layers, given.width)))
        return
    command = [sys.executable, "-m", "benchmarks.memory", "--measure"]
    for name in ("length", "layers", "width"):
        command += [f"--{name}", str(getattr(given, name))]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = json.loads(output.splitlines()[-1])
    print(describe_machine("cpu"))
    print(
        f"{given.layers} layers, {given.width} wide, {found['parameters'] / 1e6:.0f} M parameters, "
        f"{given.length} tokens; {found['loaded'] / GB:.2f} GB once loaded, "
        f"{found['budget'] / GB:.2f} GB for a batch ({found['rows']} rows), as much for recordings"
    )
    # Recordings and a batch may each take the budget.
    estimated = found["loaded"] + 2 * found["budget"]
    print("\n| sweep | cells | time | estimated at most | peak so far |\n|---|---|---|---|---|")
    for site, cells, seconds, reached in found["sweeps"]:
        print(
            f"| {site} | {cells} | {seconds:.0f} s | {estimated / GB:.2f} GB "
            f"| {reached / GB:.2f} GB |"
        )
    most = max(reached for *_, reached in found["sweeps"])
    assert most < given.limit * GB, f"{most / GB:.2f} GB"
    assert most < estimated, f"{most / GB:.2f} GB"


if __name__ == "__main__":
    main()
