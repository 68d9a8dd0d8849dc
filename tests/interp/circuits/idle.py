"""What stands around a planted circuit: heads and MLPs with small random weights."""

from __future__ import annotations

from collections.abc import Collection

import torch

from tests.interp.circuits.canvas import Canvas

NOISE = 0.05
"""Size of what idle parts write, where circuits write 1."""
LOUD = 8.0


def add_idle_parts(canvas: Canvas, busy: Collection[str], seed: int) -> None:
    """Random weights for all parts but the busy ones.

    Idle parts read everything and write a little everywhere; the first idle head also writes much
    into the space "unread", which nobody reads. Idle heads that share the keys and values of a busy
    one get queries and outputs of their own.
    """
    generator = torch.Generator().manual_seed(seed)
    config, d_model, d_head = canvas.hf.config, canvas.d_model, canvas.d_head
    n_heads = int(config.num_attention_heads)
    constant = torch.zeros(d_model)
    constant[: 3 if canvas.balance is not None else 1] = 1.0
    unread = torch.zeros(d_model)
    unread[canvas.spaces["unread"]] = 1.0
    written, read = 1 - constant - unread, (1 - unread)[:, None]

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    loud = next(f"a0.h{head}" for head in range(n_heads) if f"a0.h{head}" not in busy)
    for layer in range(int(config.num_hidden_layers)):
        taken = {head // canvas.grouped for head in range(n_heads) if f"a{layer}.h{head}" in busy}
        for head in range(n_heads):
            name, shares = f"a{layer}.h{head}", head // canvas.grouped in taken
            if name in busy:
                continue
            query, key, value = (normal(d_model, d_head) * d_head**-0.5 * read for _ in range(3))
            writes = NOISE * written + (LOUD * unread if name == loud else 0.0)
            out = normal(d_head, d_model) * d_head**-0.5 * writes
            canvas.head(layer, head, query, *((None, None) if shares else (key, value)), out)
        if f"m{layer}" not in busy:
            n = int(config.intermediate_size if canvas.balance is None else config.n_inner)
            reads = normal(d_model, n) * read
            canvas.mlp(layer, reads, NOISE * normal(n, d_model) * n**-0.5 * written)
