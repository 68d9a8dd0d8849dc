"""What it costs to know that a model is still what it was: before each read of a store.

A store is read with the check and, in turns in the same process, with a check that returns what it
saw first. Also how long the parts take, and what a miss takes. Random weights; nothing is stored
that was not computed. Best of several turns.

    python -m benchmarks.identity [--device cpu|cuda]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from unittest.mock import patch

import torch

from benchmarks._common import build, describe_machine, timed
from cache import ActivationStore
from interp.model.digests import digest
from interp.model.identity.behaviour import answers
from interp.model.identity.contents import tensors
from interp.model.identity.structure import Structure, walk
from interp.model.model import Model

LENGTH = 32
TURNS = 10
SHAPES = {"small": (3, 64, 4), "GPT-2 small": (12, 768, 12)}


def prompts(n: int, offset: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(offset)
    return torch.randint(10, 50_000, (n, LENGTH), generator=generator)


def unchecked(model: Model) -> AbstractContextManager[object]:
    """Inside, the model is what it was when this was called."""
    seen = model.look()
    return patch.object(Model, "look", lambda _self: seen)


def in_turns(model: Model, device: str, work: Callable[[], object]) -> tuple[float, float]:
    """Best seconds with the check and without it."""
    checked, bare = [], []
    for _ in range(TURNS):
        checked.append(timed(work, 1, device)[0])
        with unchecked(model):
            bare.append(timed(work, 1, device)[0])
    return min(checked), min(bare)


def measure(name: str, model: Model, device: str, folder: Path) -> None:
    weights = tensors(walk(model.bridge)).values
    size = sum(value.numel() * value.element_size() for value in weights.values())
    structure = Structure(model.bridge)
    parts = {
        "all numbers": lambda: digest(tensors(walk(model.bridge)).values),
        "structure": lambda: structure.changes(walk(model.bridge)),
        "answers": lambda: answers(model.bridge),
        "together": model.look,
    }
    took = {part: timed(work, TURNS, device)[0] for part, work in parts.items()}
    shown = " | ".join(f"{1e3 * seconds:.1f} ms" for seconds in took.values())
    print(f"| {name}, {size / 1e6:,.0f} MB | {shown} |")
    with ActivationStore(folder / name, floor=0) as store:
        for n in (1, 64):
            rows = prompts(n)
            start = time.perf_counter()
            store.get(model, rows, "resid_post")
            missed = time.perf_counter() - start
            checked, bare = in_turns(
                model, device, lambda rows=rows: store.get(model, rows, "resid_post")
            )
            ROWS.append(
                f"| {name} | {n} | {1e3 * checked:.1f} ms | {1e3 * bare:.1f} ms | "
                f"{1e3 * (checked - bare) / n:.2f} ms | {1e3 * missed:.0f} ms | "
                f"{missed / checked:.1f}× |"
            )


ROWS: list[str] = []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    device = parser.parse_args().device
    print(f"{describe_machine(device)}\n")
    print("| model | all numbers | structure | answers | together |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, (layers, width, heads) in SHAPES.items():
            model = build(layers, device, torch.float32, width, heads)
            measure(name, model, device, Path(folder))
    print("\n| model | prompts | hit | without the check | check a prompt | miss | to a hit |")
    print("|---|---|---|---|---|---|---|")
    print("\n".join(ROWS))


if __name__ == "__main__":
    main()
