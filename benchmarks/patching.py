"""Activation patching: Obverse, TransformerLens and nnsight in one process, equal answers checked.

A GPT-2 with random weights, one pair of prompts. Also the arithmetic floor: the floating-point
operations of the suffixes, at the rate that matrix products reach in this run. Of the others only
some cells are run where there are many, spread evenly, and their time is scaled up.

    python -m benchmarks.patching
    python -m benchmarks.patching --lengths 15 60 240 --depths 12 24 --sites resid_pre
    python -m benchmarks.patching --device cuda --dtype bfloat16 --depths 48 --width 1600 --heads 25
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks import _peers
from benchmarks._common import build, describe_machine, gpt2, matrix_rate, random_pair, timed
from interp import PromptPairs, sweep
from interp.model.model import Model

SITES = ["resid_pre", "z"]
INVOKES = 15  # cells in one trace of nnsight
HEADER = (
    "sweep",
    "tokens",
    "cells",
    "TransformerLens",
    "nnsight",
    "Obverse",
    "to TransformerLens",
    "to nnsight",
    "arithmetic floor",
    "over the floor",
)


@dataclass(frozen=True)
class Settings:
    """What the command line says."""

    device: str
    dtype: torch.dtype
    width: int
    heads: int
    repeats: int
    peer_cells: int
    only_ours: bool


def floor_flops(model: Model, length: int, site: str) -> float:
    """Floating-point operations that no exact sweep can avoid: each cell's suffix, once."""
    block = model.bridge.blocks[0].original_component
    matrices = [(name, p.numel()) for name, p in block.named_parameters() if p.ndim == 2]
    per_token = 2 * sum(n for _, n in matrices)  # attention and MLP of one block
    blocks_above = sum(model.n_layers - layer for layer in range(model.n_layers))
    if site == "resid_pre":
        return per_token * blocks_above * sum(length - p for p in range(length))
    # Heads of all positions: the MLP of their own block, and all blocks above.
    own = 2 * sum(n for name, n in matrices if "mlp" in name) * model.n_layers
    return model.n_heads * length * (per_token * (blocks_above - model.n_layers) + own)


def spread(n_layers: int, n_columns: int, most: int) -> list[tuple[int, int]]:
    """All cells (layer, column), or about `most` of them, spread evenly over both."""
    cells = [(layer, column) for layer in range(n_layers) for column in range(n_columns)]
    if len(cells) <= most:
        return cells
    return [cells[int(i)] for i in np.linspace(0, len(cells) - 1, most).round()]


def peer(
    work: Callable[[list[tuple[int, int]]], np.ndarray],
    cells: list[tuple[int, int]],
    ours: np.ndarray,
    settings: Settings,
) -> tuple[float, str]:
    """Seconds for all cells, and the same as a cell of the table; the answers must be equal."""
    seconds, found = timed(lambda: work(cells), 1, settings.device)
    expected = np.array([ours[cell] for cell in cells])
    error, scale = float(np.abs(found - expected).max()), float(np.abs(expected).max())
    assert error <= (1e-4 if settings.dtype == torch.float32 else 0.1) * scale, (error, scale)
    total = seconds * ours.size / len(cells)
    return total, f"{total:.2f} s" + ("" if len(cells) == ours.size else f" ({len(cells)} cells)")


def row(model: Model, nnsight: object, length: int, site: str, settings: Settings) -> list[str]:
    """One line of the table, after `HEADER`."""
    pairs = random_pair(model, length)
    sweep(model, pairs, site, layers=[model.n_layers - 1])  # warm up
    rate = matrix_rate(settings.device, settings.dtype, model.d_model)
    ours, result = timed(lambda: sweep(model, pairs, site), settings.repeats, settings.device)
    grid = result["patched"].values[0]
    floor = floor_flops(model, length, site) / rate
    sides = ["", "", "", ""]
    if not settings.only_ours:
        sides[:2] = transformer_lens(model, pairs, site, grid, ours, settings)
        if nnsight is not None and site == "resid_pre":
            sides[2:] = by_nnsight(nnsight, pairs, grid, ours, settings)
    kind = "streams" if site == "resid_pre" else "heads, all positions"
    shape = f"{model.n_layers} × {grid.shape[1]}"
    cells = [kind, str(length), shape, sides[0], sides[2], f"{ours:.2f} s", sides[1], sides[3]]
    return [*cells, f"{floor:.2f} s", f"{ours / floor:.2f}×"]


def transformer_lens(
    model: Model,
    pairs: PromptPairs,
    site: str,
    grid: np.ndarray,
    ours: float,
    settings: Settings,
) -> tuple[str, str]:
    """TransformerLens' time and the ratio to ours."""
    cells = spread(*grid.shape, settings.peer_cells)
    _peers.transformer_lens(model, pairs, site, cells[:1])  # warm up

    def work(chosen: list[tuple[int, int]]) -> np.ndarray:
        return _peers.transformer_lens(model, pairs, site, chosen)

    total, text = peer(work, cells, grid, settings)
    return text, f"**{total / ours:.1f}×**"


def by_nnsight(
    wrapped: object, pairs: PromptPairs, grid: np.ndarray, ours: float, settings: Settings
) -> tuple[str, str]:
    """nnsight's time and the ratio to ours."""
    # Whole traces, of `INVOKES` cells in one layer, from layers spread evenly.
    traces = max(1, settings.peer_cells // INVOKES)
    starts = spread(grid.shape[0], -(-grid.shape[1] // INVOKES), traces)
    cells = [
        (layer, position)
        for layer, number in starts
        for position in range(number * INVOKES, min((number + 1) * INVOKES, grid.shape[1]))
    ]
    _peers.nnsight_residual(wrapped, pairs, cells[:1], INVOKES)  # warm up

    def work(chosen: list[tuple[int, int]]) -> np.ndarray:
        return _peers.nnsight_residual(wrapped, pairs, chosen, INVOKES)

    total, text = peer(work, cells, grid, settings)
    return text, f"**{total / ours:.1f}×**"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[15])
    parser.add_argument("--depths", type=int, nargs="+", default=[12])
    parser.add_argument(
        "--sites", nargs="+", default=["resid_pre", "z"], choices=["resid_pre", "z"]
    )
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peer-cells", type=int, default=180, help="cells run by the others")
    parser.add_argument("--only-ours", action="store_true")
    given = parser.parse_args()
    settings = Settings(
        given.device,
        getattr(torch, given.dtype),
        given.width,
        given.heads,
        given.repeats,
        given.peer_cells,
        given.only_ours,
    )
    print(describe_machine(settings.device))
    rate = matrix_rate(settings.device, settings.dtype, settings.width)
    print(f"{settings.dtype}, {settings.width} wide, matrix rate {rate / 1e9:.0f} GFLOP/s")
    if not _peers.HAS_NNSIGHT:
        print("nnsight is not installed; its columns stay empty")
    print(f"\n| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}")
    for layers in given.depths:
        model = build(layers, settings.device, settings.dtype, settings.width, settings.heads)
        wrapped = None
        if _peers.HAS_NNSIGHT and not settings.only_ours:
            shape = (layers, settings.width, settings.heads)
            wrapped = _peers.nnsight(*gpt2(*shape, device=settings.device, dtype=settings.dtype))
        for length in given.lengths:
            for site in given.sites:
                cells = row(model, wrapped, length, site, settings)
                print(f"| {' | '.join(cells)} |", flush=True)
        del model, wrapped
        gc.collect()


if __name__ == "__main__":
    main()
