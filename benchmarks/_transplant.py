"""Transplants of every layer into every layer and token: Obverse beside one hooked pass a cell.

A GPT-2 with random weights, one source prompt whose last token is read at every layer, and one
target prompt of the same length, written at every layer and token. Hooked passes are those of
Hugging Face's model with a hook in front of a block, which unembed the last token alone; of them
only some cells are run, spread evenly, their answers compared with ours, and their time scaled up.

The arithmetic floor is what no exact method can leave out, in matrix products alone: for each cell
queries, keys and values of the written token in its first block, and what attention and MLP make of
all later tokens there; the blocks above for these tokens; of the last block keys and values, and
the rest for the token that is read; and one unembedding. It is taken at the rate that a large
matrix product of this width reaches in this run.

    python -m benchmarks._transplant
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence

import numpy as np
import torch

from benchmarks._common import build, describe_machine, gpt2, matrix_rate, timed
from interp import transplant
from interp.model.model import Model

HEADER = (
    "transplant",
    "cells",
    "hooked passes",
    "Obverse",
    "to hooked passes",
    "arithmetic floor",
    "over the floor",
)
ANSWER = 7
Cell = tuple[int, int, int]


def floor_flops(model: Model, length: int) -> float:
    """Floating-point operations of all cells that no exact method can leave out."""
    d, last = model.d_model, model.n_layers - 1
    projection, mlp = 2 * d * d, 16 * d * d  # of one token: one of q, k, v, o; an MLP four wide
    total = 0.0
    for layer, position in itertools.product(range(model.n_layers), range(length)):
        suffix = length - position
        if layer < last:
            total += 3 * projection + suffix * (projection + mlp)
            total += (last - layer - 1) * suffix * (4 * projection + mlp)
            total += suffix * 2 * projection + 2 * projection + mlp
        else:
            total += (3 if suffix == 1 else 2) * projection + projection + mlp
        total += 2 * d * model.d_vocab
    return total * model.n_layers  # as many layers are read


def hooked(
    hf: torch.nn.Module, ids: torch.Tensor, read: torch.Tensor, cells: list[Cell]
) -> np.ndarray:
    """The answer's log-probability after one pass for each cell."""
    out = np.empty(len(cells))
    with torch.no_grad():
        for number, (source, target, position) in enumerate(cells):

            def put(
                _module: torch.nn.Module, args: tuple, source: int = source, at: int = position
            ) -> tuple:
                stream = args[0].clone()
                stream[0, at] = read[source]
                return (stream, *args[1:])

            handle = hf.transformer.h[target].register_forward_pre_hook(put)
            logits = hf(ids, use_cache=False, logits_to_keep=1).logits[0, -1]
            out[number] = float(logits.float().log_softmax(-1)[ANSWER])
            handle.remove()
    return out


def spread(layers: int, length: int, most: int) -> list[Cell]:
    """About `most` cells, spread evenly over all."""
    shape = (layers, layers, length)
    n = int(np.prod(shape))
    # A step that shares no factor with the grid, so that every layer and token is met.
    index = (np.arange(min(most, n)) * 0.6180339887 % 1 * n).astype(int)
    return [tuple(int(i) for i in np.unravel_index(one, shape)) for one in index]


def rows(
    layers: int = 12,
    width: int = 768,
    heads: int = 12,
    length: int = 15,
    peer_cells: int = 48,
    repeats: int = 2,
    device: str = "cpu",
) -> list[tuple[str, ...]]:
    """The lines of the table, after `HEADER`."""
    model = build(layers, device, torch.float32, width, heads)
    hf, _ = gpt2(layers, width, heads, device=device)
    generator = torch.Generator().manual_seed(0)
    source, target = (torch.randint(10, 50_000, (1, length), generator=generator) for _ in "ab")
    settings = {
        "site": "resid_pre",
        "source_at": -1,
        "target_at": None,
        "metric": "first_token_logprob",
        "answers": torch.tensor([ANSWER]),
    }
    transplant(model, source, target, **{**settings, "target_layers": [layers - 1]})  # warm up
    rate = matrix_rate(device, torch.float32, width)
    ours, result = timed(lambda: transplant(model, source, target, **settings), repeats, device)
    rate = max(rate, matrix_rate(device, torch.float32, width))
    values = result["patched"].values[0]

    read: list[torch.Tensor] = []
    hooks = [
        block.register_forward_pre_hook(lambda _module, args: read.append(args[0][0, -1].clone()))
        for block in hf.transformer.h
    ]
    with torch.no_grad():
        hf(source.to(device), use_cache=False)
    for hook in hooks:
        hook.remove()
    cells, ids = spread(layers, length, peer_cells), target.to(device)
    hooked(hf, ids, torch.stack(read), cells[:2])  # warm up
    seconds, found = timed(lambda: hooked(hf, ids, torch.stack(read), cells), 2, device)
    expected = np.array([values[cell] for cell in cells])
    error = float(np.abs(found - expected).max())
    assert error <= 1e-4 * float(np.abs(expected).max()), error
    theirs = seconds * values.size / len(cells)
    floor = floor_flops(model, length) / rate
    return [
        (
            f"{layers} × {layers} layers × {length} tokens, {width} wide",
            f"{values.size:,}",
            f"{theirs:.1f} s ({len(cells)} cells run)",
            f"{ours:.2f} s",
            f"**{theirs / ours:.1f}×**",
            f"{floor:.2f} s",
            f"{ours / floor:.2f}×",
        )
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--length", type=int, default=15)
    parser.add_argument("--peer-cells", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args(arguments)
    print(describe_machine(given.device))
    print(f"\n| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}")
    for row in rows(
        given.layers,
        given.width,
        given.heads,
        given.length,
        given.peer_cells,
        given.repeats,
        given.device,
    ):
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
