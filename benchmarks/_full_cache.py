"""A forward pass that keeps what an instrument may read, beside one that keeps nothing.

On the other side TransformerLens' `run_with_cache`, which stores aliases of one activation twice.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch

from benchmarks._common import timed
from interp.forward.passes import observe
from interp.model.model import Model
from interp.sites import Site

HEADER = ("forward pass", "seconds", "to the plain one")
KEPT = {
    "all residual streams kept": ("resid_pre", "resid_post"),
    "streams, heads and outputs of attention and MLP kept": (
        *("resid_pre", "resid_mid", "resid_post", "z", "attn_out", "mlp_out"),
    ),
}


def rows(model: Model, n: int, length: int, repeats: int) -> Iterator[list[str]]:
    """The lines of the table, after `HEADER`."""
    device = str(model.device)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, model.d_vocab, (n, length), generator=generator).to(device)
    last = Site("resid_post", model.n_layers - 1)
    hf = model.bridge.original_model

    def plain() -> None:
        with torch.no_grad():
            hf(ids, use_cache=False, logits_to_keep=1)

    sides: dict[str, Callable[[], Any]] = {"plain, Hugging Face": plain}
    sides["last stream kept"] = lambda: observe(model, ids, [last])
    for name, kinds in KEPT.items():
        sites = [Site(*one) for one in itertools.product(kinds, range(model.n_layers))]
        sides[name] = lambda sites=sites: observe(model, ids, sites)  # type: ignore[misc]

    def peer() -> None:
        with torch.no_grad():
            model.bridge.run_with_cache(ids)

    sides["TransformerLens, run_with_cache"] = peer
    first = None
    for name, work in sides.items():
        timed(work, 1, device)  # warm up
        seconds, _ = timed(work, repeats, device)
        first = first or seconds
        yield [name, f"{seconds:.4f} s", f"{seconds / first:.2f}×"]
