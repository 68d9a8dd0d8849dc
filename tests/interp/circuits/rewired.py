"""Split forward passes in which every reader sees what a rule makes of all writers.

A writer depends only on earlier ones, so running again and again with what was written the last
time settles from the bottom up, after as many runs as writers can stand behind each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from tests.interp.circuits.split import Split, SplitRun

Written = Mapping[str, Tensor]
Rule = Callable[[str, Written], "Tensor | None"]
"""From a reader and what is written, what the reader sees besides the stream."""


def settle(
    split: Split, embedding: Tensor, rule: Rule, instead: Mapping[str, Tensor] | None = None
) -> SplitRun:
    with torch.no_grad():
        run = split.run(embedding, instead=instead)
        for _ in range(2 * split.n_layers + 1):
            added = {name: rule(name, run.written) for name in split.destinations()}
            given = {name: value for name, value in added.items() if value is not None}
            run = split.run(embedding, added=given, instead=instead)
    return run


def circuit_run(
    split: Split, embedding: Tensor, circuits: Sequence[set[tuple[str, str]]], ablated: Written
) -> Tensor:
    """Logits where a reader sees, of writers it has no edge from, what `ablated` holds.

    Args:
        embedding: [1, position, d_model].
        circuits: by row their edges; they run side by side.
    """
    rows = embedding.repeat(len(circuits), 1, 1)

    def rule(reader: str, written: Written) -> Tensor:
        seen = torch.zeros_like(rows)
        for name in split.reads(reader):
            missing = torch.tensor([(name, reader) not in edges for edges in circuits])
            seen[missing] += (ablated[name] - written[name])[missing]
        return seen

    return settle(split, rows, rule).logits
